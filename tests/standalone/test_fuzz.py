"""A flood of malformed and hostile requests: each gets the status that the contract names, and nothing of us breaks or shows."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from ottoscaler.v1.log_pb2 import LogEntry
from ottoscaler.v1.log_streaming_service_pb2 import LogResponse
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest, WorkerStatusRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineRequest
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest, ListPipelinesRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from ottoscaler.v1.stage_pb2 import STAGE_TYPE_APPROVAL, PipelineStage, StageStatus
from ottoscaler.v1.worker_pb2 import WorkerSpec

from .conftest import Standalone, end_workers
from .fuzzing import Case, Maker, documented_statuses, leak, methods
from .verdicts import Judge, Limits, no_id

pytestmark = pytest.mark.slow

SEED = 4
CHANNELS, CLIENTS = 4, 48
ANSWER_SECONDS = 60.0
"""Within which every unary call has to be answered; the service gives one up after 30 s, which no method's contract names."""
LISTEN_SECONDS, LISTEN_LONGER_SECONDS, SAMPLE = 0.2, 1.0, 100
"""How long the first message of a stream is waited for that may have nothing to say, and of one in so many of them."""
WORKERS, WAITING = 4, 12
LIMITS = Limits(stage_workers=3, workers=6, request_workers=3)
SMALL = {
    "OTTO_SCALER_MAX_WORKERS": str(WORKERS),
    "OTTO_SCALER_MAX_QUEUED": str(WAITING),
    "OTTO_SCALER_MAX_WORKERS_PER_REQUEST": str(LIMITS.request_workers),
    "OTTO_EXECUTOR_MAX_ACTIVE_PIPELINES": "8",
    "OTTO_EXECUTOR_MAX_STAGE_WORKERS": str(LIMITS.stage_workers),
    "OTTO_EXECUTOR_MAX_WORKERS": str(LIMITS.workers),
    "OTTO_SCALER_DEFAULT_COMMAND": "true",
    "OTTO_RELAY_MAX_PUSHED_WORKERS": "20",
}


def as_it_is(data: bytes) -> bytes:
    return data


class Flood:
    """Sends cases and gathers what should not have happened."""

    def __init__(self, standalone: Standalone, maker: Maker, judge: Judge) -> None:
        self._standalone = standalone
        self._maker = maker
        self._judge = judge
        self.wrong: list[str] = []
        self.statuses: Counter[tuple[str, str]] = Counter()

    async def send(self, count: int) -> None:
        """Cases 0 to `count` - 1, many at a time."""
        numbers = iter(range(count))

        async def client(channel: grpc.aio.Channel) -> None:
            for number in numbers:
                if len(self.wrong) > 50:
                    return
                await self._one(channel, self._maker.case(number))

        channels = [
            grpc.aio.insecure_channel(self._standalone.address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(CHANNELS)
        ]
        try:
            await asyncio.gather(*(client(channels[number % CHANNELS]) for number in range(CLIENTS)))
        finally:
            for channel in channels:
                await channel.close()

    async def _one(self, channel: grpc.aio.Channel, case: Case) -> None:
        method = case.method
        requests = [method.takes.FromString(data) for data in case.sent] if case.readable else []
        for request in requests:
            self._judge.sends(str(method), request)
        if method.streams_in:
            status, words, answers = await self._conversation(channel, case)
        elif method.streams_out:
            status, words, answers = await self._stream(channel, case)
        else:
            status, words, answers = await self._unary(channel, case)
        self.statuses[str(method), status.name if status else "listened"] += 1
        allowed = method.statuses if case.readable else {grpc.StatusCode.INVALID_ARGUMENT}
        if status not in allowed and not (status is None and case.readable):
            self.wrong.append(f"{case} was answered with {status}: {words}")
        if requests and (objection := self._judge.objection(str(method), requests, status, answers)):
            self.wrong.append(f"{case} was answered with {status} and {objection}: {words}")
        for text in (words, *(str(answer) for answer in answers)):
            if found := leak(text, self._standalone.state):
                self.wrong.append(f"{case} was told: {found}")

    async def _unary(self, channel: grpc.aio.Channel, case: Case) -> tuple[grpc.StatusCode | None, str, list[object]]:
        try:
            answer = await channel.unary_unary(case.method.path, as_it_is, as_it_is)(case.sent[0], timeout=ANSWER_SECONDS)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or "", []
        return grpc.StatusCode.OK, "", [case.method.gives.FromString(answer)]

    async def _stream(self, channel: grpc.aio.Channel, case: Case) -> tuple[grpc.StatusCode | None, str, list[object]]:
        """The first message, or the end; for what follows something, none of both while it is listened to."""
        call = channel.unary_stream(case.method.path, as_it_is, as_it_is)(case.sent[0])
        patience = ANSWER_SECONDS
        silent = case.may_be_silent and not self._judge.refuses(str(case.method), case.method.takes.FromString(case.sent[0]))
        if silent:
            patience = LISTEN_SECONDS if case.number % SAMPLE else LISTEN_LONGER_SECONDS
        try:
            async with asyncio.timeout(patience):
                answer: Any = await call.read()
        except TimeoutError:
            call.cancel()
            if not silent:
                self.wrong.append(f"{case} was not answered within {patience:g} s")
            return None, "", []
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or "", []
        if answer is not grpc.aio.EOF:
            call.cancel()
            return None, "", [case.method.gives.FromString(answer)]
        return await call.code(), await call.details(), []

    async def _conversation(self, channel: grpc.aio.Channel, case: Case) -> tuple[grpc.StatusCode | None, str, list[object]]:
        """All messages, then everything that is answered: as many answers as messages if all of them could be read."""

        async def sent() -> AsyncIterator[bytes]:
            for data in case.sent:
                yield data

        call = channel.stream_stream(case.method.path, as_it_is, as_it_is)(sent(), timeout=ANSWER_SECONDS)
        answers: list[object] = []
        try:
            async for answer in call:
                answers.append(case.method.gives.FromString(answer))
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or "", answers
        if case.readable and len(answers) != len(case.sent):
            self.wrong.append(f"{case} got {len(answers)} answers")
        return await call.code(), await call.details(), answers


async def known_names(channel: grpc.aio.Channel) -> dict[str, tuple[str, ...]]:
    """Runs and workers that are there before the flood, so that it gets past NOT_FOUND."""
    stub = PipelineServiceStub(channel)
    ended = PipelineRequest(pipeline_id="ended", stages=[PipelineStage(stage_id="build", command=["true"])])
    async for message in stub.ExecutePipeline(ended):
        last = message
    assert last.status == StageStatus.STAGE_COMPLETED
    waits = PipelineStage(stage_id="승인", type=STAGE_TYPE_APPROVAL, config={"otto.approvers": '["kim"]'})
    async for _ in stub.ExecutePipeline(PipelineRequest(pipeline_id="기다림", stages=[waits])):
        break
    wanted = ScaleRequest(task_id="task-1", worker_count=1, worker=WorkerSpec(command=["true"]))
    names = (await OttoscalerServiceStub(channel).ScaleUp(wanted)).worker_pod_names
    page = await stub.ListPipelines(ListPipelinesRequest(page_size=1))
    assert page.next_page_token
    return {
        "pipeline_id": ("ended", "기다림", "기다림"),
        "worker_id": tuple(names),
        "worker_pod_name": tuple(names),
        "worker_pod_names": tuple(names),
        "page_token": (page.next_page_token, page.next_page_token[:-1], page.next_page_token[::-1]),
    }


def processes(state: Path) -> int:
    """Workers' supervisors that run."""
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found += str(state / "workers").encode() in (entry / "cmdline").read_bytes()
            except OSError:
                continue
    return found


def test_every_method_says_what_it_answers() -> None:
    """The statuses come from the comments in the protos: each method has some, and those that take anything say so."""
    found = {str(method): method for method in methods()}
    assert set(found) == set(documented_statuses())
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    assert {name for name, method in found.items() if invalid not in method.statuses} == {
        "LogStreamingService/RegisterWorker",
        "LogStreamingService/StreamLogs",
        "OttoHandlerLogService/ForwardWorkerLogs",
        "OttoHandlerLogService/NotifyWorkerStatus",
        "OttoscalerService/WatchWorkers",
        "PipelineService/ValidatePipeline",
    }


def test_leaks_are_seen(tmp_path: Path) -> None:
    """What an exception would tell is found; what we say ourselves is not."""
    assert leak('Traceback (most recent call last):\n  File "x"', tmp_path)
    assert leak("<Foo object at 0x7f>", tmp_path)
    assert leak("KeyError: 'x'", tmp_path)
    assert leak(f"can't open {tmp_path}/runs.sqlite", tmp_path)
    for fault in (
        "int('x')",
        "[][0]",
        "None.x",
        "len(5)",
        "(lambda a: a)()",
        "b'\\xff'.decode()",
        "json.loads('{')",
        "Path('/nowhere').read_text()",
        "ScaleRequest(worker_count=2**40)",
    ):
        with pytest.raises(Exception, match=r".") as caught:
            eval(fault)
        assert leak(f"INVALID_ARGUMENT: {caught.value}", tmp_path), caught.value
    assert not leak("INTERNAL_ERROR; stages[0].config: is no option; did you mean otto.cpu?", tmp_path)


def test_a_wrong_status_is_seen() -> None:
    """What a request has to be answered with by the contract, and nothing else, is taken: both ways round."""
    judge = Judge(LIMITS, ["ended"])
    invalid, ok, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND
    down, get = "OttoscalerService/ScaleDown", "PipelineService/GetPipeline"
    for method, request, right in (
        (down, ScaleRequest(task_id="t", worker_count=-1), {invalid}),
        (down, ScaleRequest(task_id="t"), {ok, missing}),
        ("OttoscalerService/ScaleUp", ScaleRequest(task_id="t", worker_count=4), {invalid}),
        (get, GetPipelineRequest(pipeline_id="a\0b"), {invalid}),
        (get, GetPipelineRequest(pipeline_id="never"), {missing}),
        (get, GetPipelineRequest(pipeline_id="ended"), {ok, missing}),
    ):
        assert {code for code in (invalid, ok, missing) if not judge.objection(method, [request], code, [])} == right, request
    judge.sends("PipelineService/ExecutePipeline", PipelineRequest(pipeline_id="never"))
    assert not judge.objection(get, [GetPipelineRequest(pipeline_id="never")], ok, [])
    lines = [LogEntry(message="x"), LogEntry(worker_id="w")]
    ack, drop = LogResponse(status=LogResponse.ACK), LogResponse(status=LogResponse.DROP)
    assert not judge.objection("LogStreamingService/StreamLogs", lines, ok, [drop, ack])
    assert judge.objection("LogStreamingService/StreamLogs", lines, ok, [ack, ack])
    assert no_id("한" * 85, 253)
    assert not no_id("한" * 84, 253)


def test_cases_are_made_from_their_numbers() -> None:
    """The same again from the same seed; every method and every kind is among the first thousands, readable or not."""
    maker = Maker(SEED, methods(), {})
    cases = [maker.case(number) for number in range(3000)]
    assert cases[17] == Maker(SEED, methods(), {}).case(17)
    assert {str(case.method) for case in cases} == set(documented_statuses())
    unreadable = sum(not case.readable for case in cases)
    assert 0.15 < unreadable / len(cases) < 0.6


@pytest.mark.parametrize(
    "count", [pytest.param(3000, id="some", marks=pytest.mark.slow), pytest.param(100_000, id="all", marks=pytest.mark.long)]
)
@pytest.mark.timeout(900)
async def test_whatever_is_sent_gets_the_right_answer(tmp_path: Path, count: int) -> None:
    """Unreadable requests are INVALID_ARGUMENT, others get what the contract names; nothing hangs, breaks or tells of our insides."""
    standalone = Standalone(tmp_path / "state", **SMALL)
    await standalone.start()
    try:
        async with standalone.channel() as channel:
            known = await known_names(channel)
            judge = Judge(LIMITS, known["pipeline_id"])
            flood = Flood(standalone, Maker(SEED, methods(), known), judge)
            await flood.send(count)
            print(*sorted(flood.statuses.items()), sep="\n")
            assert flood.wrong == []
            assert judge.judged > count / 3
            assert sum(flood.statuses.values()) == count
            assert standalone.process.returncode is None
            assert processes(standalone.state) <= WORKERS + WAITING
            async with asyncio.timeout(ANSWER_SECONDS):
                status = await OttoscalerServiceStub(channel).GetWorkerStatus(WorkerStatusRequest())
            assert status.running_count <= WORKERS
            assert status.pending_count <= WAITING + WORKERS
        assert await standalone.stop() == 0
        lines = standalone.log.read_text().rstrip("\n").split("\n")  # not splitlines: odd line ends that a request held may be quoted
        strange = [line for line in lines if not line.startswith("{") or json.loads(line)["level"] in {"error", "critical"}]
        assert strange == []
    finally:
        if standalone.process.returncode is None:
            await standalone.stop()
        await end_workers(standalone.state)
