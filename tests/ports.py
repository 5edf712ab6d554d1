"""Ports of loopback for tests."""

import os
import random
import socket
from contextlib import suppress

HOST = os.environ.get("TEST_HOST", "127.0.0.1")
"""Where services listen: another one in a world without IPv4. An IPv6 address has its brackets."""
BARE_HOST = HOST.strip("[]")


def free_port() -> int:
    """A port that nobody listens on, and none that the kernel gives to others meanwhile: those begin at 32768."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket(socket.AF_INET6 if ":" in HOST else socket.AF_INET) as probe, suppress(OSError):
            probe.bind((BARE_HOST, port))
            return port
