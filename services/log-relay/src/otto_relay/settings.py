"""Settings of the log-relay."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from otto_runtime.addresses import parse

DEFAULTS = {"OTTO_LISTEN": "127.0.0.1:9092", "OTTO_METRICS_LISTEN": "127.0.0.1:9466"}
"""Where the relay listens when it runs apart, so that all three can on one machine."""


class Settings(msgspec.Struct, frozen=True):
    """What the log-relay can be told. Prefix OTTO_RELAY."""

    scaler_address: Annotated[str, Meta(description="Host and port of the scaler. Standalone sets its own.")] = "127.0.0.1:9090"
    executor_address: Annotated[str, Meta(description="Host and port of the pipeline-executor. Standalone sets its own.")] = (
        "127.0.0.1:9091"
    )
    source: Annotated[
        Literal["file", "kubernetes"],
        Meta(
            description="Where workers' lines are read: `file`, the log files of the scaler's process backend, or `kubernetes`, the logs "
            "of pods. As `OTTO_SCALER_BACKEND` says."
        ),
    ] = "file"
    namespace: Annotated[
        str, Meta(description="Namespace of the workers' pods. Empty: that of the Kubernetes credentials. Of use with `kubernetes` only.")
    ] = ""
    workers_dir: Annotated[
        Path, Meta(description="Directory in which the scaler's process backend writes workers' logs. Standalone sets its own.")
    ] = Path("~/.local/state/ottoscaler/workers")
    spool_dir: Annotated[
        Path, Meta(description="Directory in which lines are kept; one instance per directory. Standalone sets its own.")
    ] = Path("~/.local/state/ottoscaler/spool")
    retention_seconds: Annotated[
        float, Meta(gt=0, description="Seconds that the lines of an ended worker are kept; by default 7 days.")
    ] = 604800.0
    retention_bytes: Annotated[
        int,
        Meta(
            ge=1048576,
            description="Bytes of disk that all kept lines may take; by default 10 GiB. Beyond it the workers that ended first are "
            "deleted, then the oldest lines of running ones; readers see a gap with a count.",
        ),
    ] = 10737418240
    retention_interval: Annotated[float, Meta(gt=0, description="Seconds between looks at age and size.")] = 30.0
    segment_bytes: Annotated[
        int,
        Meta(
            ge=4096, le=67108864, description="Bytes after which a worker's lines go on in a new file: the unit in which they are deleted."
        ),
    ] = 4194304
    max_line_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=1258291,
            description="Bytes of a line after which it is split into several entries. The limit keeps messages below 4 MiB, also when "
            "every byte becomes a three-byte replacement character.",
        ),
    ] = 1048576
    max_open_files: Annotated[
        int, Meta(ge=16, description="Spool files that are held open at once; others are opened again when needed.")
    ] = 256
    heartbeat: Annotated[
        float, Meta(gt=0, description="Seconds of silence after which a reader of a build gets a HEARTBEAT; below what proxies wait.")
    ] = 15.0
    stage_wait: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds that the end of a stage waits for the last lines of its workers "
            "before readers are told that it has ended without them.",
        ),
    ] = 60.0
    peer_timeout: Annotated[
        float, Meta(gt=0, description="Seconds that a reader waits for the executor's or scaler's word on what is not known here.")
    ] = 5.0
    release_interval: Annotated[
        float,
        Meta(gt=0, description="Seconds over which finished workers are gathered before the scaler is told that their lines are stored."),
    ] = 0.2
    batch_lines: Annotated[int, Meta(ge=1, le=10000, description="Most lines of a TailLogs message.")] = 500
    batch_bytes: Annotated[int, Meta(ge=1024, le=1048576, description="Bytes after which a TailLogs message is sent.")] = 65536
    batch_linger: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Seconds after a TailLogs message of a worker or a pipeline over which live lines are gathered for the next one.",
        ),
    ] = 0.01
    merge_linger: Annotated[
        float, Meta(ge=0, le=1, description="Seconds over which live lines of a task's workers are put into the order of time.")
    ] = 0.01
    max_tail_lines: Annotated[int, Meta(ge=1, description="The largest tail_lines of a request.")] = 1000000
    max_pushed_workers: Annotated[
        int, Meta(ge=1, description="Workers that send their lines themselves and have not ended; further ones are told SERVER_FULL.")
    ] = 1000
    max_metadata_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1_048_576,
            description="Bytes of metadata that one line of such a worker may have; a line with more is dropped. It is stored, and sent "
            "to every reader, with each line.",
        ),
    ] = 65_536
    push_window: Annotated[int, Meta(ge=1, description="Unacknowledged lines that a sender is told it may have.")] = 1000
    push_idle: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds without an open stream after which a worker that sends its lines itself counts as "
            "ended, unless NotifyWorkerStatus says so before.",
        ),
    ] = 60.0
    handler_address: Annotated[
        str,
        Meta(
            description="Host and port of otto-handler's OttoHandlerLogService, to which every line and notice is pushed; empty: none. "
            "Workers that end while it is empty are not pushed later."
        ),
        parse,
    ] = ""
    handler_window: Annotated[
        int,
        Meta(
            ge=1,
            le=10000,
            description="Most lines that otto-handler was sent and has not answered. 1: each line waits for the answer to the one before.",
        ),
    ] = 256
    handler_timeout: Annotated[
        float, Meta(gt=0, description="Seconds that otto-handler may take for an answer; then the line is sent again on a new stream.")
    ] = 30.0
    handler_longest_wait: Annotated[
        float,
        Meta(gt=0, description="Longest time in seconds between attempts to reach otto-handler, or to send a line again after RETRY."),
    ] = 5.0
    handler_max_removed: Annotated[
        int,
        Meta(
            ge=1,
            description="Workers whose lines are deleted and of which otto-handler has not been told everything; beyond it those known "
            "longest are given up, with a warning.",
        ),
    ] = 10000
    poll_interval: Annotated[
        float,
        Meta(
            gt=0,
            description="Longest time in seconds between two looks at a followed log file when the kernel "
            "reports no change (network file systems never do).",
        ),
    ] = 1.0
