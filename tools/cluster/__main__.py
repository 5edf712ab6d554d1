"""The commands; `make help` shows those for people."""

import argparse
import sys
from pathlib import Path

from cluster import clients


def main() -> int:
    """Run one command; what a person can do about a failure is on stderr."""
    parser = argparse.ArgumentParser(prog="cluster")
    commands = parser.add_subparsers(dest="command", required=True)
    into = commands.add_parser("clients", help="put kubectl and helm into a directory")
    into.add_argument("directory", type=Path)
    given = parser.parse_args()
    try:
        clients.install(given.directory)
    except clients.NoClientsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
