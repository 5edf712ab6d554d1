"""The composition root: settings → store, channel to the scaler → conductor → servicer."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from typing import Any

import grpc.aio

from otto_executor.conductor import Conductor
from otto_executor.decisions import Patience
from otto_executor.definition import Definition
from otto_executor.errors import ExecutorError, StoreUnusableError
from otto_executor.metrics import RunMetrics
from otto_executor.retention import Keeping
from otto_executor.retry import RetryPolicy
from otto_executor.run_state import RunState
from otto_executor.runner import Means, Watch
from otto_executor.service import PipelineService
from otto_executor.settings import Settings
from otto_executor.spans import run_spans, told_again
from otto_executor.stores import Outside, RunStore
from otto_executor.stores.sqlite import open_store
from otto_executor.translate_spec import spec_of, understood
from otto_executor.workers import ScalerWorkers
from otto_kubekit.errors import ConfigurationError
from otto_kubekit.settings import KubeSettings
from otto_runtime import spans
from otto_runtime.channels import dial
from otto_runtime.launch import StartError
from otto_runtime.replicas import AddressError, Place, Replicas, replicas
from otto_runtime.server import Component
from otto_runtime.tasks import cancelled
from otto_runtime.telemetry import new_traceparent, registered, tell, telling
from ottoscaler.v1 import ottoscaler_service_pb2, pipeline_service_pb2
from ottoscaler.v1.pipeline_service_pb2_grpc import add_PipelineServiceServicer_to_server


@asynccontextmanager
async def executor_component(
    settings: Settings, scaler_address: str = "", kube: KubeSettings | None = None, at: Place | None = None
) -> AsyncIterator[Component]:
    """PipelineService over the store that the settings name; `kube` says which cluster. `scaler_address` wins over the settings'.

    `at` says where it is served; without it there are no replicas, whatever the settings say. Raises StartError when the memory of runs
    can't be opened.
    """
    async with AsyncExitStack() as stack:
        part = await _replicas(settings, kube or KubeSettings(), at, stack) if at and settings.lease else None
        store, outside, known = await _opened(settings, kube or KubeSettings(), stack, part.acts if part else None)
        scaler = ottoscaler_service_pb2.DESCRIPTOR.services_by_name["OttoscalerService"]
        channel = await stack.enter_async_context(dial(scaler_address or settings.scaler_address, [scaler]))
        conductor, metrics = conductor_over(settings, store, channel, outside)
        stack.enter_context(registered(metrics))
        servicer = PipelineService(conductor, settings)

        def register(server: grpc.aio.Server) -> None:
            add_PipelineServiceServicer_to_server(servicer, server)

        async def act(ready: Callable[[], None]) -> None:
            async with known(), AsyncExitStack() as beside:
                if telling():
                    again = asyncio.create_task(told_again(store, tell_run), name="tell spans again")
                    beside.push_async_callback(cancelled, again)
                await conductor.run(ready)

        service = pipeline_service_pb2.DESCRIPTOR.services_by_name["PipelineService"].full_name
        yield Component(
            name="pipeline-executor",
            services=(service,),
            register=register,
            run=part.led(act) if part else act,
            public_errors=(ExecutorError,),
            hand_on=part.hand_on if part else None,
            begins={f"{service}/ExecutePipeline": lambda request: bool(request.stages)},
        )


def tell_run(definition: Definition, state: RunState) -> None:
    """Tells the spans of an ended run, if anybody is told."""
    if telling() and spans.is_sampled(definition.traceparent):
        for span in run_spans(definition, state):
            tell("otto_executor", span)


async def _replicas(settings: Settings, kube: KubeSettings, at: Place, stack: AsyncExitStack) -> Replicas:
    """Our part among the replicas that the lease chooses from. Raises StartError."""
    from otto_kubekit.election import candidate

    if settings.store != "kubernetes":
        raise StartError("OTTO_EXECUTOR_LEASE is for replicas with one memory: set OTTO_EXECUTOR_STORE=kubernetes, or no lease")
    try:
        taking_part = candidate(kube, settings.namespace, settings.lease, at.advertised(), *at.lease_times())
        election = await stack.enter_async_context(taking_part)
    except (ConfigurationError, AddressError) as error:
        raise StartError(f"OTTO_EXECUTOR_LEASE={settings.lease}: {error}") from error
    return await stack.enter_async_context(replicas(election, at.runtime, "pipeline-executor"))


async def _opened(
    settings: Settings, kube: KubeSettings, stack: AsyncExitStack, fence: Callable[[], bool] | None
) -> tuple[RunStore, Outside | None, Callable[[], AbstractAsyncContextManager[None]]]:
    """The store, closed by `stack`; what others do with it, where they can; and in what it has to be used.

    Nothing of the cluster is changed while `fence` is false.
    """
    if settings.store == "kubernetes":
        from otto_executor.stores.kubernetes import KubernetesStore, watched  # only where there is a cluster: these cost 20 MB
        from otto_kubekit.connecting import connect

        try:
            client = await stack.enter_async_context(connect(kube, settings.namespace))
        except ConfigurationError as error:
            raise StartError(f"the cluster that is to keep the runs can't be used: {error}") from error
        client.transport.fence = fence
        kept = KubernetesStore(client, settings.instance, spec_of)
        return kept, kept.outside, partial(watched, kept)
    try:
        store: RunStore = await open_store(settings.database)
    except StoreUnusableError as error:
        raise StartError(str(error)) from error
    stack.push_async_callback(store.close)
    return store, None, nullcontext


def conductor_over(
    settings: Settings, store: RunStore, channel: grpc.aio.Channel, outside: Outside | None = None
) -> tuple[Conductor, RunMetrics]:
    """The conductor that the settings describe, and what is counted of it."""
    metrics = RunMetrics(lambda: conductor.standing(), settings.max_active_pipelines)  # noqa: PLW0108  the conductor is made below

    def ended(definition: Definition, state: RunState) -> None:
        metrics.ended(definition, state)
        tell_run(definition, state)

    infrastructure = RetryPolicy(retries=settings.infrastructure_retries, delay=settings.infrastructure_retry_delay, multiplier=2.0)
    means = Means(
        store=store,
        workers=ScalerWorkers(channel),
        watch=Watch(),
        patience=Patience(
            infrastructure=infrastructure, grace=settings.stop_grace, margin=settings.stop_margin, unseen=settings.unseen_timeout
        ),
        draw=random.random,
        journal_limit=settings.journal_messages,
        notice_after=settings.unavailable_notice,
        ended=ended,
    )
    keeping = Keeping(
        workspace=settings.workspace_retention,
        runs=settings.run_retention,
        count=settings.run_retention_count,
        sweep=settings.retention_interval,
    )

    def read(spec: Mapping[str, Any], pipeline_id: str) -> tuple[Definition, bytes]:
        return understood(spec, pipeline_id, settings, new_traceparent())

    conductor = Conductor(means, keeping, settings.max_active_pipelines, None if outside is None else (outside, read))
    return conductor, metrics
