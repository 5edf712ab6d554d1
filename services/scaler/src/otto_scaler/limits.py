"""The numbers that bound a fleet."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Times are in seconds. Their defaults and reasons stand in settings."""

    max_workers: int
    max_queued: int
    finished_ttl: float
    unreleased_limit: float
    watch_backlog: int
    peer_grace: float = 60.0
    ready_timeout: float = 10.0
    """How long a call waits for the workers to be known, or for a created one to be observed."""
