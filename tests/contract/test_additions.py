"""What we add to the contract is there, beside the fixed part and out of its way, and every RPC says what it promises."""

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import Default

from ottoscaler.v1 import (
    log_pb2,
    log_streaming_service_pb2,
    otto_handler_log_service_pb2,
    ottoscaler_service_pb2,
    pipeline_pb2,
    pipeline_service_pb2,
    stage_pb2,
    worker_pb2,
)

PACKAGE = "ottoscaler.v1"
PROTOS = Path(__file__).resolve().parents[2] / "protos" / "ottoscaler" / "v1"
FILES: list[FileDescriptor] = [
    module.DESCRIPTOR
    for module in (
        log_pb2,
        log_streaming_service_pb2,
        otto_handler_log_service_pb2,
        ottoscaler_service_pb2,
        pipeline_pb2,
        pipeline_service_pb2,
        stage_pb2,
        worker_pb2,
    )
]

ADDED_RPCS = {
    "OttoscalerService.WatchWorkers": ("WatchWorkersRequest", "stream WorkerEvent"),
    "OttoscalerService.ReleaseWorkers": ("ReleaseWorkersRequest", "ReleaseWorkersResponse"),
    "LogStreamingService.StreamWorkerLogs": ("WorkerIdentifier", "stream LogEntry"),
    "LogStreamingService.StreamBuildLogs": ("BuildIdentifier", "stream BuildLogEntry"),
    "LogStreamingService.TailLogs": ("TailLogsRequest", "stream LogBatch"),
    "PipelineService.ExecutePipeline": ("PipelineRequest", "stream PipelineProgress"),
    "PipelineService.WatchPipeline": ("WatchPipelineRequest", "stream PipelineProgress"),
    "PipelineService.GetPipeline": ("GetPipelineRequest", "GetPipelineResponse"),
    "PipelineService.ListPipelines": ("ListPipelinesRequest", "ListPipelinesResponse"),
    "PipelineService.CancelPipeline": ("CancelPipelineRequest", "CancelPipelineResponse"),
    "PipelineService.ApproveStage": ("ApproveStageRequest", "ApproveStageResponse"),
    "PipelineService.ValidatePipeline": ("ValidatePipelineRequest", "ValidatePipelineResponse"),
    "PipelineService.RerunPipeline": ("RerunPipelineRequest", "RerunPipelineResponse"),
}
ADDED_FIELDS = {
    "ScaleRequest": {100: "worker", 101: "admission"},
    "LogEntry": {100: "sequence", 101: "replayed", 102: "dropped_before"},
    "PipelineStage": {
        100: "run_condition",
        101: "ignore_errors",
        102: "working_directory",
        103: "artifact_paths",
        104: "resources",
        105: "secret_env",
        106: "extra_containers",
    },
    "RetryPolicy": {100: "backoff_multiplier", 101: "max_delay_seconds", 102: "jitter"},
    "PipelineProgress": {
        100: "sequence",
        101: "attempt",
        102: "overall_percentage",
        103: "stage_type",
        104: "exit_code",
        105: "replayed",
        106: "failure_cause",
    },
    "WorkerPodStatus": {100: "exit_code", 101: "failure_cause", 102: "attempt", 103: "stage_id", 104: "pipeline_id", 105: "pending_reason"},
}
MESSAGES_WITH = {
    "LogSelection": ["no_follow", "tail_lines", "since_time", "until_time", "after_sequence", "levels", "sources", "keywords"],
    "WorkerIdentifier": ["worker_id", "task_id", "namespace", "selection"],
    "BuildIdentifier": ["pipeline_id", "stage_id", "attempt", "worker_id", "selection"],
    "BuildLogEntry": [
        "pipeline_id",
        "stage_id",
        "stage_name",
        "stage_type",
        "attempt",
        "sequence",
        "kind",
        "entry",
        "stage_status",
        "dropped",
    ],
    "WatchPipelineRequest": ["after_sequence"],
    "WorkerSpec": [
        "image",
        "command",
        "args",
        "env",
        "secret_env",
        "resources",
        "timeout",
        "workspace",
        "working_directory",
        "labels",
        "priority_class_name",
        "service_account_name",
        "extra_containers",
        "owner",
        "workspace_optional",
        "workspace_expected",
        "workspace_unshared",
    ],
    "OwnerReference": ["api_version", "kind", "name", "uid", "namespace"],
}
ENUMS = {
    "BuildLogKind": ["UNSPECIFIED", "LINE", "STAGE_STARTED", "STAGE_FINISHED", "GAP", "HEARTBEAT"],
    "RunCondition": ["UNSPECIFIED", "ON_SUCCESS", "ON_FAILURE", "ALWAYS"],
    "Admission": ["UNSPECIFIED", "REJECT", "QUEUE"],
    "FailureCause": [
        "UNSPECIFIED",
        "EXIT_CODE",
        "OOM_KILLED",
        "TIMEOUT",
        "EVICTED",
        "NODE_LOST",
        "DELETED",
        "IMAGE_PULL",
        "UNSCHEDULABLE",
        "QUOTA",
        "REJECTED",
        "CANCELLED",
        "INTERNAL",
    ],
}
METHODS = [method for file in FILES for service in file.services_by_name.values() for method in service.methods]


@pytest.mark.parametrize("name", ADDED_RPCS)
def test_an_added_rpc_is_there(name: str) -> None:
    """With the messages that the contract gives it."""
    service_name, _, method_name = name.partition(".")
    service: ServiceDescriptor = Default().FindServiceByName(f"{PACKAGE}.{service_name}")
    method = service.methods_by_name[method_name]
    assert not method.client_streaming
    response = ("stream " if method.server_streaming else "") + method.output_type.name
    assert (method.input_type.name, response) == ADDED_RPCS[name]


@pytest.mark.parametrize("name", ADDED_FIELDS)
def test_added_fields_begin_at_100(name: str) -> None:
    """Under their numbers and names; further ones of ours stand above, never below 100."""
    message: Descriptor = Default().FindMessageTypeByName(f"{PACKAGE}.{name}")
    found = {field.number: field.name for field in message.fields if field.number >= 100}
    assert ADDED_FIELDS[name].items() <= found.items()


@pytest.mark.parametrize("name", MESSAGES_WITH)
def test_an_added_message_has_its_fields(name: str) -> None:
    """All that the contract names."""
    message: Descriptor = Default().FindMessageTypeByName(f"{PACKAGE}.{name}")
    assert set(MESSAGES_WITH[name]) <= {field.name for field in message.fields}


@pytest.mark.parametrize("name", ENUMS)
def test_an_added_enum_has_its_values(name: str) -> None:
    """Prefixed with its name, the zero value unspecified."""
    enum: EnumDescriptor = Default().FindEnumTypeByName(f"{PACKAGE}.{name}")
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()
    assert [value.name for value in sorted(enum.values, key=lambda v: v.number)] == [f"{prefix}_{v}" for v in ENUMS[name]]


def test_the_string_type_of_an_older_client_can_be_recovered() -> None:
    """Field 2 of PipelineStage sent as a string arrives as an unknown field, and all others arrive as they are."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    wire = b"\x0a\x01a" + b"\x12\x05build" + b"\x1a\x04name"
    stage = stage_pb2.PipelineStage.FromString(wire)
    assert (stage.stage_id, stage.name, stage.type) == ("a", "name", stage_pb2.STAGE_TYPE_UNSPECIFIED)
    unknown = UnknownFieldSet(stage)
    assert [(unknown[i].field_number, unknown[i].data) for i in range(len(unknown))] == [(2, b"build")]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.containing_service.name}.{m.name}")
def test_the_comment_of_an_rpc_is_its_contract(method: object) -> None:
    """Every RPC has a comment above it that says more than its name."""
    name = method.name  # type: ignore[attr-defined]  # MethodDescriptor; parametrize knows no type
    file = method.containing_service.file.name  # type: ignore[attr-defined]  # as above
    service = method.containing_service.name  # type: ignore[attr-defined]  # as above
    text = (PROTOS.parents[1] / file).read_text()
    body = text[text.index(f"service {service} ") :]
    found = re.search(rf"((?:^\s*//.*\n)+)\s*rpc {name}\(", body, re.MULTILINE)
    assert found, f"{service}.{name} has no comment"
    words = [line for line in found[1].splitlines() if "buf:lint" not in line]
    assert sum(len(line.strip(" /")) for line in words) > 60


def test_long_lived_fields_are_no_bigger_than_the_client_can_read() -> None:
    """The old client throws above 2^53-1: the only 64-bit numbers it is sent are counters."""
    sent_to_it = ("LogResponse", "LogForwardResponse", "PipelineProgress", "LogEntry")
    wide = {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_SFIXED64}
    found = {
        f"{name}.{field.name}"
        for name in sent_to_it
        for field in Default().FindMessageTypeByName(f"{PACKAGE}.{name}").fields
        if field.type in wide
    }
    assert found == {
        "LogResponse.sequence",
        "LogForwardResponse.sequence",
        "PipelineProgress.sequence",
        "LogEntry.sequence",
        "LogEntry.dropped_before",
    }
