"""Settings of services as they are in effect: what they were given, and defaults for the rest."""

from collections.abc import Mapping
from typing import Any

from ottoctl.bundle.masking import Masker, is_sensitive
from ottoctl.doctor.machine import OWN_VARIABLES, settings


def effective(environ: Mapping[str, str], masker: Masker) -> dict[str, Any]:
    """By variable: value and whether it was given. What is given and is no setting has its name only, its value is masked everywhere, but
    not ottoctl's own: the address that it was given stands in most of what is told.
    """
    known = settings()
    given = {name: masker.learn(value, name) if is_sensitive(name) else value for name, value in environ.items() if name in known}
    for name, value in environ.items():
        if OWN_VARIABLES.fullmatch(name) and not is_sensitive(name):
            masker.learn_from(value)
        elif name not in known and name.startswith("OTTO_"):
            masker.learn(value, name)
    return {
        "given": given,
        "defaults": {name: default for name, default in known.items() if name not in environ},
        "not settings": sorted(name for name in environ if name.startswith("OTTO_") and name not in known),
    }
