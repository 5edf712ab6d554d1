"""What the checks look at and what they find."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc.aio

from ottoctl.cluster.place import Place
from ottoctl.doctor.processes import Process

if TYPE_CHECKING:
    from ottoctl.cluster.connection import Cluster
    from ottoctl.cluster.release import Release


class Level(enum.StrEnum):
    """How bad a finding is. Only FAIL makes the exit code 1."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check has to say; `remedy` is empty where all is well."""

    level: Level
    words: str
    remedy: str = ""


def ok(words: str) -> Finding:
    """All is well here."""
    return Finding(Level.OK, words)


def warn(words: str, remedy: str) -> Finding:
    """It works, but somebody should know."""
    return Finding(Level.WARN, words, remedy)


def fail(words: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(Level.FAIL, words, remedy)


@dataclass(slots=True)
class Case:
    """One address, and what earlier checks have learnt about it for later ones."""

    address: str
    environ: Mapping[str, str]
    channel: grpc.aio.Channel
    host: str = ""
    port: int = 0
    local: bool = False
    """The address is one of this machine's loopback."""
    speaks: bool = False
    """HTTP/2 without TLS is spoken there, as gRPC does."""
    serves: bool = False
    """Ottoscaler's services answer there."""
    instance: Process | None = None
    """The process of ours that listens at the port, where that can be seen."""
    place: Place | None = None
    """The release that is asked for; None: Ottoscaler is a process of this or another machine."""
    cluster: "Cluster | None" = None
    """Where it is looked for; None also if there is no usable kubeconfig."""
    release: "Release | None" = None
    """The one that was found."""
    way_in: str = ""
    """The command that brings the release's front door to this machine."""
    named: bool = True
    """Somebody has said that this address is to be asked; otherwise it is the usual one, where nobody need be."""
    facts: dict[str, object] = field(default_factory=dict)
    """Figures for programs, by name."""
