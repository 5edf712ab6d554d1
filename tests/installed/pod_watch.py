"""What the API server itself says of a release, beside the services: which pods workers had, who held the Leases."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from .installation import Installation

IDENTITY = ("pipeline-id", "stage-id", "attempt", "index")
"""What annotations say of a pod: which worker of which pipeline it is."""
SEPARATOR = "|"
"""Of columns; kubectl makes spaces of tabs when it watches."""


class PodWatch:
    """Every pod that was ever seen, by the worker that it is: pipeline|stage|attempt|index, or its name outside of pipelines."""

    def __init__(self) -> None:
        self.uids: defaultdict[str, set[str]] = defaultdict(set)

    def created_twice(self) -> set[str]:
        """Workers that had more than one pod."""
        return {worker for worker, uids in self.uids.items() if len(uids) > 1}


@asynccontextmanager
async def watching_pods(installation: Installation) -> AsyncIterator[PodWatch]:
    """Watches until left; a watch that breaks is begun again, and pods stay for longer than that takes, whatever is away meanwhile."""
    watch = PodWatch()

    def seen(uid: str, name: str, *identity: str) -> None:
        watch.uids["|".join(identity) if identity[0] else name].add(uid)

    columns = ["{.metadata.uid}", "{.metadata.name}", *(rf"{{.metadata.annotations.ottoscaler\.io/{name}}}" for name in IDENTITY)]
    async with _watching(installation, "pods", columns, seen, "--selector", "app.kubernetes.io/component=worker"):
        yield watch
        assert watch.uids, "the watch has told nothing"
    for pod in await asyncio.to_thread(installation.pods, "worker"):  # those that the watch may not have told yet
        meta = pod["metadata"]
        seen(meta["uid"], meta["name"], *(meta["annotations"].get(f"ottoscaler.io/{name}", "") for name in IDENTITY))


@dataclass(frozen=True)
class Holding:
    """That somebody holds a Lease, or nobody ("")."""

    lease: str
    holder: str
    since: datetime
    """By the clock of whoever wrote it."""


class LeaseWatch:
    """Who has held the Leases, one after another."""

    def __init__(self) -> None:
        self.holdings: list[Holding] = []

    def holder(self, component: str) -> str:
        """Who holds that of a component now."""
        return next((one.holder for one in reversed(self.holdings) if one.lease.endswith(component)), "")

    def handovers(self) -> list[tuple[Holding, Holding]]:
        """Each Lease that was given back, and who took it then."""
        found = []
        for lease in {one.lease for one in self.holdings}:
            held = [one for one in self.holdings if one.lease == lease]
            found += [(one, after) for one, after in pairwise(held) if not one.holder]
        return found


@asynccontextmanager
async def watching_leases(installation: Installation) -> AsyncIterator[LeaseWatch]:
    """Watches until left."""
    watch = LeaseWatch()

    def seen(lease: str, holder: str, acquired: str) -> None:
        if watch.holder(lease) != holder or not any(one.lease == lease for one in watch.holdings):
            watch.holdings.append(Holding(lease, holder, datetime.fromisoformat(acquired)))

    columns = ["{.metadata.name}", "{.spec.holderIdentity}", "{.spec.acquireTime}"]
    async with _watching(installation, "leases", columns, seen):
        yield watch


@asynccontextmanager
async def _watching(
    installation: Installation, kind: str, columns: list[str], seen: Callable[..., None], *arguments: str
) -> AsyncIterator[None]:
    task = asyncio.create_task(_follow(installation, [kind, *arguments], columns, seen), name=f"watch {kind}")
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _follow(installation: Installation, what: list[str], columns: list[str], seen: Callable[..., None]) -> None:
    """Tells every state of every object that there is or comes, until cancelled."""
    shown = "jsonpath=" + SEPARATOR.join(columns) + "{'\\n'}"
    arguments = ("--namespace", installation.namespace, "get", *what, "--watch", "--output", shown)
    while True:
        process = await asyncio.create_subprocess_exec(
            "kubectl", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                if line.endswith(b"\n"):  # the last one may be cut off
                    seen(*line.decode().rstrip("\n").split(SEPARATOR))
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        await asyncio.sleep(0.5)
