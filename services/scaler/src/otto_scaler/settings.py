"""Settings of the scaler."""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from otto_runtime.allowed import instance_name

_QUANTITY = re.compile(r"[1-9][0-9]*([KMGTPE]i?)?")


def _quantity(text: str) -> None:
    if not _QUANTITY.fullmatch(text):
        raise ValueError(f"{text!r} has to be an amount of storage, for example 1Gi")


def _endpoint(text: str) -> None:
    if not re.fullmatch(r"https?://[^/\s@]+(/\S*)?", text):
        raise ValueError(f"{text!r} is not of the form http://host:port or https://host:port, with a path where HTTP is spoken")


class Settings(msgspec.Struct, frozen=True):
    """What the scaler can be told. Prefix OTTO_SCALER."""

    backend: Annotated[
        Literal["process", "kubernetes"],
        Meta(description="What workers are: `process`, process groups of this machine, or `kubernetes`, pods."),
    ] = "process"
    namespace: Annotated[str, Meta(description="Kubernetes: namespace of the pods. Empty: that of the credentials, in a pod its own.")] = ""
    instance: Annotated[
        str,
        Meta(
            description="Kubernetes: name of this installation, as label `ottoscaler.io/instance` on all that it creates. It sees "
            "and touches nothing else, so that two can share a namespace."
        ),
        instance_name,
    ] = "ottoscaler"
    worker_template: Annotated[
        str,
        Meta(
            description="Kubernetes: path of a pod template (YAML or JSON: `metadata` with labels and annotations, `spec`) laid under "
            "every worker's pod. Its container `worker` has the defaults of the worker's own: image, pull policy, resources, variables, "
            "security context; other containers run beside it. Empty: our defaults, and no default image."
        ),
    ] = ""
    checkout_image: Annotated[
        str,
        Meta(description="Kubernetes: image with `sh` and `git`, for checkouts. Empty: the own image of each worker."),
    ] = ""
    pending_timeout: Annotated[
        float,
        Meta(
            gt=0,
            description="Kubernetes: seconds a worker may be pending, from when it may run, before it fails with the cause the cluster "
            "gives: time for a cluster to add a node. A pull that fails is borne for 60 s of it, what can't become better not at all.",
        ),
    ] = 300.0
    usage_interval: Annotated[
        float,
        Meta(
            ge=0,
            description="Kubernetes: seconds between questions to the cluster's metrics server about what running workers use; a cluster "
            "without one is asked every 5 minutes. A metrics server itself measures every 15 s. 0: workers are not measured.",
        ),
    ] = 15.0
    workspace_class: Annotated[
        str,
        Meta(
            description="Kubernetes: storage class of the PersistentVolumeClaims that are the workspaces which workers share; `default`: "
            "the cluster's default class. Empty: there are none, and what needs one is refused."
        ),
    ] = ""
    workspace_size: Annotated[str, Meta(description="Kubernetes: size of a workspace."), _quantity] = "1Gi"
    workspace_access_mode: Annotated[
        Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"],
        Meta(
            description="Kubernetes: access mode of a workspace. With ReadWriteOnce all that share one have to run on one node, which most "
            "storage sees to; several nodes need ReadWriteMany."
        ),
    ] = "ReadWriteOnce"
    workers_dir: Annotated[
        str,
        Meta(
            description="Directory of the workers, one each: log, what it is, how it ended. The log-relay reads the logs there, so it has "
            "the same setting. One scaler per directory. Standalone puts it into its state directory."
        ),
    ] = "~/.local/state/ottoscaler/workers"
    workspaces_dir: Annotated[
        str,
        Meta(
            description="Directory of the workspaces that workers share, and below `.own` of each worker's HOME and own working directory. "
            "Standalone puts it into its state directory."
        ),
    ] = "~/.local/state/ottoscaler/workspaces"
    secrets_dir: Annotated[
        str,
        Meta(
            description="Directory with the secrets workers may be given: the file `<secret>/<key>` holds a value; one newline at its end "
            "is left out. Laid out as a mounted Kubernetes Secret."
        ),
    ] = "~/.config/ottoscaler/secrets"
    worker_path: Annotated[str, Meta(description="PATH of workers. Empty: the scaler's own, so that workers find the same tools.")] = ""
    worker_lang: Annotated[str, Meta(description="LANG of workers: UTF-8 without any language's habits.")] = "C.UTF-8"
    default_command: Annotated[
        str,
        Meta(
            description="Script (run by `sh -c`) of workers that are given no command. Empty: one that prints what the worker was given, "
            "and ends with 0."
        ),
    ] = ""
    worker_otlp_endpoint: Annotated[
        str,
        Meta(
            description="Where workers are told to send telemetry of their own, as OTEL_EXPORTER_OTLP_ENDPOINT (`http://host:4317`), "
            "unless they are given another one. Empty: they are told nothing. Headers are never handed on."
        ),
        _endpoint,
    ] = ""
    worker_otlp_protocol: Annotated[
        Literal["grpc", "http/protobuf", "http/json"],
        Meta(description="What is spoken there, as OTEL_EXPORTER_OTLP_PROTOCOL."),
    ] = "grpc"
    max_workers: Annotated[int, Meta(ge=1, le=100_000, description="Most workers that run at the same time; more are refused or wait.")] = (
        100
    )
    max_workers_per_request: Annotated[int, Meta(ge=1, le=10_000, description="Most workers that one request may ask for.")] = 1000
    max_queued: Annotated[
        int,
        Meta(ge=0, le=1_000_000, description="Most workers that wait for room; beyond that requests are refused. Each costs a directory."),
    ] = 10_000
    default_timeout: Annotated[float, Meta(gt=0, description="Seconds a worker may run if nothing else was said.")] = 3600.0
    max_timeout: Annotated[
        float, Meta(gt=0, description="The longest timeout in seconds that may be asked for: a week, as nobody waits for anything longer.")
    ] = 604_800.0
    default_stop_grace: Annotated[
        float,
        Meta(ge=0, description="Seconds between SIGTERM and SIGKILL if nothing else was said: long enough for a server to end its calls."),
    ] = 10.0
    max_stop_grace: Annotated[float, Meta(ge=0, description="The longest such time in seconds that may be asked for.")] = 3600.0
    finished_ttl: Annotated[
        float,
        Meta(
            ge=0,
            description="Seconds that finished workers stay visible, if by then the log-relay has their lines and their pipeline, if they "
            "have one, knows how they ended.",
        ),
    ] = 3600.0
    unreleased_limit: Annotated[
        float,
        Meta(
            ge=0,
            description="Seconds after which finished workers are removed even if nobody said that their lines and ends are stored: a day. "
            "Counted while the scaler runs, so that a night without it costs nothing.",
        ),
    ] = 86_400.0
    peer_grace: Annotated[
        float,
        Meta(
            ge=0,
            description="Seconds after a start before those count: what the log-relay and the pipeline-executor may take to be back.",
        ),
    ] = 60.0
    listed_workers: Annotated[
        int, Meta(ge=1, description="Most workers that one GetWorkerStatus lists; fewer if the answer would not fit. Counts cover all.")
    ] = 500
    watch_backlog: Annotated[
        int, Meta(ge=1, description="Most changes that wait for one slow watcher; beyond that its stream ends with RESOURCE_EXHAUSTED.")
    ] = 10_000
    lease: Annotated[
        str,
        Meta(
            description="Name of the Lease that chooses the one of several replicas that acts; the others hand calls on to it. Empty: "
            "there is one scaler. Of use with pods only."
        ),
    ] = ""
    executor_address: Annotated[
        str, Meta(description="Host and port of the pipeline-executor, to which ExecutePipeline is handed on. Standalone knows it.")
    ] = "127.0.0.1:9091"
    executor_patience: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds that a caller of ExecutePipeline is kept waiting while the executor can't be reached, then UNAVAILABLE.",
        ),
    ] = 60.0
