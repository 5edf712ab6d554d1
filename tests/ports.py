"""Ports of loopback for tests."""

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """A port that nobody listens on, and none that the kernel gives to others meanwhile: those begin at 32768."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
