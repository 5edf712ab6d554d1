"""Pods that run: scheduler and kubelet of the fake in one.

Each pod is a task: it waits for its gates, gets a node, runs its init containers one by one and its containers together, is stopped by
its deadline or its deletion, and ends as Succeeded or Failed. `restartPolicy` is taken for Never.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from otto_kubekit.testing.containers import End, Life, Script, Stop, local_process, scripted
from otto_kubekit.testing.logs import ContainerLog, Pause, reading, send
from otto_kubekit.testing.refusals import bad_request, node_refuses
from otto_kubekit.testing.resources import CLAIMS, PODS
from otto_kubekit.testing.storage import Change, Object, Storage
from otto_kubekit.testing.verbs import now

__all__ = ["Kubelet", "Script", "local_process"]
NODE = "fake-node"
_DEADLINE = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
Chosen = Script | Life


class Kubelet:
    """Runs the pods of a storage until it is stopped."""

    def __init__(self, storage: Storage) -> None:
        self.script: Callable[[Object, str], Chosen] = lambda _pod, _container: Script()
        self.split_streams: bool | None = False
        """Whether stdout and stderr are told apart where that is asked for; None: the question is not known, and so ignored."""
        self.frozen = False
        self._storage = storage
        self._logs: dict[tuple[str, str], ContainerLog] = {}
        self._ends: dict[tuple[str, str], asyncio.Future[End]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self._claims_changed = asyncio.Event()
        storage.listen(self._hear)

    async def close(self) -> None:
        """Ends all pods' tasks, and their processes."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def log(self, pod: Object, container: str) -> ContainerLog:
        """The log of a container."""
        return self._logs.setdefault((pod["metadata"]["uid"], container), ContainerLog())

    def end(self, pod: Object, container: str, end: End) -> None:
        """Ends a scripted container now."""
        future = self._end(pod, container)
        if not future.done():
            future.set_result(end)

    def _end(self, pod: Object, container: str) -> "asyncio.Future[End]":
        key = (pod["metadata"]["uid"], container)
        if key not in self._ends:
            self._ends[key] = asyncio.get_running_loop().create_future()
        return self._ends[key]

    def _hear(self, change: Change) -> None:
        if change.resource is CLAIMS:
            self._claims_changed.set()
            self._claims_changed = asyncio.Event()
        if change.resource is not PODS:
            return
        uid = change.last["metadata"]["uid"]
        if change.after is None:
            if task := self._tasks.pop(uid, None):
                task.cancel()
            for key in [key for key in self._logs if key[0] == uid]:
                self._logs.pop(key).end()
        elif change.before is None:
            task = asyncio.create_task(self._live(change.last), name=f"pod {change.last['metadata']['name']}")
            self._tasks[uid] = task
        if event := self._changed.pop(uid, None):
            event.set()

    def news(self, uid: str) -> asyncio.Event:
        """Set by the next change of this pod."""
        return self._changed.setdefault(uid, asyncio.Event())

    def _now(self, pod: Object) -> Object | None:
        """The pod as it is now, None if it is gone."""
        meta = pod["metadata"]
        there = self._storage.get(PODS, meta["namespace"], meta["name"])
        return there if there is not None and there["metadata"]["uid"] == meta["uid"] else None

    def set_status(self, pod: Object, change: Mapping[str, Any]) -> None:
        """Changes a pod's status."""
        there = self._now(pod)
        if there is not None:
            self._storage.put(PODS, {**there, "status": {**there["status"], **change}})

    async def _until(self, pod: Object, condition: Callable[[Object], bool]) -> Object:
        uid = pod["metadata"]["uid"]
        while True:
            event = self.news(uid)
            there = self._now(pod)
            if there is None:
                raise asyncio.CancelledError
            if condition(there):
                return there
            await event.wait()

    async def _claims_bound(self, pod: Object) -> None:
        """Waits for the claims that are there to be bound: before that no pod gets a node."""
        names = [volume.get("persistentVolumeClaim", {}).get("claimName", "") for volume in pod["spec"].get("volumes", [])]
        while True:
            changed = self._claims_changed
            claims = [self._storage.get(CLAIMS, pod["metadata"]["namespace"], name) for name in names if name]
            if all(claim is None or claim["status"]["phase"] == "Bound" for claim in claims):
                return
            await changed.wait()

    async def serve_log(self, request: web.Request, pod: Object, closing: asyncio.Event, pause: Pause) -> web.StreamResponse:
        """Answers a request for the log of a container."""
        name = pod["metadata"]["name"]
        names = [c["name"] for c in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]]
        container = request.query.get("container", "")
        how = reading(request, self.split_streams)
        if not container:
            if len(names) > 1:
                raise bad_request(f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]")
            container = names[0]
        if container not in names:
            raise bad_request(f"container {container} is not valid for pod {name}")
        if not pod["spec"].get("nodeName"):
            return web.Response(text="")
        statuses = [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]
        state: dict[str, Any] = next((s["state"] for s in statuses if s["name"] == container), {})
        if "running" not in state and "terminated" not in state:
            reason = state.get("waiting", {}).get("reason", "ContainerCreating")
            raise bad_request(f'container "{container}" in pod "{name}" is waiting to start: {reason}')
        log = self.log(pod, container)
        if log.gone and log.refused:
            raise node_refuses(log.gone)
        return web.Response(text=log.gone) if log.gone else await send(request, log, how, closing, pause)

    async def _live(self, pod: Object) -> None:
        pod = await self._until(pod, lambda p: not p["spec"].get("schedulingGates"))
        await self._claims_bound(pod)
        pod = await self._until(pod, lambda _: True)
        chosen = {c["name"]: self.script(pod, c["name"]) for c in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]}
        words = next((s.unschedulable for s in chosen.values() if isinstance(s, Script) and s.unschedulable), "")
        if words:
            condition = {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": words,
                "lastTransitionTime": now(),
            }
            self.set_status(pod, {"conditions": [condition]})
            return
        scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}
        status = {**pod["status"], "conditions": [scheduled], "startTime": now(), "hostIP": "127.0.0.1"}
        run = _Run(self, self._storage.put(PODS, {**pod, "spec": {**pod["spec"], "nodeName": NODE}, "status": status}), chosen)
        await run.run()


class _Run:
    """One pod on its node."""

    def __init__(self, kubelet: Kubelet, pod: Object, chosen: dict[str, Chosen]) -> None:
        self._kubelet = kubelet
        self._pod = pod
        self._chosen = chosen
        self._states: dict[str, dict[str, Any]] = {c: {"waiting": {"reason": "PodInitializing"}} for c in chosen}
        self._init = [c["name"] for c in pod["spec"].get("initContainers", [])]
        self._stop = Stop()
        self._why: tuple[str, str] = ("", "")
        self._phase = "Pending"

    async def run(self) -> None:
        spec = self._pod["spec"]
        watch = asyncio.create_task(self._watch_for_stop(), name="stop of a pod")
        try:
            ends: list[End] = []
            for container in spec.get("initContainers", []):
                ends.append(await self._container(container))
                if ends[-1].exit_code:
                    break
            else:
                self._phase = "Running"
                ends = list(await asyncio.gather(*(self._container(c) for c in spec["containers"])))
            failed = any(end.exit_code for end in ends) or bool(self._why[0])
            self._phase = "Failed" if failed else "Succeeded"
            self._publish()
            pod = await self._kubelet._until(self._pod, lambda p: "deletionTimestamp" in p["metadata"])
            await self._gone(pod)
        finally:
            watch.cancel()

    async def _gone(self, pod: Object) -> None:
        meta = pod["metadata"]
        if meta.get("finalizers"):
            self._kubelet._storage.put(PODS, {**pod, "metadata": {**meta, "deletionGracePeriodSeconds": 0}})
            return
        self._kubelet._storage.remove(PODS, meta["namespace"], meta["name"])

    async def _watch_for_stop(self) -> None:
        """Waits for the deadline or the deletion, then asks the containers to end."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        while True:
            pod = self._kubelet._now(self._pod)
            if pod is None:
                return
            event = self._kubelet.news(pod["metadata"]["uid"])
            if "deletionTimestamp" in pod["metadata"]:
                self._stop.want(pod["metadata"].get("deletionGracePeriodSeconds", 30))
                return
            deadline = pod["spec"].get("activeDeadlineSeconds")
            left = None if deadline is None else started + deadline - loop.time()
            if left is not None and left <= 0:
                self._why = _DEADLINE
                self._stop.want(pod["spec"].get("terminationGracePeriodSeconds", 30))
                return
            try:
                async with asyncio.timeout(left):
                    await event.wait()
            except TimeoutError:
                continue

    async def _container(self, container: dict[str, Any]) -> End:
        name = container["name"]
        life = self._chosen[name]
        log = self._kubelet.log(self._pod, name)
        if isinstance(life, Script):
            self._states[name] = {
                "waiting": {"reason": life.waiting or "ContainerCreating", **({"message": life.message} if life.waiting else {})}
            }
            self._publish()
            stopped = asyncio.create_task(self._stop.wanted())
            try:
                await asyncio.wait({stopped}, timeout=None if life.waiting else life.after)
                if stopped.done():
                    return End(137 if life.waiting else life.stop_code)
            finally:
                stopped.cancel()
            life = scripted(life, self._kubelet._end(self._pod, name))
        started = now()
        self._states[name] = {"running": {"startedAt": started}}
        self._publish()
        try:
            end = await life(self._pod, container, log, self._stop)
        finally:
            log.end()
        reason = end.reason or ("Completed" if end.exit_code == 0 else "Error")
        self._states[name] = {
            "terminated": {
                "exitCode": end.exit_code,
                "reason": reason,
                **({"message": end.message} if end.message else {}),
                "startedAt": started,
                "finishedAt": now(),
                "containerID": f"fake://{self._pod['metadata']['uid']}/{name}",
            }
        }
        self._publish()
        return end

    def _publish(self) -> None:
        """Writes what is so into the pod's status."""
        images = {c["name"]: c["image"] for c in [*self._pod["spec"].get("initContainers", []), *self._pod["spec"]["containers"]]}
        statuses = {
            name: {
                "name": name,
                "image": images[name],
                "imageID": "",
                "ready": "running" in state,
                "started": "running" in state,
                "restartCount": 0,
                "state": state,
                "lastState": {},
            }
            for name, state in self._states.items()
        }
        reason, message = self._why if self._phase == "Failed" else ("", "")
        change: dict[str, Any] = {
            "phase": self._phase,
            "podIP": "127.0.0.1",
            "containerStatuses": [s for name, s in statuses.items() if name not in self._init],
        }
        if self._init:
            change["initContainerStatuses"] = [s for name, s in statuses.items() if name in self._init]
        if reason:
            change.update(reason=reason, message=message)
        self._kubelet.set_status(self._pod, change)
