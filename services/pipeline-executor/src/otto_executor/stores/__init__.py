"""The memory of runs: what must survive a crash, behind one Protocol that a database file and a cluster's objects can both fulfil.

A run's whole state is saved at once, with the messages it adds, and only if nobody else saved it meanwhile (`version`), which is how
a custom resource is saved too. Implementations live beside this file; `otto_executor.testing` has one in memory that passes the same tests.
"""

from otto_executor.stores.protocol import (
    Arrival,
    Departure,
    Key,
    Left,
    News,
    Outside,
    Remains,
    RunStore,
    StoredRun,
    Summary,
    Workspace,
    summary,
)

__all__ = [
    "Arrival",
    "Departure",
    "Key",
    "Left",
    "News",
    "Outside",
    "Remains",
    "RunStore",
    "StoredRun",
    "Summary",
    "Workspace",
    "summary",
]
