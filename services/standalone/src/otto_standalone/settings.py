"""Settings of standalone. Those of the three services hold too; only where their state lies is decided here."""

import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta


class Settings(msgspec.Struct, frozen=True):
    """What standalone adds to the services' settings. Prefix OTTO_STANDALONE."""

    state_dir: Annotated[
        str,
        Meta(
            description="Directory for everything that outlives the process: workers, workspaces, runs, logs. "
            "Empty: `$XDG_STATE_HOME/ottoscaler`, by default `~/.local/state/ottoscaler`. One instance per directory."
        ),
    ] = ""


def state_dir(settings: Settings) -> Path:
    """The state directory that the settings and the XDG base directory specification name; absolute."""
    if settings.state_dir:
        return Path(settings.state_dir).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser().absolute() / "ottoscaler"
