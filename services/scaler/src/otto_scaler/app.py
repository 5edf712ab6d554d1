"""The composition root of the scaler: settings → backend → fleet → servicer."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import grpc.aio

from otto_kubekit.errors import ConfigurationError
from otto_kubekit.settings import KubeSettings
from otto_runtime.channels import dial
from otto_runtime.launch import StartError, raised_descriptor_limit
from otto_runtime.replicas import AddressError, Place, Replicas, replicas
from otto_runtime.server import Component
from otto_runtime.telemetry import registered, tell, telling
from otto_scaler.backends import WorkerBackend
from otto_scaler.errors import BackendUnusableError, CallError
from otto_scaler.fleet import Fleet
from otto_scaler.limits import Limits
from otto_scaler.metrics import WorkerMetrics
from otto_scaler.pipelines import Pipelines
from otto_scaler.service import OttoscalerServicer
from otto_scaler.settings import Settings
from otto_scaler.spans import WorkerSpans
from otto_scaler.translate.request import Bounds
from ottoscaler.v1 import (
    log_streaming_service_pb2,
    otto_handler_log_service_pb2,
    ottoscaler_service_pb2,
    ottoscaler_service_pb2_grpc,
    pipeline_service_pb2,
)

log = logging.getLogger(__name__)
SERVICE = ottoscaler_service_pb2.DESCRIPTOR.services_by_name["OttoscalerService"]
DESCRIPTORS = 512
"""Files that are open whatever the number of workers: connections of clients, stored logs, databases."""
DESCRIPTORS_PER_WORKER = 4
"""Files for each worker that runs: two for its supervisor here, and in standalone two for its log in the relay."""
EXECUTOR_SERVICE = pipeline_service_pb2.DESCRIPTOR.services_by_name["PipelineService"]
DESCRIBED = tuple(
    service.full_name
    for file in (pipeline_service_pb2, log_streaming_service_pb2, otto_handler_log_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
)
"""What the others serve: in front of all three, reflection is asked here."""


@asynccontextmanager
async def scaler_component(
    settings: Settings,
    executor_address: str,
    backend: WorkerBackend | None = None,
    kube: KubeSettings | None = None,
    at: Place | None = None,
) -> AsyncIterator[Component]:
    """The scaler with the backend that the settings name, or the one that is given. Raises StartError when that can't be used.

    `at` says where it is served; without it there are no replicas, whatever the settings say.
    """
    async with AsyncExitStack() as stack:
        part = await _replicas(settings, kube or KubeSettings(), at, stack) if at and settings.lease else None
        if backend is None:
            try:
                backend = await stack.enter_async_context(_backend(settings, kube or KubeSettings(), part.acts if part else None))
            except BackendUnusableError as error:
                raise StartError(str(error)) from error
        channel = await stack.enter_async_context(dial(executor_address, [EXECUTOR_SERVICE]))
        fleet = Fleet(
            backend,
            Limits(
                max_workers=settings.max_workers,
                max_queued=settings.max_queued,
                finished_ttl=settings.finished_ttl,
                unreleased_limit=max(settings.unreleased_limit, settings.finished_ttl),
                watch_backlog=settings.watch_backlog,
                peer_grace=settings.peer_grace,
            ),
        )
        metrics = WorkerMetrics(fleet)
        worker_spans = WorkerSpans(fleet, backend.place, partial(tell, "otto_scaler"))
        stack.enter_context(registered(metrics))
        pipelines = Pipelines(channel, settings.executor_patience)
        servicer = OttoscalerServicer(fleet, backend, pipelines, _bounds(settings), settings.listed_workers)

        def register(server: grpc.aio.Server) -> None:
            ottoscaler_service_pb2_grpc.add_OttoscalerServiceServicer_to_server(servicer, server)

        act = part.led(fleet.run) if part else fleet.run

        async def run(ready: Callable[[], None]) -> None:
            def known() -> None:
                metrics.begin()
                if telling():
                    worker_spans.begin()
                ready()

            async with asyncio.TaskGroup() as group:
                group.create_task(_awaited(act(known)), name="fleet")
                group.create_task(pipelines.run(), name="cancel pipelines of callers that left")

        yield Component(
            name="scaler",
            services=(SERVICE.full_name,),
            register=register,
            run=run,
            public_errors=(CallError,),
            described=DESCRIBED,
            hand_on=part.hand_on if part else None,
            begins={f"{SERVICE.full_name}/ExecutePipeline": lambda request: bool(request.stages)},
        )


async def _replicas(settings: Settings, kube: KubeSettings, at: Place, stack: AsyncExitStack) -> Replicas:
    """Our part among the replicas that the lease chooses from. Raises StartError."""
    from otto_kubekit.election import candidate

    if settings.backend != "kubernetes":
        raise StartError("OTTO_SCALER_LEASE is for replicas that make pods: set OTTO_SCALER_BACKEND=kubernetes, or no lease")
    try:
        taking_part = candidate(kube, settings.namespace, settings.lease, at.advertised(), *at.lease_times())
        election = await stack.enter_async_context(taking_part)
    except (ConfigurationError, AddressError) as error:
        raise StartError(f"OTTO_SCALER_LEASE={settings.lease}: {error}") from error
    # Whoever watches a pipeline is served by any replica, so that the end of one that acts is none of theirs.
    return await stack.enter_async_context(replicas(election, at.runtime, "scaler", anywhere=(f"{SERVICE.full_name}/ExecutePipeline",)))


async def _awaited(work: Awaitable[None]) -> None:
    await work


def _backend(settings: Settings, kube: KubeSettings, fence: Callable[[], bool] | None) -> AbstractAsyncContextManager[WorkerBackend]:
    """Imports what it needs itself: a client of Kubernetes is 30 MB that a laptop need not have, supervisors are nothing a pod has."""
    if settings.backend == "kubernetes":
        from otto_scaler.backends.kubernetes.opening import kubernetes_backend

        return kubernetes_backend(settings, kube, fence)
    from otto_scaler.backends.process.environment import Surroundings
    from otto_scaler.backends.process.opening import process_backend

    first, limit = raised_descriptor_limit()
    if limit < (wanted := DESCRIPTORS + DESCRIPTORS_PER_WORKER * settings.max_workers):
        log.warning("scaler.descriptors_few", extra={"limit": limit, "wanted": wanted, "workers": settings.max_workers})
    return process_backend(
        _absolute(settings.workers_dir),
        _absolute(settings.workspaces_dir),
        Surroundings(
            secrets_dir=_absolute(settings.secrets_dir),
            path=settings.worker_path or os.environ.get("PATH", os.defpath),
            language=settings.worker_lang,
            descriptors=max(0, first),
        ),
    )


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        max_workers_per_request=settings.max_workers_per_request,
        default_timeout=settings.default_timeout,
        max_timeout=max(settings.max_timeout, settings.default_timeout),
        default_stop_grace=settings.default_stop_grace,
        max_stop_grace=max(settings.max_stop_grace, settings.default_stop_grace),
        default_command=settings.default_command,
        exporting=_exporting(settings),
    )


def _exporting(settings: Settings) -> tuple[tuple[str, str], ...]:
    """OpenTelemetry's own variables. No headers: those hold credentials, which workers get as any other secret, where they are to."""
    if not settings.worker_otlp_endpoint:
        return ()
    return ("OTEL_EXPORTER_OTLP_ENDPOINT", settings.worker_otlp_endpoint), ("OTEL_EXPORTER_OTLP_PROTOCOL", settings.worker_otlp_protocol)


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()
