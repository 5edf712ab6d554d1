"""What becomes of a request to the fleet."""

from dataclasses import dataclass
from typing import NamedTuple

from otto_scaler.worker import Cause, Worker


class Refusal(NamedTuple):
    """A worker that the backend did not create; `why` is for clients."""

    name: str
    why: str
    cause: Cause
    away: bool = False
    """Nothing is wrong with it: asked for again later, it may be created."""


@dataclass(slots=True)
class Creation:
    """What became of a request for workers; names in the order of the request."""

    existing: list[Worker]
    created: list[str]
    """Those that this request created, and no other that asked for them at the same time."""
    refused: list[Refusal]
    no_room: list[str]


class Stops(NamedTuple):
    """What became of a request to stop workers."""

    stopping: list[Worker]
    failed: list[Worker]
    """Those that could not be told; asking again tries again."""
