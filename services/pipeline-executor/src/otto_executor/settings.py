"""Settings of the pipeline-executor."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from otto_runtime.allowed import instance_name

DEFAULTS = {"OTTO_LISTEN": "127.0.0.1:9091", "OTTO_METRICS_LISTEN": "127.0.0.1:9465"}
"""Where the executor listens when it runs apart, so that all three can on one machine."""


class Settings(msgspec.Struct, frozen=True):
    """What can be set. Prefix OTTO_EXECUTOR."""

    scaler_address: Annotated[str, Meta(min_length=1, description="Host and port of the scaler. Standalone uses its own address.")] = (
        "127.0.0.1:9090"
    )
    store: Annotated[
        Literal["sqlite", "kubernetes"],
        Meta(description="Where runs are kept: `sqlite`, a file of this machine, or `kubernetes`, PipelineRun objects of a cluster."),
    ] = "sqlite"
    namespace: Annotated[
        str, Meta(description="Kubernetes: namespace of the PipelineRuns. Empty: that of the credentials, in a pod its own.")
    ] = ""
    instance: Annotated[
        str,
        Meta(
            description="Kubernetes: name of this installation, as label `ottoscaler.io/instance` on its PipelineRuns. It leaves those "
            "with another name alone; one without the label is taken by the first that sees it."
        ),
        instance_name,
    ] = "ottoscaler"
    database: Annotated[
        Path,
        Meta(description="SQLite file that keeps the runs; one executor per file. Standalone puts it into its state directory."),
    ] = Path("~/.local/state/ottoscaler/runs.sqlite")
    lease: Annotated[
        str,
        Meta(
            description="Name of the Lease that chooses the one of several replicas that acts; the others hand calls on to it. Empty: "
            "there is one executor. Of use with PipelineRun objects only."
        ),
    ] = ""
    default_timeout: Annotated[
        int,
        Meta(
            ge=1, description="Seconds for an attempt of a stage that names no timeout. An hour: enough for most, and an end to the rest."
        ),
    ] = 3600
    max_timeout: Annotated[int, Meta(ge=1, description="The longest timeout in seconds that a stage may name. A week.")] = 604_800
    approval_timeout: Annotated[
        int,
        Meta(ge=1, description="Seconds that a stage which names no timeout waits for its approval. A day, so that it may wait overnight."),
    ] = 86_400
    max_active_pipelines: Annotated[
        int,
        Meta(ge=1, description="Unfinished pipelines at a time; further ones get RESOURCE_EXHAUSTED. Each costs some 100 KB of memory."),
    ] = 1000
    max_stages: Annotated[int, Meta(ge=1, le=500, description="Stages of a pipeline.")] = 500
    max_dependencies: Annotated[
        int, Meta(ge=0, description="Dependencies of all stages of a pipeline together: 40 for each of 500 stages.")
    ] = 20_000
    max_stage_workers: Annotated[int, Meta(ge=1, le=10_000, description="Workers of one stage.")] = 1000
    max_workers: Annotated[
        int, Meta(ge=1, le=10_000, description="Workers of all stages of a pipeline together. GetPipeline names them all.")
    ] = 5000
    max_retries: Annotated[int, Meta(ge=0, description="The most retries that a stage may ask for.")] = 100
    max_retry_delay: Annotated[int, Meta(ge=0, description="The longest retry delay in seconds that a stage may ask for. A day.")] = 86_400
    max_stop_grace: Annotated[
        float,
        Meta(
            ge=0,
            description="The longest stop_grace_period in seconds that a stage may name; not more than `OTTO_SCALER_MAX_STOP_GRACE`. "
            "What needs longer than an hour to end does not end.",
        ),
    ] = 3600.0
    max_extra_containers: Annotated[
        int, Meta(ge=0, le=200, description="Extra containers of one stage. A pod of more than 16 is most likely a mistake.")
    ] = 16
    max_request_bytes: Annotated[
        int,
        Meta(
            ge=4096,
            le=1_048_576,
            description="Largest pipeline request in bytes, so that GetPipeline's answer stays below the clients' 4 MiB.",
        ),
    ] = 1_048_576
    infrastructure_retries: Annotated[
        int,
        Meta(ge=0, description="Retries of a stage after EVICTED, NODE_LOST, DELETED and INTERNAL, beside those that its policy allows."),
    ] = 2
    infrastructure_retry_delay: Annotated[
        float, Meta(ge=0, description="Seconds before the first such retry; doubled for each further one.")
    ] = 2.0
    checkout_timeout: Annotated[int, Meta(ge=1, description="Seconds for one attempt to check the repository out.")] = 600
    checkout_retries: Annotated[
        int, Meta(ge=0, description="Retries of a failed checkout. One: the network may have hiccuped, a wrong commit stays wrong.")
    ] = 1
    checkout_retry_delay: Annotated[float, Meta(ge=0, description="Seconds before a failed checkout is tried again.")] = 2.0
    stop_grace: Annotated[
        float,
        Meta(
            ge=0, description="Seconds that workers are expected to need at most to end once they are stopped; the scaler's default grace."
        ),
    ] = 10.0
    stop_margin: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds that the scaler may take beyond a timeout or a grace; then the executor stops the workers (again).",
        ),
    ] = 30.0
    unseen_timeout: Annotated[
        float, Meta(gt=0, description="Seconds after which a created worker that was never heard of counts as DELETED.")
    ] = 60.0
    workspace_retention: Annotated[
        float, Meta(ge=0, description="Seconds that a pipeline's workspace is kept after its end, to look into it. An hour.")
    ] = 3600.0
    run_retention: Annotated[
        float, Meta(ge=0, description="Seconds that an ended pipeline is kept. 30 days. Its id may be used again afterwards.")
    ] = 2_592_000.0
    run_retention_count: Annotated[int, Meta(ge=1, description="Ended pipelines that are kept at most; the oldest go first.")] = 10_000
    retention_interval: Annotated[
        float, Meta(gt=0, description="Seconds between looks for ended pipelines that are kept no longer. Ten minutes.")
    ] = 600.0
    journal_messages: Annotated[
        int, Meta(ge=10, description="Progress messages of a running pipeline kept in memory; older ones are read from the database.")
    ] = 1000
    unavailable_notice: Annotated[
        float, Meta(ge=0, description="Seconds that the scaler can't be reached before a waiting stage says so.")
    ] = 10.0
    max_page_size: Annotated[int, Meta(ge=1, le=500, description="Pipelines in one page of ListPipelines.")] = 500
