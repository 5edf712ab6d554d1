"""The services, asked over gRPC: do they serve, do they speak the same contract, how fast, by which clock, with how much room?"""

import asyncio
import statistics
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ottoctl.doctor.case import Case, Finding, fail, ok, warn
from ottoctl.words import short
from ottoscaler.v1 import log_streaming_service_pb2, otto_handler_log_service_pb2, ottoscaler_service_pb2, pipeline_service_pb2
from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest, WorkerStatusRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub

FILES: dict[str, FileDescriptor] = {
    "OttoscalerService": ottoscaler_service_pb2.DESCRIPTOR,
    "PipelineService": pipeline_service_pb2.DESCRIPTOR,
    "LogStreamingService": log_streaming_service_pb2.DESCRIPTOR,
    "OttoHandlerLogService": otto_handler_log_service_pb2.DESCRIPTOR,
}
PACKAGE = "ottoscaler.v1"
CALL_SECONDS = 5.0
ROUND_TRIPS = 5
SLOW_SECONDS = 0.25
CLOCK_SECONDS = 2.0
"""A difference that people notice in times of logs; the way there and back is allowed for beside it."""
NOBODY = "ottoctl doctor"
"""A task that nobody has, so that what is asked about it is answered and changes nothing."""


async def health(case: Case) -> list[Finding]:
    """Each service says that it is SERVING."""
    stub = health_pb2_grpc.HealthStub(case.channel)
    found = []
    for name in FILES:
        try:
            answer = await asked(stub, name, CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            found.append(_no_health(case, name, error))
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                break
            continue
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            found.append(ok(f"{name} is SERVING"))
            case.serves = True
        else:
            word = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            found.append(fail(f"{name} is {word}", "it is starting or stopping, or can't go on: wait some seconds, then look into its log"))
    return found


async def asked(stub: Any, name: str, seconds: float) -> Any:
    """What a service of ours says of its health; metadata names it too, as a Gateway's routes don't look into a request."""
    service = f"{PACKAGE}.{name}"
    return await stub.Check(health_pb2.HealthCheckRequest(service=service), metadata=[("otto-service", service)], timeout=seconds)


def _no_health(case: Case, name: str, error: grpc.aio.AioRpcError) -> Finding:
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return fail(f"{name} is not known at {case.address}", "that service is not part of what runs there: name the front door's address")
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return fail(
            f"what runs at {case.address} speaks gRPC but has no health service: it is not Ottoscaler",
            "--address or OTTO_ADDRESS names Ottoscaler's",
        )
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return fail(
            f"{name} did not answer within {CALL_SECONDS:g} s",
            "the service hangs or is overloaded: look at its log and at the machine's load",
        )
    return fail(f"{name} can't be asked: {short(error)}", "what listens there may be no gRPC server, or is just stopping: try again")


async def contract(case: Case) -> list[Finding]:
    """Client and server know the same messages and fields, by reflection."""
    stub = reflection_pb2_grpc.ServerReflectionStub(case.channel)
    served: dict[str, DescriptorProto] = {}
    try:
        requests = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{PACKAGE}.{name}") for name in FILES]
        async with asyncio.timeout(CALL_SECONDS):
            async for answer in stub.ServerReflectionInfo(iter(requests), timeout=CALL_SECONDS):
                for content in answer.file_descriptor_response.file_descriptor_proto:
                    file = FileDescriptorProto.FromString(content)
                    if file.package == PACKAGE:
                        served.update((message.name, message) for message in file.message_type)
    except (grpc.aio.AioRpcError, TimeoutError):
        served = {}
    if not served:
        return [
            warn("the server does not tell its contract (no reflection)", "compare versions by hand: ottoctl --version, and the service's")
        ]
    theirs_only, ours_only, different = [], [], []
    for message in _messages():
        theirs = served.pop(message.name, None)
        if theirs is None:
            ours_only.append(message.name)
            continue
        known = {f.number: f for f in theirs.field}
        for one in message.fields:
            other = known.pop(one.number, None)
            if other is None:
                ours_only.append(f"{message.name}.{one.name}")
            elif (other.name, other.type, other.label == FieldDescriptorProto.LABEL_REPEATED) != (one.name, one.type, one.is_repeated):
                different.append(f"{message.name}.{one.name} (number {one.number})")
        theirs_only += [f"{message.name}.{f.name}" for f in known.values()]
    theirs_only += served
    case.facts["contract"] = {"server_only": theirs_only, "client_only": ours_only, "different": different}
    found = []
    if different:
        found.append(fail(f"client and server disagree about {_some(different)}", "they are not of one version family: update one of them"))
    if ours_only:
        found.append(
            warn(
                f"the server is older than this ottoctl: it lacks {_some(ours_only)}", "update the server, or expect that these do nothing"
            )
        )
    if theirs_only:
        found.append(warn(f"the server is newer than this ottoctl: it also has {_some(theirs_only)}", "update ottoctl to see these"))
    return found or [ok("client and server speak the same contract, field by field")]


def _messages() -> Iterator[Descriptor]:
    pending = list(FILES.values())
    seen = set()
    while pending:
        file = pending.pop()
        if file.package == PACKAGE and file.name not in seen:
            seen.add(file.name)
            pending += file.dependencies
            yield from file.message_types_by_name.values()


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


async def round_trip(case: Case) -> list[Finding]:
    """An answer comes in a moment."""
    stub: Any = OttoscalerServiceStub(case.channel)
    times = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        try:
            await stub.GetWorkerStatus(WorkerStatusRequest(task_id=NOBODY), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            return [fail(f"a simple question was not answered: {error.code().name}", "look into the service's log")]
        times.append(time.perf_counter() - began)
    middle = statistics.median(times)
    case.facts["round_trip_ms"] = round(middle * 1000, 2)
    words = f"an answer takes {middle * 1000:.1f} ms (the middle one of {ROUND_TRIPS})"
    if middle > SLOW_SECONDS:
        return [warn(words, "the network is slow or the machine overloaded; ottoctl works, but slowly")]
    return [ok(words)]


async def clock(case: Case) -> list[Finding]:
    """Both sides have the same time, told from the times in an answer."""
    # A scale-down of nobody, to more than there can be: the one answer that bears times and changes nothing.
    request = ScaleRequest(task_id=NOBODY, worker_count=2**31 - 1, reason="ottoctl doctor compares clocks", triggered_by="ottoctl doctor")
    stub: Any = OttoscalerServiceStub(case.channel)
    before = time.time()
    try:
        answer = await stub.ScaleDown(request, timeout=CALL_SECONDS)
        there = datetime.fromisoformat(answer.completed_at).timestamp()
    except (grpc.aio.AioRpcError, ValueError):
        return [warn("the service's clock can't be told", "times in logs may not be comparable")]
    after = time.time()
    difference = there - (before + after) / 2
    case.facts["clock_difference_s"] = round(difference, 3)
    if abs(difference) > CLOCK_SECONDS + (after - before) / 2:
        way = "ahead of" if difference > 0 else "behind"
        return [
            warn(
                f"the service's clock is {abs(difference):.1f} s {way} this machine's",
                "synchronise both (NTP); --since and durations go wrong by that",
            )
        ]
    return [ok(f"the service's clock is this machine's, within {max(abs(difference), (after - before) / 2) + 0.001:.2f} s")]


async def room(case: Case) -> list[Finding]:
    """More workers may run."""
    stub: Any = OttoscalerServiceStub(case.channel)
    try:
        answer = await stub.GetWorkerStatus(WorkerStatusRequest(), timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError as error:
        return [fail(f"workers can't be asked for: {error.code().name}", "look into the scaler's log")]
    case.facts["workers"] = {"running": answer.running_count, "pending": answer.pending_count, "cap": answer.room_limit}
    words = f"{answer.running_count} workers run and {answer.pending_count} wait"
    if not answer.room_limit:
        return [ok(f"{words}; this server does not tell its cap")]
    free = answer.room_limit - answer.running_count
    if free <= 0:
        return [
            warn(
                f"no room: {words}, under a cap of {answer.room_limit}",
                "wait, stop some (ottoctl scale down), or raise OTTO_SCALER_MAX_WORKERS",
            )
        ]
    return [ok(f"{words}; {free} more of {answer.room_limit} may run")]
