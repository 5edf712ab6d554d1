"""A PipelineRun's spec into a request, and back. Pure.

Both have the same names, those of the contract; what people write by hand may spell enums in any case and without their prefixes.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import DecodeError

from otto_executor.definition import Definition
from otto_executor.errors import InvalidRequestError
from otto_executor.settings import Settings
from otto_executor.translate_request import as_understood, read
from otto_executor.validation import told
from ottoscaler.v1.pipeline_pb2 import PipelineRequest

MOST_BYTES = 30_000
"""Of what is wrong with a spec."""
_ENUMS = {"type": "STAGE_TYPE_", "runCondition": "RUN_CONDITION_"}


def understood(spec: Mapping[str, Any], pipeline_id: str, settings: Settings, trace: str) -> tuple[Definition, bytes]:
    """What a spec asks for, and the request that a client would have sent for it. Raises InvalidRequestError with all that is wrong."""
    stages = spec.get("stages", [])
    given = {**spec, "pipelineId": pipeline_id}
    if isinstance(stages, list):
        given["stages"] = [_stage(stage) if isinstance(stage, Mapping) else stage for stage in stages]
    try:
        request = ParseDict(given, PipelineRequest())
    except ParseError as error:
        raise InvalidRequestError(f"spec: {error}") from error
    found = read(request, settings, trace)
    if found.problems:
        raise InvalidRequestError("\n".join(map(str, told(found.problems, MOST_BYTES))))  # kubectl shows the first line in its lists
    return found.definition, as_understood(request).SerializeToString()


def _stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {**stage, **{field: _enum(stage[field], prefix) for field, prefix in _ENUMS.items() if isinstance(stage.get(field), str)}}


def _enum(word: str, prefix: str) -> str:
    name = word.strip().upper().replace("-", "_").removeprefix(prefix)
    return f"{prefix}{name or 'UNSPECIFIED'}"


def spec_of(request: bytes) -> dict[str, Any]:
    """A request as a spec."""
    try:
        message = PipelineRequest.FromString(request)
    except DecodeError:
        return {}
    spec: dict[str, Any] = MessageToDict(message)
    for stage in spec.get("stages", []):
        for field, prefix in _ENUMS.items():
            if isinstance(stage.get(field), str):
                stage[field] = stage[field].removeprefix(prefix)
    return spec
