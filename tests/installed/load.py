"""Small pipelines one after another, several at a time, while something is done to what runs them."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from ottoscaler.v1.pipeline_pb2 import PipelineRequest

from ..patient_clients import Account, Clients, check, drawn, must_have_run
from .pod_watch import PodWatch

TEMPLATES = 6
"""Pipelines that differ; they are begun in turns."""
AT_ONCE = 6
BEGIN_SECONDS = 240
"""At most, until as many have begun as are waited for: services may be away meanwhile."""


class Load:
    """What was begun, and what became of it.

    The first of each template are to be run before there is any trouble (`calm`): the others have to end as they did.
    """

    def __init__(self, clients: Clients, name: str) -> None:
        """`name` begins their ids, which nobody else may use."""
        self._clients = clients
        self._name = name
        self.requests: list[PipelineRequest] = []
        self._accounts: dict[str, Account] = {}

    async def run(self, turns: Iterable[object]) -> None:
        """One for each of the turns, to their ends."""
        left = iter(turns)

        async def one_after_another() -> None:
            for _ in left:
                number = len(self.requests)
                template = number % TEMPLATES + 1  # of 0 no worker runs
                request = drawn(random.Random(f"template {template}"), ":", f"{self._name}-{number}", 1 + template % 3)
                for stage in request.stages:
                    stage.config["otto.workspace"] = "own"  # a claim each would cost most of the time
                self.requests.append(request)
                self._accounts[request.pipeline_id] = await self._clients.run(request)

        async with asyncio.TaskGroup() as group:
            for number in range(AT_ONCE):
                group.create_task(one_after_another(), name=f"load {number}")

    async def calm(self) -> None:
        """One of each template."""
        await self.run(range(TEMPLATES))

    @asynccontextmanager
    async def going(self) -> AsyncIterator[None]:
        """Goes on until left; then what was begun is run to its end."""
        over = asyncio.Event()
        task = asyncio.create_task(self.run(iter(over.is_set, True)), name="load")
        try:
            await self.begun(AT_ONCE + 2)
            yield
            over.set()
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def begun(self, more: int) -> None:
        """Waits until so many more have begun."""
        wanted = len(self.requests) + more
        async with asyncio.timeout(BEGIN_SECONDS):
            while len(self.requests) < wanted:
                await asyncio.sleep(0.05)

    def check(self, pods: PodWatch) -> None:
        """Each ended as the first of its template; no line or message is lost or doubled; the workers are those there had to be, each once.

        `pods` was watching all the time.
        """
        possible = check(self.requests, self._accounts)
        for number, request in enumerate(self.requests):
            calm = self._accounts[self.requests[number % TEMPLATES].pipeline_id]
            assert self._accounts[request.pipeline_id].outcome() == calm.outcome(), request.pipeline_id
        seen = {worker for worker in pods.uids if worker.partition("|")[0] in self._accounts}
        assert must_have_run(self.requests, self._accounts) <= seen <= possible
        assert not pods.created_twice()
