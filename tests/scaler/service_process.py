"""A scaler's backend in a process of its own, to be killed: creates the workers it is told, says so, and waits."""

import asyncio
import sys
from pathlib import Path

from otto_scaler.backends import Seen, Synced
from otto_scaler.backends.process.environment import Surroundings
from otto_scaler.backends.process.opening import process_backend
from otto_scaler.worker import Identity, WorkerSpec, worker_name


async def main(root: Path, tasks: list[str]) -> None:
    """Each task is `name=script`, or `name~script` for one that is held."""
    async with process_backend(
        root / "workers", root / "workspaces", Surroundings(root / "secrets", "/usr/bin:/bin", "C.UTF-8")
    ) as backend:
        running = asyncio.create_task(backend.run())
        async for observation in backend.observe():
            if isinstance(observation, Synced):
                for task in tasks:
                    held = "~" in task and ("=" not in task or task.index("~") < task.index("="))
                    name, _, text = task.partition("~" if held else "=")
                    identity = Identity(worker_name(name, "", "", 1, 1), name, 1, 1)
                    await backend.create(WorkerSpec(identity, ("sh", "-c", text), stop_grace=5.0), held=held)
                print("created", flush=True)
            elif isinstance(observation, Seen):
                print(observation.worker.identity.task_id, observation.worker.state.value, flush=True)
        running.cancel()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
