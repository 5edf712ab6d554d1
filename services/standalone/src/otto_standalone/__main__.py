"""`ottoscaler-standalone`: reads the environment and runs the three services until SIGTERM or SIGINT."""

import argparse

from otto_runtime.launch import main as launch
from otto_standalone.app import KINDS, compose


def main() -> int:
    """Runs standalone; returns the exit code (0 stopped, 1 could not start or failed, 2 bad settings or usage)."""
    parser = argparse.ArgumentParser(
        prog="ottoscaler-standalone",
        description="Runs Ottoscaler's three services in one process, workers being local processes. "
        "Everything is set by OTTO_* environment variables; the README lists them.",
    )
    parser.parse_args()
    return launch("ottoscaler-standalone", KINDS, compose)


if __name__ == "__main__":
    raise SystemExit(main())
