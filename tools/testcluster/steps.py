"""Doing one thing after another: each is told with the time it took, and one that fails says what went wrong and what can be done."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

TOLD_LINES = 25  # of a failed command's output: enough for its reason, few enough to be read


class ClusterError(Exception):
    """Something can't be done; the text says what, why, and what a person can do about it."""


@contextlib.contextmanager
def step(words: str) -> Iterator[None]:
    """Tell on stderr what is being done and, when it is, in how many seconds."""
    began = time.monotonic()
    print(f"{words} …", end="", file=sys.stderr, flush=True)
    try:
        yield
    except BaseException:
        print(" failed", file=sys.stderr, flush=True)
        raise
    print(f" {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    text: str | None = None,
    timeout: float | None = None,
) -> str:
    """What a command printed on stdout; `env` is added to this process's own, `text` is its stdin.

    Raises:
        ClusterError: It is not here, did not end within `timeout` seconds, or failed; with the end of what it printed.
    """
    said = " ".join(str(word) for word in command[:6]) + (" …" if len(command) > 6 else "")
    try:
        done = subprocess.run(
            list(map(str, command)),
            env={**os.environ, **(env or {})},
            cwd=cwd,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise ClusterError(f"{error.filename} is not here") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{said}: did not end within {timeout:.0f} s") from error
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-TOLD_LINES:])
        raise ClusterError(f"{said}: exit code {done.returncode}\n{tail}")
    return done.stdout
