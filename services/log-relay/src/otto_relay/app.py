"""The composition root of the log-relay."""

import asyncio
import errno
import fcntl
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from otto_kubekit.errors import ConfigurationError
from otto_kubekit.settings import KubeSettings
from otto_relay import spans
from otto_relay.collector import Collector
from otto_relay.errors import RequestError, SpoolWriteError
from otto_relay.files import Files
from otto_relay.forwarder import Forwarder
from otto_relay.handler import Reach, Tally
from otto_relay.handler_client import OttoHandler
from otto_relay.handler_service import SERVICE as HANDLER_SERVICE
from otto_relay.handler_service import HandlerLogs
from otto_relay.metrics import Intake, Push, Spool
from otto_relay.notifier import Notifier
from otto_relay.outbox import Outbox, Outboxes
from otto_relay.outgoing import Outgoing
from otto_relay.pipelines import ExecutorRuns
from otto_relay.push import Pushes
from otto_relay.registry import Registry, directory_name
from otto_relay.retention import Retention
from otto_relay.service import SERVICE, LogStreaming
from otto_relay.settings import Settings
from otto_relay.sources.file import FileSource
from otto_relay.sources.kubernetes import KubernetesSource
from otto_relay.sources.protocol import LogSource
from otto_relay.tracking import Tracker
from otto_relay.worker_log import WorkerLog
from otto_relay.workers import Releases, ScalerFleet, watch_workers
from otto_runtime.channels import dial
from otto_runtime.launch import StartError
from otto_runtime.server import Component
from otto_runtime.telemetry import registered, tell, telling
from ottoscaler.v1 import otto_handler_log_service_pb2, ottoscaler_service_pb2, pipeline_service_pb2
from ottoscaler.v1.otto_handler_log_service_pb2_grpc import OttoHandlerLogServiceStub, add_OttoHandlerLogServiceServicer_to_server
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.pipeline_service_pb2_grpc import PipelineServiceStub

log = logging.getLogger(__name__)

_SWEEP = 1.0
"""Seconds between looks for workers that have stopped sending."""


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Makes the spool directory and holds it against other instances. Raises StartError."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise StartError(
            f"the spool directory {directory} can't be used: {what}. Make it writable or name another one in OTTO_RELAY_SPOOL_DIR"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StartError(
                f"the spool directory {directory} is held by another log-relay. Stop that one "
                "or name another directory in OTTO_RELAY_SPOOL_DIR"
            ) from error
        yield
    finally:
        os.close(descriptor)


@asynccontextmanager
async def relay_component(
    settings: Settings,
    scaler_address: str | None = None,
    executor_address: str | None = None,
    source: LogSource | None = None,
    kube: KubeSettings | None = None,
) -> AsyncIterator[Component]:
    """The log-relay, ready to be served. Addresses win over those of the settings, and so does `source`; `kube` says which cluster.

    Raises StartError when the spool directory or the Kubernetes credentials can't be used.
    """
    spool_dir = settings.spool_dir.expanduser().absolute()
    files = Files(settings.max_open_files)
    registry = Registry(spool_dir, files, settings.segment_bytes)
    with _held(spool_dir):
        try:
            try:
                await asyncio.to_thread(registry.load)
            except OSError as error:
                raise StartError(f"the spool directory {spool_dir} can't be read: {error.strerror}") from error
            except SpoolWriteError as error:
                raise StartError(f"the spool directory {spool_dir} can't be used: {error}") from error
            async with (
                _source(settings, source, kube or KubeSettings()) as chosen,
                dial(
                    scaler_address or settings.scaler_address, [ottoscaler_service_pb2.DESCRIPTOR.services_by_name["OttoscalerService"]]
                ) as scaler,
                dial(
                    executor_address or settings.executor_address, [pipeline_service_pb2.DESCRIPTOR.services_by_name["PipelineService"]]
                ) as executor,
            ):
                async with _handler(settings, registry, spool_dir / "handler", files) as handler:
                    yield _composed(settings, spool_dir, registry, chosen, scaler, executor, handler)
        finally:
            files.close()


@asynccontextmanager
async def _source(settings: Settings, given: LogSource | None, kube: KubeSettings) -> AsyncIterator[LogSource]:
    """The one that is given, else the one that the settings name. Raises StartError."""
    if given is not None:
        yield given
    elif settings.source == "kubernetes":
        # Imports much; who reads files does without.
        from otto_kubekit.connecting import connect

        try:
            async with connect(kube, settings.namespace) as client:
                log.info("relay.source.kubernetes", extra={"namespace": client.namespace})
                yield KubernetesSource(client, settings.max_line_bytes)
        except ConfigurationError as error:
            raise StartError(f"OTTO_RELAY_SOURCE=kubernetes: {error}") from error
    else:
        files = FileSource(settings.workers_dir.expanduser().absolute(), settings.poll_interval, settings.max_line_bytes)
        try:
            yield files
        finally:
            files.close()


@dataclass(frozen=True)
class _Handler:
    """The push to otto-handler, if there is one."""

    relay_id: str
    outgoing: Outgoing | None = None
    runs: tuple[Callable[[], Coroutine[None, None, None]], ...] = ()


@asynccontextmanager
async def _handler(settings: Settings, registry: Registry, directory: Path, files: Files) -> AsyncIterator[_Handler]:
    relay_id = secrets.token_hex(16)
    address = settings.handler_address
    if not address:
        yield _Handler(relay_id)
        return
    outboxes, tally = Outboxes(directory, files, settings.handler_max_removed), Tally()
    descriptor = otto_handler_log_service_pb2.DESCRIPTOR.services_by_name["OttoHandlerLogService"]
    async with dial(address, [descriptor], settings.handler_timeout) as channel:
        client = OttoHandler(OttoHandlerLogServiceStub(channel), relay_id, traced=telling())
        reach = Reach(address, lambda: sum(outbox.owed for outbox in outboxes.all()))
        longest = settings.handler_longest_wait
        forwarder = Forwarder(
            outboxes,
            client,
            tally,
            reach,
            window=settings.handler_window,
            timeout=settings.handler_timeout,
            longest_wait=longest,
            settled=_tell_pushed,
        )
        notifier = Notifier(outboxes, client, tally, reach, longest)
        outgoing = Outgoing(outboxes, forwarder, notifier, directory_name, _tell_pushed)

        def resume() -> None:
            outboxes.load()
            outgoing.resume(registry.workers.values())

        try:
            await asyncio.to_thread(resume)
        except (OSError, SpoolWriteError) as error:
            raise StartError(f"the spool directory {directory} can't be used: {error}") from error
        registry.observer = outgoing
        with registered(Push(tally, outboxes)):
            yield _Handler(relay_id, outgoing, (forwarder.run, notifier.run))


def _tell_pushed(outbox: Outbox) -> None:
    if telling() and (span := spans.pushed(outbox)) is not None:
        tell("otto_relay", span)


def _tell_collected(known: WorkerLog, outgoing: Outgoing | None) -> None:
    if telling() and known.facts.traceparent:
        tell("otto_relay", spans.collected(known.facts))
    if outgoing is not None:
        outgoing.completed(known)


def _composed(
    settings: Settings,
    spool_dir: Path,
    registry: Registry,
    source: LogSource,
    scaler: grpc.aio.Channel,
    executor: grpc.aio.Channel,
    handler: _Handler,
) -> Component:
    outgoing = handler.outgoing
    workers = OttoscalerServiceStub(scaler)
    tracker = Tracker(registry, ExecutorRuns(PipelineServiceStub(executor)), settings.stage_wait)
    releases = Releases(workers, settings.release_interval)
    collector = Collector(
        registry,
        source,
        settings.max_line_bytes,
        settings.stage_wait,
        collected=lambda known: releases.add(known.worker_id),
        noted=outgoing.noted if outgoing else lambda _: None,
        vanished=outgoing.vanished if outgoing else lambda _: None,
        completed=lambda known: _tell_collected(known, outgoing),
        joined=lambda known: tracker.track(registry.build(known.facts.pipeline_id)) if known.facts.pipeline_id else None,
    )
    pushes = Pushes(registry, settings.max_pushed_workers, settings.max_line_bytes, settings.max_metadata_bytes, settings.push_idle)
    if outgoing:
        pushes.tell(outgoing.told)
    retention = Retention(registry, settings.retention_seconds, settings.retention_bytes)
    streaming = LogStreaming(settings, registry, tracker, pushes, ScalerFleet(workers, settings.peer_timeout))

    def register(server: grpc.aio.Server) -> None:
        streaming.register(server)
        add_OttoHandlerLogServiceServicer_to_server(HandlerLogs(pushes, handler.relay_id), server)

    async def sweep() -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            pushes.end_idle()

    async def run(ready: Callable[[], None]) -> None:
        pushes.resume()
        if telling():
            for span in spans.to_tell_again(registry.workers.values()):
                tell("otto_relay", span)
        with registered(Intake(collector, pushes)), registered(Spool(registry, retention, spool_dir)):
            async with asyncio.TaskGroup() as group:
                collector.start(group)
                tracker.start(group)
                group.create_task(releases.run(), name="release workers")
                group.create_task(retention.run(settings.retention_interval), name="retention")
                group.create_task(sweep(), name="end idle workers")
                for push in handler.runs:
                    group.create_task(push(), name=push.__qualname__)
                await watch_workers(workers, collector, ready)

    return Component("log-relay", (SERVICE, HANDLER_SERVICE), register, run, (RequestError,), completes=(f"{SERVICE}/TailLogs",))
