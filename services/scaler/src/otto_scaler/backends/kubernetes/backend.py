"""The Kubernetes backend: WorkerBackend over pods."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from otto_kubekit.bodies import encode, json_patch, merge
from otto_kubekit.client import Client
from otto_kubekit.errors import AlreadyExistsError, ConflictError, InvalidError, KubeError, NotFoundError
from otto_kubekit.kinds import EVENTS
from otto_kubekit.objects import Event
from otto_kubekit.watching import Watching
from otto_runtime import spans
from otto_runtime.tasks import Backoff
from otto_scaler.backends.kubernetes import manifest, marks
from otto_scaler.backends.kubernetes.claims import ClaimPlan, Claims, claim_refusal
from otto_scaler.backends.kubernetes.deadlines import Action, Due
from otto_scaler.backends.kubernetes.entry import Entry
from otto_scaler.backends.kubernetes.lasting import Lasting
from otto_scaler.backends.kubernetes.manifest import Plan
from otto_scaler.backends.kubernetes.pace import Pace
from otto_scaler.backends.kubernetes.pods import WORKER_PODS, WorkerPod
from otto_scaler.backends.kubernetes.refusals import away, edge, may_pass, refusal, said
from otto_scaler.backends.kubernetes.tending import Tending
from otto_scaler.backends.protocol import Observation, Seen, Synced
from otto_scaler.errors import AwayError, BackendError, RefusedError
from otto_scaler.worker import Cause, Identity, Worker, WorkerSpec

log = logging.getLogger(__name__)

CREATE_SECONDS = 10.0
"""How long a creation is tried again that the cluster could not answer, or whose name an earlier pod still has; and a try's limit."""
MOST_REASON_CHARACTERS = 1000
STOP_TRIES = 5
SWEEP_SECONDS = 15.0
"""How often claims are looked at when nothing has happened: for those that could not be deleted."""


class KubernetesBackend:
    """Runs workers as pods of one namespace. Made by `opening.kubernetes_backend`."""

    def __init__(
        self,
        client: Client,
        plan: Plan,
        claim_plan: ClaimPlan | None = None,
        *,
        reconcile: float = 300.0,
        inactivity: float = 90.0,
        usage_interval: float = 0.0,
    ) -> None:
        """`claim_plan`: None if workspaces can't be had. In seconds: `reconcile`, how often a list looks for events that were lost;
        `inactivity`, after what silence a connection counts as broken; `usage_interval`, how often it is asked what workers use, 0: never.
        """
        self._client = client
        self._plan = plan
        self._claims = None if claim_plan is None else Claims(client, claim_plan, plan.instance)
        watching = Watching(labels=marks.selector(plan.instance, marks.WORKER), reconcile=reconcile, inactivity=inactivity)
        self._tending = Tending(client, watching, plan.pending_timeout, usage_interval=usage_interval)
        self._pace = Pace()
        self._lasting = Lasting(plan.pending_timeout)
        self._named: dict[str, int] = {}
        """How many workers that are being created name a workspace."""

    # The Protocol

    def unsupported(self, spec: WorkerSpec) -> list[tuple[str, str]]:
        """See WorkerBackend."""
        return list(manifest.problems(spec, self._plan))

    def place(self, worker: Worker) -> Mapping[str, str]:
        """See WorkerBackend."""
        told = {
            spans.NAMESPACE_NAME: self._client.namespace,
            spans.POD_NAME: worker.name,
            spans.POD_UID: worker.uid,
            spans.CONTAINER_NAME: marks.WORKER,
        }
        return {**told, spans.NODE_NAME: worker.node} if worker.node else told

    async def run(self) -> None:
        """See WorkerBackend: keeps the picture true, and ends workers whose time is over."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tending.watch(), name="watch pods")
            group.create_task(self._tending.keep_deadlines(self._overdue), name="keep deadlines of workers")
            group.create_task(self._tending.metering.run(), name="measure workers")
            if self._claims is not None:
                group.create_task(self._sweep(self._claims), name="delete claims that nobody uses")

    async def observe(self) -> AsyncIterator[Observation]:
        """See WorkerBackend. It outlives any trouble with the cluster, so it never raises."""
        tending = self._tending
        await tending.known.wait()
        tending.events.clear()
        tending.observed = True
        try:
            for entry in list(tending.entries.values()):
                yield Seen(entry.worker)
            yield Synced()
            while True:
                while tending.events:
                    yield tending.events.popleft()
                tending.more.clear()
                await tending.more.wait()
        finally:
            tending.observed = False

    async def create(self, spec: WorkerSpec, *, held: bool) -> None:
        """See WorkerBackend."""
        if spec.identity.name in self._tending.entries:
            return
        if spec.owner is not None and spec.owner.namespace not in {"", self._client.namespace}:
            # Kubernetes knows no owners across namespaces: it would take this one for gone, and delete the pod.
            spec = replace(spec, owner=None)
        workspace = self._plan.claim(spec)
        self._named[workspace] = self._named.get(workspace, 0) + 1
        self._tending.creating += 1
        try:
            if workspace and self._claims is not None:
                try:
                    await self._claims.ensure(spec)
                except KubeError as error:
                    raise claim_refusal(error, workspace) from error
            self._tending.see(await self._created(spec, held=held), live=True)
        except AwayError as error:
            raise self._lasting.judged(spec.identity.name, error) from error
        else:
            self._lasting.over(spec.identity.name)
        finally:
            self._tending.created()
            self._named[workspace] -= 1
            if not self._named[workspace]:
                del self._named[workspace]

    async def start(self, name: str) -> None:
        """See WorkerBackend. A cluster that is away is waited for: room that was given to a worker is nobody else's."""
        backoff = Backoff(initial=0.2, maximum=5.0)
        lasting = Lasting(self._plan.pending_timeout)
        while True:
            try:
                await self._let_run(name)
            except KubeError as error:
                if not may_pass(error) or isinstance(lasting.judged(name, away(error)), RefusedError):
                    raise BackendError(f"it could not be started: {said(error)}") from error
                log.warning("scaler.worker.start_delayed", extra={"worker": name, "why": said(error)})
            else:
                return
            await backoff.wait()

    async def stop(self, name: str, reason: str) -> None:
        """See WorkerBackend. A pod that has been given to a node is ended by its deadline, which keeps its log; any other is deleted."""
        with edge("it could not be stopped"):
            entry = await self._find(name)
        if entry is not None:
            await self._end(entry, Cause.CANCELLED, " ".join(reason.split())[:MOST_REASON_CHARACTERS] or "stopped on request")

    async def remove(self, name: str) -> None:
        """See WorkerBackend."""
        entry = self._tending.entries.get(name)
        if entry is None:
            return
        if not entry.worker.finished:
            raise ValueError(f"{name} has not ended")
        if not entry.gone:
            with edge("its pod could not be deleted"):
                try:
                    # Of a pod that counts as lost nobody will ever say that it has ended.
                    await self._client.delete(WORKER_PODS, name, uid=entry.uid, grace=0 if entry.concluded else None)
                except (NotFoundError, ConflictError):
                    log.debug("scaler.worker.vanished", extra={"worker": name})
        self._tending.forget(entry, pod_left=not entry.gone)

    async def delete_workspace(self, workspace: str) -> None:
        """See WorkerBackend."""
        if self._claims is None:
            return
        with edge("the deletion could not be noted"):
            await self._claims.mark(workspace)
        self._tending.freed.set()

    # Creating

    async def _created(self, spec: WorkerSpec, *, held: bool) -> WorkerPod:
        """The pod, new or there already; what may pass is tried again. Raises RefusedError, and AwayError when it has not passed."""
        name = spec.identity.name
        deadline = time.monotonic() + CREATE_SECONDS
        backoff = Backoff(initial=0.1, maximum=2.0)
        while True:
            try:
                async with self._pace.turn():
                    # Not before its turn: a request may be for a thousand workers, each with a megabyte of command and variables.
                    body = encode(manifest.pod(spec, self._plan, held=held))
                    return await self._client.create(WORKER_PODS, body, timeout=CREATE_SECONDS)
            except AlreadyExistsError:
                if (there := await self._there(spec)) is not None:
                    return there
                why = AwayError("an earlier pod of this name is still being deleted", answered=True)
            except KubeError as error:
                if not may_pass(error):
                    raise refusal(error) from error
                why = away(error)
                log.debug("scaler.worker.create_again", extra={"worker": name, "why": said(error)})
            if time.monotonic() >= deadline:
                raise why
            await backoff.wait()

    async def _there(self, spec: WorkerSpec) -> WorkerPod | None:
        """The pod that has the worker's name; None if it is about to go. Raises RefusedError when it is another's."""
        try:
            pod = await self._client.get(WORKER_PODS, spec.identity.name)
        except NotFoundError:
            return None
        except KubeError as error:
            if may_pass(error):
                return None
            raise refusal(error) from error
        labels = pod.metadata.labels
        ours = labels.get(marks.INSTANCE) == self._plan.instance and labels.get(marks.COMPONENT) == marks.WORKER
        if not ours or not _same(pod, spec.identity):
            raise RefusedError(f"a pod {pod.metadata.name} exists that is not this worker; use another task_id")
        return None if pod.metadata.deletion_timestamp is not None else pod

    async def _let_run(self, name: str) -> None:
        """Takes the gate away, if it is there. Raises KubeError, and BackendError when that is no use."""
        for _ in range(STOP_TRIES):
            entry = await self._find(name)
            if entry is None or entry.worker.finished or marks.GATE not in entry.gates:
                return
            gate = f"/spec/schedulingGates/{entry.gates.index(marks.GATE)}"
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            change = json_patch(
                [
                    {"op": "test", "path": "/metadata/uid", "value": entry.uid},
                    {"op": "test", "path": f"{gate}/name", "value": marks.GATE},
                    {"op": "remove", "path": gate},
                    {"op": "add", "path": f"/metadata/annotations/{marks.STARTED.replace('/', '~1')}", "value": now},
                ]
            )
            try:
                self._tending.see(await self._client.patch(WORKER_PODS, name, change), live=True)
            except NotFoundError:
                return
            except (InvalidError, ConflictError):
                await self._look_again(name)
            else:
                return
        raise BackendError("it could not be started: its pod is changed all the time")

    # Ending

    async def _end(self, entry: Entry, cause: Cause, words: str) -> None:
        """Makes a worker end and notes why. Harmless for one that has ended or is made to end already. Raises BackendError."""
        with edge("it could not be stopped"):
            for _ in range(STOP_TRIES):
                if entry.worker.finished or entry.stopping:
                    return
                try:
                    if entry.scheduled:
                        await self._end_running(entry, cause, words)
                    else:
                        await self._end_waiting(entry, cause, words)
                    return
                except NotFoundError:
                    return
                except ConflictError:
                    if (current := await self._look_again(entry.name)) is None or current.uid != entry.uid:
                        return
            raise BackendError("it could not be stopped: its pod is changed all the time")

    async def _overdue(self, entry: Entry, due: Due) -> None:
        """Makes a worker end whose time is over, or what still runs beside one that has ended. Raises BackendError.

        Where its pod says nothing of why it does not start (a volume that can't be mounted, an address that can't be had), the last warning
        about it does.
        """
        if due.action is Action.STOP_REST:
            await self._stop_rest(entry, due.words)
            return
        words = due.words
        if due.cause is Cause.INTERNAL:
            try:
                about = f"involvedObject.uid={entry.uid},type=Warning"
                warnings = (await self._client.list(EVENTS, fields=about)).items
            except KubeError as error:
                log.debug("scaler.events.unknown", extra={"worker": entry.name, "why": said(error)})
                warnings = []
            if last := max(warnings, key=_when, default=None):
                words = f"{last.reason}: {last.message}"
        await self._end(entry, due.cause, words)

    async def _stop_rest(self, entry: Entry, containers: str) -> None:
        """As a stop, but the worker has ended by itself, and the pod says so. Raises BackendError."""
        change = {
            "metadata": {"uid": entry.uid, "annotations": {marks.REST_STOPPED: containers}},
            "spec": {"activeDeadlineSeconds": 1},
        }
        with edge("what still runs in its pod could not be stopped"), suppress(NotFoundError, ConflictError):
            self._tending.see(await self._client.patch(WORKER_PODS, entry.name, merge(change)), live=True)

    async def _end_running(self, entry: Entry, cause: Cause, words: str) -> None:
        """SIGTERM, its grace, SIGKILL; then the pod stays, with its log. Why goes with it in one patch, so nothing can come between."""
        change = {
            "metadata": {"uid": entry.uid, "annotations": {marks.STOP_CAUSE: cause.name, marks.STOP_REASON: words}},
            "spec": {"activeDeadlineSeconds": 1},
        }
        self._tending.see(await self._client.patch(WORKER_PODS, entry.name, merge(change)), live=True)

    async def _end_waiting(self, entry: Entry, cause: Cause, words: str) -> None:
        """Deletes a pod that no node has: if none has got it meanwhile, which would be a conflict."""
        entry.verdict = (cause, words)
        try:
            await self._client.delete(WORKER_PODS, entry.name, uid=entry.uid, resource_version=entry.version)
        except KubeError as error:
            if not error.maybe_done:
                entry.verdict = None
            raise
        self._tending.conclude(entry, cause, words)

    # Looking

    async def _find(self, name: str) -> Entry | None:
        """The worker; the cluster is asked for one that has not been seen yet. Raises KubeError."""
        return self._tending.entries.get(name) or await self._look_again(name)

    async def _look_again(self, name: str) -> Entry | None:
        """The worker as it is now. Raises KubeError."""
        try:
            pod = await self._client.get(WORKER_PODS, name)
        except NotFoundError:
            return None
        if pod.metadata.labels.get(marks.INSTANCE) != self._plan.instance:
            return None
        self._tending.see(pod, live=True)
        return self._tending.entries.get(name)

    async def _sweep(self, claims: Claims) -> None:
        found = False
        await self._tending.known.wait()
        while True:
            self._tending.freed.clear()
            try:
                if not found:
                    await claims.find_marked()
                    found = True
                if claims.waiting:
                    await claims.sweep(lambda: self._tending.used() | self._named.keys())
            except KubeError as error:
                log.warning("scaler.claim.list_failed", extra={"why": said(error)})
            try:
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._tending.freed.wait()
            except TimeoutError:
                continue


def _when(event: Event) -> datetime:
    series = event.series.last_observed_time if event.series else None
    return series or event.last_timestamp or event.event_time or event.metadata.creation_timestamp or datetime.min.replace(tzinfo=UTC)


def _same(pod: WorkerPod, wanted: Identity) -> bool:
    try:
        found = marks.identity(pod.metadata)
    except ValueError:
        return False
    return (found.task_id, found.pipeline_id, found.stage_id, found.attempt, found.index) == (
        wanted.task_id,
        wanted.pipeline_id,
        wanted.stage_id,
        wanted.attempt,
        wanted.index,
    )
