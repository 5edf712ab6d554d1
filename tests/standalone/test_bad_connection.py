"""ottoctl over a connection that breaks in every way: it attaches again, says so, loses nothing, doubles nothing, and gives up in words."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest, ListPipelinesRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage

from ..ottoctl_beside import ended, running
from .conftest import Standalone, ottoctl
from .proxy import Proxy, proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]  # many short processes: on a busy machine each takes seconds to start
LINES = 30


@pytest.fixture
async def bad(standalone: Standalone) -> AsyncIterator[Proxy]:
    async with proxy(standalone.address) as made:
        yield made


@pytest.fixture
def slowly(tmp_path: Path) -> Path:
    """A pipeline whose one stage writes a line every 0.1 s."""
    path = tmp_path / "slowly.yaml"
    path.write_text(f"- {{name: slow, commands: 'for i in $(seq 1 {LINES}); do echo line $i; sleep 0.1; done'}}")
    return path


def broken_by(name: str) -> Callable[[Proxy], Awaitable[None]]:
    async def cut(bad: Proxy) -> None:
        bad.cut()

    async def reset(bad: Proxy) -> None:
        assert bad.reset_streams() > 0

    async def refuse(bad: Proxy) -> None:
        bad.refuse()
        await asyncio.sleep(0.5)
        await bad.listen()

    return {"cut": cut, "reset": reset, "refused for a while": refuse}[name]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut", "reset", "refused for a while"])
async def test_a_run_and_its_lines_go_on_after_breaks(standalone: Standalone, bad: Proxy, tmp_path: Path, how: str) -> None:
    """Broken three times (UNAVAILABLE when cut, INTERNAL when streams are reset), `run` and `logs -f` show each thing once, and say that
    they were cut off and are back.
    """
    break_it = broken_by(how)
    rounds = range(1, 4)
    (tmp_path / "gated.yaml").write_text(
        f"- {{name: slow, commands: 'for r in 1 2 3; do for i in $(seq 1 10); do echo line $r.$i; done; "
        f"until test -e {tmp_path}/go.$r; do sleep 0.05; done; done'}}"
    )
    async with running(bad.address, "pipeline", "run", str(tmp_path / "gated.yaml"), "--id", "r") as run:
        await run.says("slow | line 1.1")
        async with running(bad.address, "logs", "--pipeline", "r", "-f") as logs:
            for number in rounds:
                for program in (run, logs):
                    await program.says(f"slow | line {number}.10")
                await break_it(bad)
                for program in (run, logs):
                    await program.says("connected again", count=number)
                    await program.says("lost the connection", count=number)
                (tmp_path / f"go.{number}").touch()
            assert await ended(run) == 0, run.told
            assert await ended(logs) == 0, logs.told
    lines = [f"slow | line {r}.{i}" for r in rounds for i in range(1, 11)]
    assert [line for line in run.out if " | " in line] == lines
    assert logs.out == lines
    assert progress(run.out) == progress((await ottoctl(standalone, "pipeline", "watch", "r", "--no-logs"))[1].splitlines())


def progress(lines: list[str]) -> list[str]:
    """What was said of stages and pipeline, without the time."""
    return [line[9:] for line in lines if line[9:].startswith(("slow: ", "pipeline: "))]


@pytest.mark.slow
async def test_workers_are_watched_across_breaks(standalone: Standalone, bad: Proxy) -> None:
    """`status --watch` shows after a break what has changed meanwhile, and nothing that it had shown before."""
    await ottoctl(standalone, "scale", "up", "first", "--", "sleep", "300")
    async with running(bad.address, "status", "--watch") as status:
        await status.says("running\tfirst")
        bad.refuse()
        await ottoctl(standalone, "scale", "up", "second", "--", "sleep", "300")
        await bad.listen()
        await status.says("running\tsecond")
        bad.cut()
        await ottoctl(standalone, "scale", "down", "first")
        await status.says("failed\tfirst")
        assert sum("\trunning\tfirst" in line for line in status.out) == 1, status.out
        assert sum("\trunning\tsecond" in line for line in status.out) == 1, status.out
        assert sum("connected again" in line for line in status.told) >= 2


@pytest.mark.slow
async def test_lines_of_a_task_s_workers_are_not_doubled(standalone: Standalone, bad: Proxy) -> None:
    """`logs --task -f`, whose sequences count per worker, goes on after a break without losing or doubling a line."""
    script = f"for i in $(seq 1 {LINES}); do echo $OTTO_WORKER_INDEX.$i; sleep 0.1; done"
    await ottoctl(standalone, "scale", "up", "t", "-n", "2", "--", "sh", "-c", script)
    async with running(bad.address, "logs", "--task", "t", "-f") as logs:
        for line in (5, 15):
            await logs.says(f"1.{line}")
            bad.cut()
        assert await ended(logs) == 0, logs.told
    shown = sorted(line.split(" | ")[1] for line in logs.out)
    assert shown == sorted(f"{worker}.{n}" for worker in (1, 2) for n in range(1, LINES + 1))


@pytest.mark.slow
async def test_a_run_whose_first_answer_is_lost_is_started_once(standalone: Standalone, bad: Proxy, tmp_path: Path) -> None:
    """The request arrives, its answer does not: ottoctl attaches to that run, and its one worker ran once."""
    marks = tmp_path / "marks"
    (tmp_path / "once.yaml").write_text(f"- {{name: once, commands: 'echo ran >> {marks}'}}")
    bad.answering.clear()
    async with running(bad.address, "pipeline", "run", str(tmp_path / "once.yaml"), "--id", "o") as run:
        await lose_the_answer(bad)
        assert await ended(run) == 0, run.told
    assert any("o: COMPLETED" in line for line in run.out), run.out
    assert marks.read_text() == "ran\n"


async def lose_the_answer(bad: Proxy) -> None:
    """Waits until the service has answered, and cuts the connection before the answer is through."""
    async with asyncio.timeout(90):
        await bad.withheld.wait()
    bad.cut()
    bad.answering.set()


@pytest.mark.slow
async def test_an_older_run_of_the_same_id_is_not_taken_for_ours(standalone: Standalone, bad: Proxy, tmp_path: Path) -> None:
    """A lost answer and an id that somebody used before: the error says so; ottoctl does not show another's run as its own."""
    (tmp_path / "once.yaml").write_text("- {name: once, commands: 'true'}")
    async with standalone.channel() as channel:
        theirs = PipelineRequest(pipeline_id="taken", stages=[PipelineStage(stage_id="theirs", command=["true"])])
        async for _ in PipelineServiceStub(channel).ExecutePipeline(theirs):
            pass
    bad.answering.clear()
    async with running(bad.address, "pipeline", "run", str(tmp_path / "once.yaml"), "--id", "taken") as run:
        await lose_the_answer(bad)
        assert await ended(run) == 5, run.told
    assert any("exists already" in line for line in run.told), run.told
    assert not any("theirs" in line for line in run.out), run.out


@pytest.mark.slow
@pytest.mark.parametrize("named", [(), ("--id", "again")], ids=["an id is made", "an id is given"])
async def test_a_rerun_whose_answer_is_lost_is_started_once(
    standalone: Standalone, bad: Proxy, tmp_path: Path, named: tuple[str, ...]
) -> None:
    """Asked again ottoctl asks for the same run: it finds it there, shows it to its end, and nothing ran twice."""
    marks = tmp_path / "marks"
    (tmp_path / "once.yaml").write_text(f"- {{name: once, commands: 'echo ran >> {marks}'}}")
    code, output = await ottoctl(standalone, "pipeline", "run", str(tmp_path / "once.yaml"), "--id", "o")
    assert code == 0, output
    bad.answering.clear()
    async with running(bad.address, "pipeline", "rerun", "o", *named) as rerun:
        await lose_the_answer(bad)
        assert await ended(rerun) == 0, rerun.told
    async with standalone.channel() as channel:
        listed = await PipelineServiceStub(channel).ListPipelines(ListPipelinesRequest())
    assert [run.rerun_of for run in listed.pipelines] == ["o", ""]
    assert marks.read_text() == "ran\nran\n"


@pytest.mark.slow
async def test_another_run_of_the_id_is_not_taken_for_the_rerun(standalone: Standalone, bad: Proxy, tmp_path: Path) -> None:
    """A lost answer and an id that somebody used before: the error says so, and nothing is shown of theirs."""
    (tmp_path / "once.yaml").write_text("- {name: once, commands: 'true'}")
    for name in ("o", "taken"):
        code, output = await ottoctl(standalone, "pipeline", "run", str(tmp_path / "once.yaml"), "--id", name)
        assert code == 0, output
    bad.answering.clear()
    async with running(bad.address, "pipeline", "rerun", "o", "--id", "taken") as rerun:
        await lose_the_answer(bad)
        assert await ended(rerun) == 5, rerun.told
    assert any("ALREADY_EXISTS" in line for line in rerun.told), rerun.told
    assert rerun.out == []


@pytest.mark.slow
async def test_a_connection_that_only_stalls_is_noticed(standalone: Standalone, bad: Proxy, slowly: Path) -> None:
    """Bytes stop, no connection ends: keepalive notices (after 15 s, as documented; the deadline here is a slow machine's), and the run is
    shown to its end over a new connection.
    """
    async with running(bad.address, "pipeline", "run", str(slowly), "--id", "s") as run:
        await run.says("slow | line 3")
        stalled = asyncio.get_running_loop().time()
        bad.flowing.clear()
        await run.says("lost the connection")
        assert asyncio.get_running_loop().time() - stalled < 35
        bad.flowing.set()
        bad.cut()
        assert await ended(run) == 0, run.told
    assert [line for line in run.out if " | " in line] == [f"slow | line {n}" for n in range(1, LINES + 1)]


@pytest.mark.slow
async def test_a_slow_connection_is_no_broken_one(standalone: Standalone, bad: Proxy, slowly: Path) -> None:
    """Everything takes 0.2 s longer: the run is shown whole, and nobody speaks of a break."""
    bad.delay = 0.2
    async with running(bad.address, "pipeline", "run", str(slowly), "--id", "d") as run:
        assert await ended(run) == 0, run.told
    assert len([line for line in run.out if " | " in line]) == LINES
    assert run.told == []


@pytest.mark.slow
async def test_patience_ends_in_words(standalone: Standalone, bad: Proxy, slowly: Path) -> None:
    """The service does not come back within --patience: exit code 4, what was tried, and how to come back; the pipeline goes on."""
    async with running(bad.address, "--patience", "1.5", "pipeline", "run", str(slowly), "--id", "p") as run:
        await run.says("slow | line 1")
        bad.refuse()
        assert await ended(run) == 4, run.told
    told = "\n".join(run.told)
    assert "trying again for 1.5 s" in told
    assert "gave up after 1.5 s" in told
    assert "connection refused" in told
    assert "come back with: ottoctl pipeline watch p" in told
    async with standalone.channel() as channel:
        answer = await PipelineServiceStub(channel).GetPipeline(GetPipelineRequest(pipeline_id="p"))
        assert not answer.summary.error_message


async def test_what_was_never_reached_is_not_waited_for() -> None:
    """An address where nobody ever answered is exit code 4 at once, for streams too."""
    for arguments in (["pipeline", "run", "--type", "simple"], ["pipeline", "watch", "x"], ["logs", "w", "-f"], ["status", "--watch"]):
        async with running("127.0.0.1:1", *arguments) as program:
            assert await ended(program) == 4
        assert "Is it running?" in "\n".join(program.told), program.told
