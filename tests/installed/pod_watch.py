"""What the API server itself says of the workers' pods, beside the services."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .installation import Installation

SELECTOR = "app.kubernetes.io/component=worker"


class PodWatch:
    """Every pod that was ever seen: a name with more than one uid was created twice."""

    def __init__(self) -> None:
        self.uids: defaultdict[str, set[str]] = defaultdict(set)

    def created_twice(self) -> set[str]:
        """Names under which there was more than one pod."""
        return {name for name, uids in self.uids.items() if len(uids) > 1}


@asynccontextmanager
async def watching_pods(installation: Installation) -> AsyncIterator[PodWatch]:
    """Watches by kubectl until left; a watch that breaks is begun again, and pods stay for longer than that takes."""
    watch = PodWatch()
    task = asyncio.create_task(_follow(installation, watch), name="watch pods")
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _follow(installation: Installation, watch: PodWatch) -> None:
    columns = "jsonpath={.metadata.name} {.metadata.uid}{'\\n'}"
    arguments = ("--namespace", installation.namespace, "get", "pods", "--selector", SELECTOR, "--watch", "--output", columns)
    while True:
        process = await asyncio.create_subprocess_exec(
            "kubectl", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                name, uid = line.decode().split()
                watch.uids[name].add(uid)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        await asyncio.sleep(0.5)
