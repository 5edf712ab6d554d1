"""Run by a pod: of the hosts and ports that it is given, it prints those that take a connection."""

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

PATIENCE_SECONDS = 15


def gets_in(target: str) -> bool:
    """Whether somebody answers there."""
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), PATIENCE_SECONDS).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    targets = sys.argv[1:]
    with ThreadPoolExecutor(len(targets)) as pool:
        print(json.dumps([target for target, did in zip(targets, pool.map(gets_in, targets), strict=True) if did]))
