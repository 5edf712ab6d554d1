"""What the services say over gRPC: health, runs and workers; of what was asked for only what identifies it."""

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ottoctl.bundle.archive import Item, Missing
from ottoctl.bundle.collecting import Found
from ottoctl.doctor.services import FILES, asked
from ottoctl.render import as_data
from ottoctl.words import short
from ottoscaler.v1.ottoscaler_service_pb2 import WorkerStatusRequest
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_pb2 import PipelineState
from ottoscaler.v1.pipeline_service_pb2 import GetPipelineRequest, ListPipelinesRequest
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub

CALL_SECONDS = 10.0
RUNS, WHOLE_RUNS = 200, 30
"""The newest ones: so many in short, and of those that go on or failed so many with their stages."""


async def services(address: str) -> AsyncIterator[Found]:
    """Health, runs and workers of the services at an address."""
    options = [("grpc.enable_http_proxy", 0), ("grpc.min_reconnect_backoff_ms", 3_000)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        for gather in (_health, _runs, _workers):
            try:
                yield await gather(channel)
            except grpc.aio.AioRpcError as error:
                yield Missing(f"services/{gather.__name__.strip('_')}.json", f"{address}: {error.code().name}: {short(error)}")


async def _health(channel: grpc.aio.Channel) -> Item:
    stub = health_pb2_grpc.HealthStub(channel)
    told = {}
    for name in FILES:
        answer = await asked(stub, name, CALL_SECONDS)
        told[name] = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return Item("services/health.json", "what each service says of its health", told)


async def _runs(channel: grpc.aio.Channel) -> Item:
    stub: Any = PipelineServiceStub(channel)
    listed = (await stub.ListPipelines(ListPipelinesRequest(page_size=RUNS), timeout=CALL_SECONDS)).pipelines
    interesting = {PipelineState.PIPELINE_STATE_RUNNING, PipelineState.PIPELINE_STATE_FAILED}
    whole: list[Any] = []
    for summary in listed:
        if summary.state in interesting and len(whole) < WHOLE_RUNS:
            run = await stub.GetPipeline(GetPipelineRequest(pipeline_id=summary.pipeline_id), timeout=CALL_SECONDS)
            run.ClearField("request")
            whole.append(as_data(run))
    about = f"the newest {RUNS} runs, and {WHOLE_RUNS} that go on or failed with their stages; nothing of what they run"
    return Item("services/runs.json", about, {"runs": [as_data(summary) for summary in listed], "whole": whole})


async def _workers(channel: grpc.aio.Channel) -> Item:
    stub: Any = OttoscalerServiceStub(channel)
    answer = await stub.GetWorkerStatus(WorkerStatusRequest(), timeout=CALL_SECONDS)
    for worker in answer.workers:
        worker.ClearField("labels")
    return Item("services/workers.json", "all workers that the scaler knows, without their labels", as_data(answer))
