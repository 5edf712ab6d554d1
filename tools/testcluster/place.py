"""Where a checkout's cluster is: every name and path that belongs to it comes from here."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
LONGEST_SOCKET = 107  # bytes that Linux allows for the path of a Unix socket


@dataclass(frozen=True)
class Place:
    """What is one cluster's own. `name` names its network namespace, its control group, its Kind cluster and the directory `state`."""

    name: str
    state: Path

    @property
    def engine(self) -> Path:
        """All that the Docker engine made here keeps on disk."""
        return self.state / "engine"

    @property
    def socket(self) -> Path:
        """Where that engine listens."""
        return self.state / "docker.sock"

    @property
    def namespace(self) -> Path:
        """The network namespace of the engine and of everything that talks to the cluster."""
        return Path("/run/netns") / self.name

    @property
    def kubeconfig(self) -> Path:
        """The administrator's way into the cluster."""
        return self.state / "kubeconfig"


def of_this_checkout() -> Place:
    """The place of the checkout that this file lies in; two checkouts, or one with two state directories, have two."""
    root = _base("XDG_STATE_HOME", ".local/state") / "ottoscaler-cluster"
    name = "otto-" + hashlib.sha256(f"{root}\0{CHECKOUT}".encode()).hexdigest()[:8]
    return Place(name, root / name)


def cache() -> Path:
    """Where what takes long to make is kept for all checkouts."""
    return _base("XDG_CACHE_HOME", ".cache") / "ottoscaler-cluster"


def _base(variable: str, otherwise: str) -> Path:
    """A directory of the XDG specification: the variable counts only if it holds an absolute path."""
    given = os.environ.get(variable, "")
    return Path(given) if given.startswith("/") else Path.home() / otherwise
