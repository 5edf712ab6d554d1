"""Services die on a real cluster while pipelines run: nobody notices but the log."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import pytest

from ..patient_clients import Clients, approve_when_asked, check, everything, requests_for
from ..quick import QUICK
from .control_plane import ControlPlane
from .installation import COMPONENTS, Installation
from .load import Load
from .pod_watch import watching_pods

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(1800)]

PIPELINES, ROUNDS = (10, 1) if QUICK else (50, 2)
"""At least so many pipelines; in each round every service is hit once in each way."""
LARGER = slice(2, None, 4) if QUICK else slice(None)
"""Which of the larger ones: quick, the one with an approval and that of 30 stages."""
Fault = Callable[[Installation, str], Awaitable[bool]]


async def kill_process(installation: Installation, component: str) -> bool:
    """`kill -9` of the process in the pod: its container is started again in the same pod. False if there was none just then."""
    pods = await asyncio.to_thread(installation.pods, component)
    return any([await asyncio.to_thread(installation.kill, pod["metadata"]["name"]) for pod in pods])


async def delete_pod(installation: Installation, component: str) -> bool:
    """The pod goes at once, and another one comes."""
    gone = ("--grace-period=0", "--force", "--wait=false")
    return "deleted" in await installation.kubectl_soon("delete", "pod", "--selector", f"app.kubernetes.io/component={component}", *gone)


def faults(draw: random.Random) -> Iterator[tuple[Fault, str]]:
    """Rounds of all, each in an order of its own."""
    while True:
        every = list(itertools.product((kill_process, delete_pod), COMPONENTS))
        yield from draw.sample(every, len(every))


async def test_services_die_while_pipelines_run(installation: Installation, plane: ControlPlane) -> None:
    """Each service is killed and its pod deleted at seeded moments: all end as they would have, no pod twice, no line lost or doubled.

    They are the six shared ones, one of which asks for an approval, one of 30 stages, and small ones, several at a time.
    """
    draw = random.Random("moments")
    clients, load = Clients(installation), Load(Clients(installation), "faults")
    larger = requests_for(2, ":")[LARGER]
    for request in larger:
        request.pipeline_id += "-faults"
    hits: Counter[tuple[Fault, str]] = Counter()
    enough = ROUNDS * 2 * len(COMPONENTS)
    async with asyncio.timeout(1500), watching_pods(installation) as pods, asyncio.TaskGroup() as group:
        await load.calm()
        turns = itertools.takewhile(lambda turn: turn < PIPELINES - len(larger) or hits.total() < enough, itertools.count())
        approving = group.create_task(approve_when_asked(clients, "3-monorepo-approval-faults"), name="approve")
        all_of_them = [group.create_task(load.run(turns)), running := group.create_task(everything(clients, larger))]
        for fault, component in faults(draw):
            while not (hit := await fault(installation, component)):
                await asyncio.sleep(0.2)
            hits[fault, component] += hit
            await asyncio.wait(all_of_them, timeout=draw.uniform(0.5, 8))
            if all(task.done() for task in all_of_them):
                break
        approving.cancel()
        await installation.serves()
    assert len(hits) == 2 * len(COMPONENTS)
    assert min(hits.values()) >= ROUNDS
    check(larger, running.result())
    load.check(pods)
