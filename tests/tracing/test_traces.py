"""A pipeline's trace, as a real OTLP collector receives it from a standalone that is killed in the middle of it."""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from otto_relay.testing import FakeHandler, handling
from ottoscaler.v1.log_pb2 import BuildIdentifier, WorkerIdentifier
from ottoscaler.v1.log_streaming_service_pb2_grpc import LogStreamingServiceStub
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineProgress, PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import RerunPipelineRequest, WatchPipelineRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import PipelineStage, RetryPolicy, StageStatus
from ottoscaler.v1.worker_pb2 import WorkerSpec

from ..standalone.conftest import Standalone, ottoctl, serving
from .rotel import Received, Rotel, needed, rotel

pytestmark = [needed, pytest.mark.slow, pytest.mark.timeout(900)]
PICTURE = Path(__file__).resolve().parents[2] / "tools/trace_picture.py"
WORKER = Path(__file__).with_name("traced_worker.py")
RPC = "ottoscaler.v1"


@dataclass(frozen=True)
class Caller:
    """Somebody with a trace of their own."""

    trace: str
    span: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("traceparent", f"00-{self.trace}-{self.span}-01"),)


def caller() -> Caller:
    return Caller(secrets.token_hex(16), secrets.token_hex(8))


def stage(name: str, *command: str, **fields: Any) -> PipelineStage:
    return PipelineStage(stage_id=name, name=name, command=list(command), **fields)


def script(name: str, text: str, **fields: Any) -> PipelineStage:
    return stage(name, "sh", "-c", text, **fields)


@asynccontextmanager
async def traced(directory: Path, collector: Rotel, **environ: str) -> AsyncIterator[Standalone]:
    """A standalone that exports, and whose workers are told to."""
    told = {"OTTO_OTLP_ENDPOINT": collector.address, "OTTO_SCALER_WORKER_OTLP_ENDPOINT": collector.address}
    async with serving(directory / "state", **(told | environ)) as instance:
        yield instance


async def taken(stream: Any, until: Callable[[PipelineProgress], bool] = lambda _: False) -> list[PipelineProgress]:
    """The messages of a run to its end, or to one of them."""
    messages: list[PipelineProgress] = []
    async for message in stream:
        messages.append(message)
        if until(message):
            break
    return messages


def of(spans: list[Received], name: str, **attributes: str) -> Received:
    """The one span of that name; one that was told again, with the same id, counts once."""
    wanted = {key.replace("_", "."): value for key, value in attributes.items()}
    found = {span.id: span for span in spans if span.name == name and wanted.items() <= span.attributes.items()}
    assert len(found) == 1, (name, [(span.id, span.attributes) for span in found.values()])
    return next(iter(found.values()))


def ended(trace: str) -> Callable[[list[Received]], bool]:
    """Whether the run's own span is there, which comes last but for what is told of its lines."""
    return lambda spans: any(span.trace == trace and span.name.startswith("RUN") for span in spans)


async def test_one_trace_from_the_call_to_the_last_line_over_a_kill(tmp_path: Path) -> None:
    """The run belongs to its caller's span, stages to the run, workers to stages, a worker's own spans and its lines to the worker; another
    attempt is linked to the one before; nothing's parent is missing, although the service was killed in the middle.
    """
    us, reader = caller(), caller()
    go = tmp_path / "go"
    stages = [
        stage("build", sys.executable, str(WORKER)),
        script("flaky", 'echo attempt; test "$OTTO_ATTEMPT" = 2', retry_policy=RetryPolicy(max_attempts=1)),
        script("slow", f"echo waiting; until [ -e {go} ]; do sleep 0.05; done", worker_count=2, depends_on=["build", "flaky"]),
        script("deploy", "echo deployed", depends_on=["slow"]),
    ]
    request = PipelineRequest(pipeline_id="traced-1", name="Traced", commit_sha="0123abc", stages=stages)
    handler = FakeHandler()
    async with rotel(tmp_path) as collector, handling(handler) as address:
        async with traced(tmp_path, collector, OTTO_RELAY_HANDLER_ADDRESS=address) as standalone:
            async with standalone.channel() as channel:
                run = OttoscalerServiceStub(channel).ExecutePipeline(request, metadata=us.metadata)
                running = await taken(run, lambda message: message.stage_id == "slow" and len(message.worker_pod_names) == 2)
            await standalone.kill()
            await standalone.start()
            names = {message.stage_id: list(message.worker_pod_names) for message in running}
            async with standalone.channel() as channel:
                lines = LogStreamingServiceStub(channel).StreamWorkerLogs(
                    WorkerIdentifier(worker_id=names["build"][0]), metadata=reader.metadata
                )
                assert [line.message async for line in lines] == ["compiled"]
                go.touch()
                last = (await taken(OttoscalerServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id="traced-1"))))[-1]
                assert last.status == StageStatus.STAGE_COMPLETED
                build = LogStreamingServiceStub(channel).StreamBuildLogs(BuildIdentifier(pipeline_id="traced-1"))
                assert len([line async for line in build]) > 6
            workers = 6

            def complete(spans: list[Received]) -> bool:
                told = {span.id: span.name for span in spans if span.trace == us.trace}
                counted = [list(told.values()).count(name) for name in ("collect logs", "push logs", "deliver logs")]
                return ended(us.trace)(spans) and counted[0] == workers and counted[1] >= workers - 3 and counted[2] == 2

            everything = await collector.until(complete, "all that belongs to the run")
    spans = [span for span in everything if span.trace == us.trace]
    the_run = of(spans, "RUN Traced")
    assert (the_run.parent, the_run.kind, the_run.status) == (us.span, "SPAN_KIND_SERVER", "STATUS_CODE_UNSET")
    assert the_run.attributes["cicd.pipeline.run.id"] == "traced-1"
    assert the_run.attributes["cicd.pipeline.name"] == "Traced"
    assert the_run.attributes["cicd.pipeline.result"] == "success"
    assert the_run.attributes["vcs.ref.head.revision"] == "0123abc"
    assert the_run.resource["service.name"] == "ottoscaler-standalone"
    for name in ("build", "flaky", "slow", "deploy"):
        one = of(spans, name)
        assert (one.parent, one.scope) == (the_run.id, "otto_executor")
        assert one.attributes["cicd.pipeline.task.run.result"] == "success"
        assert one.attributes["ottoscaler.attempts"] == ("2" if name == "flaky" else "1")
        assert int(the_run.start) <= int(one.start) <= int(one.end) <= int(the_run.end)
    worker = of(spans, "worker build")
    assert (worker.parent, worker.scope) == (of(spans, "build").id, "otto_scaler")
    assert worker.attributes["cicd.worker.name"] == names["build"][0]
    assert (worker.attributes["process.exit.code"], worker.attributes["host.name"]) == ("0", os.uname().nodename)
    assert {span.parent for span in spans if span.name == "worker slow"} == {of(spans, "slow").id}
    first, second = (of(spans, "worker flaky", ottoscaler_attempt=number) for number in "12")
    assert (first.status, first.attributes["error.type"], first.links) == ("STATUS_CODE_ERROR", "EXIT_CODE", [])
    assert (second.status, second.links) == ("STATUS_CODE_UNSET", [(us.trace, first.id)])
    own = of(spans, "compile")
    assert (own.parent, own.scope) == (worker.id, "compiler")
    assert own.resource["cicd.pipeline.run.id"] == "traced-1"
    collected = of(spans, "collect logs", cicd_worker_name=names["build"][0])
    assert (collected.parent, collected.scope, collected.attributes["ottoscaler.log.lines"]) == (worker.id, "otto_relay", "1")
    read = of(spans, "deliver logs", rpc_method="StreamWorkerLogs")
    call = of(everything, f"{RPC}.LogStreamingService/StreamWorkerLogs")
    assert (call.trace, call.parent) == (reader.trace, reader.span)
    assert (read.parent, read.links, call.links) == (worker.id, [(reader.trace, call.id)], [(us.trace, worker.id)])
    assert of(spans, "deliver logs", rpc_method="StreamBuildLogs").parent == the_run.id
    assert {span.parent for span in spans if span.name == "push logs"} <= {span.id for span in spans if span.name.startswith("worker ")}
    assert {entry.metadata["traceparent"] for entry in handler.got if entry.worker_id == names["build"][0]} == {
        f"00-{us.trace}-{worker.id}-01"
    }
    there = {span.id for span in spans} | {us.span}
    assert [span.name for span in spans if span.parent not in there] == []
    assert len({span.id for span in spans if span.scope in {"otto_executor", "otto_scaler"}}) == 1 + 4 + workers


async def test_who_brings_no_trace_begins_one(tmp_path: Path) -> None:
    """The run is in the trace of the call that began it, which is linked to it; a rerun is linked to the run it repeats; workers without a
    pipeline belong to the call that asked for them; what services ask of each other for nobody's call is no trace.
    """
    async with rotel(tmp_path) as collector, traced(tmp_path, collector) as standalone, standalone.channel() as channel:
        asked = PipelineRequest(pipeline_id="first", stages=[script("fails", "exit 3"), script("after", "true", depends_on=["fails"])])
        await taken(OttoscalerServiceStub(channel).ExecutePipeline(asked))
        await PipelineServiceStub(channel).RerunPipeline(RerunPipelineRequest(pipeline_id="first", new_pipeline_id="again"))
        await taken(PipelineServiceStub(channel).WatchPipeline(WatchPipelineRequest(pipeline_id="again")))
        plain = ScaleRequest(task_id="plain", worker_count=2, worker=WorkerSpec(command=["true"]))
        await OttoscalerServiceStub(channel).ScaleUp(plain)

        def complete(spans: list[Received]) -> bool:
            names = [span.name for span in spans]
            return names.count("RUN") == 2 and names.count("worker") == 2 and f"{RPC}.PipelineService/ExecutePipeline" in names

        await collector.until(complete, "both runs and the workers")
        await standalone.stop()
        spans = collector.spans()
    first, again = (of(spans, "RUN", cicd_pipeline_run_id=name) for name in ("first", "again"))
    begun, rerun = of(spans, f"{RPC}.PipelineService/ExecutePipeline"), of(spans, f"{RPC}.PipelineService/RerunPipeline")
    handed_on = of(spans, f"{RPC}.OttoscalerService/ExecutePipeline")
    assert (handed_on.parent, handed_on.trace, handed_on.links) == ("", first.trace, [])
    assert (begun.parent, begun.links) == (handed_on.id, [(first.trace, first.id)])
    assert (first.parent, first.links, first.status) == ("", [], "STATUS_CODE_ERROR")
    assert (first.attributes["cicd.pipeline.result"], first.attributes["error.type"]) == ("failure", "EXIT_CODE")
    assert (again.parent, again.trace, again.links) == ("", rerun.trace, [(first.trace, first.id)])
    skipped = next(span for span in spans if span.name == "after" and span.trace == first.trace)
    assert (skipped.attributes["cicd.pipeline.task.run.result"], skipped.took) == ("skip", 0.0)
    scaled = of([span for span in spans if span.parent == ""], f"{RPC}.OttoscalerService/ScaleUp")
    assert [span.parent for span in spans if span.name == "worker"] == [scaled.id] * 2
    calls = (
        "OttoscalerService/ExecutePipeline",
        "OttoscalerService/ScaleUp",
        "PipelineService/RerunPipeline",
        "PipelineService/WatchPipeline",
    )
    assert {span.name for span in spans if span.parent == ""} == {"RUN", *(f"{RPC}.{method}" for method in calls)}


async def test_ottoctl_takes_part_in_the_trace_it_is_started_in(tmp_path: Path) -> None:
    """As TRACEPARENT tells it, which any CI job, and any worker, has."""
    us = caller()
    (pipeline := tmp_path / "pipeline.yaml").write_text("- {name: hello, commands: echo hello}\n")
    async with rotel(tmp_path) as collector, traced(tmp_path, collector) as standalone:
        code, output = await ottoctl(standalone, "pipeline", "run", str(pipeline), TRACEPARENT=us.metadata[0][1])
        assert code == 0, output
        spans = await collector.until(ended(us.trace), "the run")
    assert of([span for span in spans if span.trace == us.trace and span.scope == "otto_executor"], "RUN pipeline").parent == us.span


async def test_a_pipelines_trace_is_drawn(tmp_path: Path) -> None:
    """By tools/trace_picture.py, which takes the spans itself: each span a bar, attempts linked."""
    tool = await asyncio.create_subprocess_exec(
        sys.executable, str(PICTURE), "--listen", "127.0.0.1:0", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert tool.stderr is not None
        address = (await tool.stderr.readline()).decode().split()[-1]
        async with serving(tmp_path / "state", OTTO_OTLP_ENDPOINT=address) as standalone, standalone.channel() as channel:
            flaky = script("flaky <&>", 'test "$OTTO_ATTEMPT" = 2', retry_policy=RetryPolicy(max_attempts=1))
            await taken(PipelineServiceStub(channel).ExecutePipeline(PipelineRequest(pipeline_id="drawn", stages=[flaky])))
            drawn, _ = await tool.communicate()
    finally:
        if tool.returncode is None:
            tool.kill()
            await tool.wait()
    picture = ElementTree.fromstring(drawn)
    svg = "{http://www.w3.org/2000/svg}"
    said = [text.text for text in picture.iter(f"{svg}text")]
    assert {"RUN", "flaky <&>", "worker flaky <&>", "ExecutePipeline", "ScaleUp", "collect logs"} <= set(said)
    times = [text for text in said if text and text.endswith(" s")]
    assert len(list(picture.iter(f"{svg}rect"))) == len(times)  # five in the legend, and as many times at the top
    links = [path for path in picture.iter(f"{svg}path") if path.get("class") == "link"]
    assert len(links) == 3  # in the legend, between the attempts, from the call to its run
