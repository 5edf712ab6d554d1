"""Pods as a cluster reports them: what the kubelet, the scheduler and the controllers of Kubernetes 1.37 write into status and metadata."""

import json
from typing import Any

from otto_scaler.backends.kubernetes import manifest, marks
from otto_scaler.backends.kubernetes.manifest import Plan
from otto_scaler.backends.kubernetes.pods import WORKER_PODS, WorkerPod
from otto_scaler.backends.kubernetes.template import WorkerTemplate
from otto_scaler.worker import Worker, WorkerSpec

from .conftest import spec

PLAN = Plan("ottoscaler", WorkerTemplate(worker={"image": "registry.example.com/tools:1"}), pending_timeout=300.0)
CREATED, STARTED, ENDED = "2026-11-25T10:00:00Z", "2026-11-25T10:00:02Z", "2026-11-25T10:00:09Z"
Report = dict[str, Any]


def pod(wanted: WorkerSpec | None = None, *, held: bool = False, node: str = "node-1", **status: Any) -> Report:
    """The pod of a worker after a while; `status` in the API's words."""
    report = manifest.pod(wanted or spec(timeout=30.0), PLAN, held=held)
    report["metadata"] |= {"uid": "7d3f", "resourceVersion": "100", "creationTimestamp": CREATED}
    if node:
        report["spec"]["nodeName"] = node
    return {**report, "status": {"phase": "Pending", **status}}


def read(report: Report) -> WorkerPod:
    return WORKER_PODS.one.decode(json.dumps(report))


def worker(report: Report, *, gone: bool = False) -> Worker:
    from otto_scaler.backends.kubernetes.judging import worker_of

    found = read(report)
    return worker_of(found, marks.identity(found.metadata), gone=gone)


def marked(report: Report, cause: str, words: str) -> Report:
    """As our own stop leaves it."""
    report["metadata"]["annotations"] |= {marks.STOP_CAUSE: cause, marks.STOP_REASON: words}
    report["spec"]["activeDeadlineSeconds"] = 1
    return report


def rest_stopped(report: Report) -> Report:
    """As it is left when other containers went on after the worker's own."""
    report["metadata"]["annotations"][marks.REST_STOPPED] = "proxy"
    report["spec"]["activeDeadlineSeconds"] = 1
    return report


def deleted(report: Report, at: str, grace: int = 10) -> Report:
    """As somebody's deletion leaves it; `at` includes the grace."""
    report["metadata"] |= {"deletionTimestamp": at, "deletionGracePeriodSeconds": grace}
    return report


def condition(kind: str, status: str, reason: str = "", message: str = "") -> Report:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": STARTED}


def waiting(reason: str, message: str = "", name: str = marks.WORKER) -> Report:
    return {"name": name, "ready": False, "state": {"waiting": {"reason": reason, "message": message}}}


def running(name: str = marks.WORKER, started: str = STARTED) -> Report:
    return {"name": name, "ready": True, "started": True, "state": {"running": {"startedAt": started}}}


def terminated(
    code: int, reason: str = "", message: str = "", name: str = marks.WORKER, started: str = STARTED, finished: str = ENDED
) -> Report:
    how = {"exitCode": code, "reason": reason or ("Error" if code else "Completed"), "message": message}
    return {"name": name, "ready": False, "state": {"terminated": {**how, "startedAt": started, "finishedAt": finished}}}


def disrupted(reason: str, message: str) -> Report:
    return condition("DisruptionTarget", "True", reason, message)
