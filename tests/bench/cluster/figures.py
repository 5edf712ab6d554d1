"""What is measured on a cluster, and why a pipeline needs the requests that it does."""

from collections.abc import Iterator

from ..figures import Figure

SERVICES = ("scaler", "pipeline-executor", "log-relay")
"""The components of a release whose processes are measured."""
WITH_REPLICAS = SERVICES[:2]
"""Those of which one replica acts, and others wait to."""
STARTED_AT_ONCE = (1, 10, 50)
WRITERS = (10, 50)
"""How many workers write 20 lines a second each. Of all of 50 the cluster's own part alone nearly fills two cores."""

REQUESTS = {
    ("pipeline-executor", "create", "pipelineruns"): "the run begins by one write, before anything is done for it",
    (
        "pipeline-executor",
        "patch",
        "pipelineruns/status",
    ): "its steps, each stored before it is acted on: its workers exist, they run, it has ended",
    ("pipeline-executor", "patch", "pipelineruns"): "an ended run loses its finalizer",
    ("scaler", "create", "pods"): "its worker",
    ("scaler", "delete", "pods"): "the finished worker, once its lines and its end are stored and its time is over",
    ("log-relay", "get", "pods"): "which containers the worker has, and whether its log is complete",
    ("log-relay", "get", "pods/log"): "its lines: followed, then read once more after its end",
}
"""Per finished pipeline of one stage with one worker: by service, verb and resource what for."""


_LINES = {
    "pipeline": "log line: write → client of the front door; {} workers write 20 a second each, p50; a pipeline on one stream (TailLogs)",
    "workers": "the same, p50; each worker on a stream of its own (StreamWorkerLogs)",
    "bare": "write → client of the log API; {} bare pods write as much, p50",
}


def request_figure(service: str, verb: str, resource: str) -> str:
    """The name of a figure of REQUESTS."""
    return f"cluster.requests.{service}.{verb}.{resource}"


def _figures() -> Iterator[Figure]:
    for count in STARTED_AT_ONCE:
        workers = "1 worker" if count == 1 else f"{count} workers"
        pods = "the same pod" if count == 1 else f"{count} of the same pods"
        yield Figure(f"cluster.up.{count}", "s", f"ScaleUp of {workers} → all Running")
        yield Figure(f"cluster.up.{count}.bare", "s", f"{pods} with nothing of ours")
        yield Figure(f"cluster.up.{count}.ratio", "%", "the former as a share of the latter", target=110.0)
    yield Figure(
        "cluster.hop.p50", "ms", "stage hop: the API server tells of a dependency's end → of the next stage's pod, p50", target=50.0
    )
    yield Figure("cluster.hop.p99", "ms", "the same, p99")
    yield Figure("cluster.chain", "s", "a chain of 5 stages of `true`, from its request to its end")
    yield Figure("cluster.chain.bare", "s", "a chain of 5 bare pods of `true`")
    yield Figure("cluster.chain.ratio", "%", "the former as a share of the latter", target=115.0)
    yield Figure("cluster.many", "s", "40 one-stage pipelines of `true` at once, to the end of the last")
    yield Figure("cluster.many.bare", "s", "40 bare pods of `true` at once")
    yield Figure("cluster.many.ratio", "%", "the former as a share of the latter", target=115.0)
    yield Figure("cluster.rate", "/s", "kwok: one-stage pipelines, 100 at a time", lower_is_better=False, target=30.0)
    yield Figure("cluster.rate.bare", "/s", "kwok: bare pods of `true` with nothing of ours, 100 at a time", lower_is_better=False)
    yield Figure("cluster.drain", "/s", "kwok: 2,000 one-stage pipelines asked for at once, 100 run at a time", lower_is_better=False)
    yield Figure("cluster.status.100", "ms", "GetWorkerStatus through the front door, 100 running pods, p50", target=3.0)
    yield Figure("cluster.status.3000", "ms", "the same, 3,000 finished pods (kwok), p50", target=15.0)
    for writers in WRITERS:
        p50, p99 = (20.0, 100.0) if writers == max(WRITERS) else (None, None)
        for name, words in _LINES.items():
            yield Figure(f"cluster.line.{writers}.{name}.p50", "ms", words.format(writers), target=None if name == "bare" else p50)
            yield Figure(f"cluster.line.{writers}.{name}.p99", "ms", "the same, p99", target=None if name == "bare" else p99)
    for service in WITH_REPLICAS:
        killed = f"two replicas of the {service}: the acting one is killed and its pod deleted → the other acts"
        yield Figure(f"cluster.takeover.{service}.killed", "s", killed, target=15.0)
        yield Figure(f"cluster.takeover.{service}.stopped", "s", "its pod is deleted: it stops, gives its Lease back → the same")
    yield Figure(
        "cluster.save", "s", "`make tilt`: a Python file of the pipeline-executor is saved → its pod does what it says", target=5.0
    )
    yield Figure("cluster.save.slowest", "s", "the same, the slowest of 5 times in turn")
    for service in SERVICES:
        yield Figure(f"cluster.memory.{service}.idle", "MB", f"RSS of the {service}, idle", target=75.0)
        yield Figure(f"cluster.memory.{service}.100", "MB", "the same with 100 running pods", target=100.0)
        yield Figure(f"cluster.memory.{service}.3000", "MB", "the same with 3,000 finished pods (kwok)", target=150.0)
        yield Figure(f"cluster.memory.{service}.burst", "MB", "the same once 2,000 of their pipelines have been asked for at once")
    for service in SERVICES:
        yield Figure(
            f"cluster.start.{service}", "s", f"start of the {service}'s process → SERVING, 3,000 finished pods there (kwok)", target=5.0
        )
    for (service, verb, resource), why in REQUESTS.items():
        yield Figure(request_figure(service, verb, resource), "", f"requests per one-stage pipeline: {service}, {verb} {resource}: {why}")
    yield Figure("cluster.requests.other", "", "any others, without those for Leases")


CLUSTER_FIGURES = {figure.name: figure for figure in _figures()}
