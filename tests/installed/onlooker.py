"""Somebody who watches a pipeline by ottoctl, through the front door, whatever happens to what is behind it."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.stage_pb2 import PipelineStage

from ..ottoctl_beside import Ottoctl, ended, running
from ..patient_clients import LINES, Clients, script
from .installation import Installation

WORKERS = 2
COUNTING = 'i=0; while [ ! -e /tmp/gate ]; do i=$((i+1)); echo "line $i"; sleep 0.2; done; echo "lines: $i"'
PATIENCE = 300
"""Seconds that ottoctl tries to reach a service that is away: longer than a slow machine takes to have everything back."""


class Onlooker:
    """One that watches a pipeline which goes on until it is let end."""

    def __init__(self, installation: Installation, pipeline_id: str, program: Ottoctl) -> None:
        self._installation = installation
        self._program = program
        self.pipeline_id = pipeline_id

    def lost(self) -> int:
        """How often it has lost the connection so far."""
        return sum("lost the connection" in line for line in self._program.told)

    async def loses_and_goes_on(self, before: int) -> None:
        """Waits until it has lost the connection more than `before` times, and has shown something since: it is attached again."""
        async with asyncio.timeout(PATIENCE):
            while self.lost() <= before:
                await asyncio.sleep(0.1)
            shown = len(self._program.out)
            while len(self._program.out) == shown:
                await asyncio.sleep(0.1)

    async def sees_the_end(self) -> None:
        """Lets the pipeline end: all of its messages and lines were shown, each once, and ottoctl ends with its exit code."""
        workers = (await asyncio.to_thread(self._installation.workers))[self.pipeline_id]
        assert len(workers) == WORKERS
        for worker in workers:
            await self._installation.open_gate(worker)
        code = await ended(self._program, PATIENCE)
        assert code == 0, self._program.told
        shown = [json.loads(line) for line in self._program.out]
        stored = [sequence for one in shown if "progress" in one and (sequence := int(one["progress"]["sequence"]))]
        assert stored == list(range(1, len(stored) + 1))
        lines: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for entry in (one["line"] for one in shown if "line" in one):
            lines[entry["stage_id"], entry["entry"]["worker_id"]].append(entry["entry"]["message"])
        assert sorted(stage_id for stage_id, _ in lines) == ["after", *["gated"] * WORKERS], {key: len(said) for key, said in lines.items()}
        for (stage_id, _), said in lines.items():
            count = len(said) - (stage_id == "gated")
            last = [f"lines: {count}"] if stage_id == "gated" else []
            wanted = [*(f"line {number}" for number in range(1, count + 1)), *last]
            assert said == wanted, (stage_id, count, [line for line in wanted if line not in said], said[-1])
            assert count >= LINES


@asynccontextmanager
async def attached(installation: Installation, name: str) -> AsyncIterator[Onlooker]:
    """Somebody who watches a pipeline of this name, with its lines; there once it has shown some."""
    config = {"otto.workspace": "own"}
    stages = [
        PipelineStage(stage_id="gated", worker_count=WORKERS, command=["sh", "-c"], args=[COUNTING], config=config),
        PipelineStage(stage_id="after", depends_on=["gated"], command=["sh", "-c"], args=script(":", "exit 0"), config=config),
    ]
    await Clients(installation).submit(PipelineRequest(pipeline_id=name, stages=stages))
    options = ("--patience", str(PATIENCE), "--output", "json")
    async with running(installation.address, *options, "pipeline", "watch", name, "--logs") as program:
        await program.says('"message": "line 3"', count=WORKERS)
        yield Onlooker(installation, name, program)
