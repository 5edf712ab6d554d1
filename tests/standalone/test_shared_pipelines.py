"""Six real pipelines, as otto-front's users build them: they validate as they are, and run to their ends with other commands."""

import asyncio
from pathlib import Path

import pytest
import yaml

from .conftest import Standalone, ottoctl

pytestmark = pytest.mark.slow

PIPELINES = sorted((Path(__file__).parent / "pipelines").glob("*.yaml"))
SCRIPT = 'echo "$OTTO_STAGE_ID worker $OTTO_WORKER_INDEX of $OTTO_WORKER_COUNT"'


def with_other_commands(source: Path, target: Path) -> list[str]:
    """Writes the pipeline with only its commands replaced; returns the stages' names."""
    jobs = yaml.safe_load(source.read_text())
    for job in jobs:
        job["commands"] = SCRIPT
    target.write_text(yaml.safe_dump(jobs, allow_unicode=True))
    return [job["name"] for job in jobs]


async def test_all_validate_as_they_are(standalone: Standalone) -> None:
    """`ottoctl pipeline validate` finds nothing wrong with any of the files, and the service agrees."""
    assert len(PIPELINES) == 6
    for file in PIPELINES:
        code, output = await ottoctl(standalone, "pipeline", "validate", str(file))
        assert code == 0, f"{file.name}: {output}"


@pytest.mark.parametrize("source", [p for p in PIPELINES if not p.name.startswith("3")], ids=lambda p: p.stem)
async def test_runs_to_its_end(standalone: Standalone, source: Path, tmp_path: Path) -> None:
    """Each stage that should run has written its line, those that only run on failure are skipped, and the exit code is 0."""
    names = with_other_commands(source, tmp_path / "pipeline.yaml")
    code, output = await ottoctl(standalone, "pipeline", "run", str(tmp_path / "pipeline.yaml"), "--id", source.stem, "--logs")
    assert code == 0, output
    _, logs = await ottoctl(standalone, "logs", "--pipeline", source.stem)
    skipped = {"notify-slack-failure", "rollback"}
    for name in names:
        assert (f"{name} worker 1 of" in logs) == (name not in skipped), (name, logs)


async def test_the_approval_is_waited_for(standalone: Standalone, tmp_path: Path) -> None:
    """Number 3 stops before production until somebody among the approvers says yes, then ends well: every worker ran once."""
    source = PIPELINES[2]
    with_other_commands(source, tmp_path / "pipeline.yaml")
    running = asyncio.create_task(ottoctl(standalone, "pipeline", "run", str(tmp_path / "pipeline.yaml"), "--id", "three"), name="run 3")
    try:
        async with asyncio.timeout(30):
            while "approve-production" not in (await ottoctl(standalone, "pipeline", "list", "--output", "json"))[1]:
                await asyncio.sleep(0.1)
        _, logs = await ottoctl(standalone, "logs", "--pipeline", "three")
        assert "deploy-staging worker 1 of 1" in logs
        assert "deploy-production worker" not in logs
        code, output = await ottoctl(standalone, "pipeline", "approve", "three", "approve-production", "--as", "somebody-else")
        assert code != 0, output
        code, output = await ottoctl(standalone, "pipeline", "approve", "three", "approve-production", "--as", "team-leads")
        assert code == 0, output
        code, output = await running
        assert code == 0, output
        _, logs = await ottoctl(standalone, "logs", "--pipeline", "three")
        for line in (
            *(f"test-jest worker {index} of 3" for index in (1, 2, 3)),
            "deploy-production worker 1 of 1",
            "cleanup-preview worker 1 of 1",
        ):
            assert logs.count(line) == 1, (line, logs)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
