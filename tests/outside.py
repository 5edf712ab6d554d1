"""The network of this machine, from where packages can be fetched: tests are in that of a test cluster of our own."""

import os
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[1] / "tools"
BUILD_SECONDS = 1200
_OUTSIDE = os.environ.get("OTTO_OUTSIDE", "")
THERE = ["nsenter", f"--net={_OUTSIDE}", "--"] if _OUTSIDE else []
"""Goes before a command that is to run there."""


def built(what: str) -> Path:
    """Where a program for clusters is that `python -m testcluster` builds; takes minutes when it is not there yet.

    Raises subprocess.CalledProcessError when it can't be built; why is on stderr.
    """
    command = [*THERE, sys.executable, "-m", "testcluster", what]
    done = subprocess.run(command, cwd=TOOLS, stdout=subprocess.PIPE, text=True, timeout=BUILD_SECONDS, check=True)
    return Path(done.stdout.strip())
