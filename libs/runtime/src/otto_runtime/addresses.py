"""Network addresses as people write them: HOST:PORT."""

import re
import socket
from contextlib import suppress
from typing import NamedTuple

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%[^\]]+)?\]|[^:\[\]\s/]+):(?P<port>[0-9]{1,5})")
_EVERY_INTERFACE = frozenset({"0.0.0.0", "[::]"})  # noqa: S104 - recognised here, never the default


class Address(NamedTuple):
    """Where to listen. `host` has brackets where it is an IPv6 address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def bare_host(self) -> str:
        """The host as sockets want it, without brackets."""
        return self.host.strip("[]")

    @property
    def everywhere(self) -> bool:
        """Whether it stands for all addresses of the machine."""
        return self.host in _EVERY_INTERFACE

    def dialable(self, port: int) -> str:
        """The address that a client on this machine can dial when this one is listened on at `port`."""
        return f"{_loopback(self.host) if self.everywhere else self.host}:{port}"


def _loopback(everywhere: str) -> str:
    """Which of the loopback's addresses to dial: whoever listens on IPv6 may have the one or the other only."""
    if everywhere == "[::]":
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", 0))
            return "127.0.0.1"
        return "[::1]"
    return "127.0.0.1"


def parse(text: str) -> Address:
    """Reads HOST:PORT. Raises ValueError with words for the user; gRPC itself would take `127.0.0.1` as port 443 and `:-1` as 65535.

    Brackets are allowed around an IPv4 address too, for who writes `[$(POD_IP)]:9090` and can't know of which kind that is.
    """
    found = _ADDRESS.fullmatch(text.strip())
    if found is None or int(found["port"]) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT with a port up to 65535, like 127.0.0.1:9090 or [::1]:9090 (port 0 takes a free one)")
    host = found["host"]
    return Address(host if ":" in host else host.strip("[]"), int(found["port"]))
