"""A PipelineRun's spec: what people write with kubectl becomes what a client would have sent, and the other way round."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from otto_executor.errors import InvalidRequestError
from otto_executor.settings import Settings
from otto_executor.stage import RunCondition, StageType
from otto_executor.translate_spec import spec_of, understood
from ottoscaler.v1 import stage_pb2
from ottoscaler.v1.pipeline_pb2 import PipelineRequest

CRD = Path(__file__).parents[2] / "charts/ottoscaler/crds/pipelineruns.yaml"
SPEC: dict[str, Any] = {
    "name": "My first",
    "metadata": {"otto.fail_fast": "true", "team": "앱"},
    "stages": [
        {"stageId": "빌드", "type": "build", "command": ["sh", "-c"], "args": ["make"], "config": {"CI": "1"}, "stopGracePeriod": "1.5s"},
        {
            "stageId": "test",
            "dependsOn": ["빌드"],
            "workerCount": 3,
            "type": "STAGE_TYPE_TEST",
            "runCondition": "on-failure",
            "retryPolicy": {"maxAttempts": 2, "retryableFailures": ["oom"], "jitter": 0.5},
            "resources": {"cpu": "500m"},
            "secretEnv": [{"name": "T", "secret": "s", "key": "k"}],
        },
    ],
}


def test_a_spec_is_read_as_a_request_of_a_client() -> None:
    """Names in lowerCamelCase, enums in any case: the definition says what was asked for, the request is what a client would have sent."""
    definition, request = understood(SPEC, "내 것", Settings(), "")
    build, test = definition.stages
    assert (definition.pipeline_id, definition.name, definition.fail_fast) == ("내 것", "My first", True)
    assert (build.type, build.env, build.args, build.grace) == (StageType.BUILD, {"CI": "1"}, ("make",), 1.5)
    assert (test.type, test.run_if, test.workers, test.depends_on) == (StageType.TEST, RunCondition.ON_FAILURE, 3, ("빌드",))
    message = PipelineRequest.FromString(request)
    assert (message.pipeline_id, message.metadata["team"]) == ("내 것", "앱")
    assert message.stages[1].run_condition == stage_pb2.RUN_CONDITION_ON_FAILURE


def test_what_a_client_sent_can_be_read_and_applied_again() -> None:
    """The spec of a request, read again, is the same request."""
    _, request = understood(SPEC, "p", Settings(), "")
    spec = spec_of(request)
    assert spec["stages"][0]["type"] == "BUILD"
    again = understood(spec, "p", Settings(), "")[1]
    assert PipelineRequest.FromString(again) == PipelineRequest.FromString(request)  # the order of maps differs
    assert spec_of(b"\0\xff") == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stages": []}, ["stages"]),
        ({"stagez": []}, ["stagez"]),
        ({"stages": [{"stageId": "a", "type": "bild"}]}, ["type", "STAGE_TYPE_BILD"]),
        ({"stages": [{"stageId": "a", "workerCount": -1}, {"stageId": "a"}]}, ["stages[0].worker_count", "stages[1].stage_id"]),
        ({"stages": [{"stageId": "a", "stopGracePeriod": "soon"}]}, ["stopGracePeriod", "soon"]),
        ({"stages": "none"}, ["stages"]),
        ({"metadata": {"otto.nothing": "x"}}, ["otto.nothing"]),
    ],
    ids=["no stages", "unknown field", "unknown type", "two mistakes", "no duration", "no list", "unknown option"],
)
def test_what_is_wrong_with_a_spec_is_named(change: dict[str, Any], words: list[str]) -> None:
    """Every problem at once where the form is right, the first one where it is not; each names its field."""
    with pytest.raises(InvalidRequestError) as raised:
        understood({**SPEC, **change}, "p", Settings(), "")
    assert all(word in str(raised.value) for word in words), str(raised.value)


def _schemas(schema: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    found = [(path, schema)]
    for name, child in schema.get("properties", {}).items():
        found += _schemas(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found += _schemas(schema[key], f"{path}[]")
    return found


def test_the_crd_knows_every_field_of_a_request_and_describes_it() -> None:
    """Its spec has the names of the contract, each with a type and a description, and lists and maps that are owned whole."""
    crd = yaml.safe_load(CRD.read_text())
    version = crd["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    for path, part in _schemas(schema):
        assert part.get("type"), path
        if path.endswith("[]") or path in {"", ".metadata"}:
            continue
        assert part.get("description"), path
        if part["type"] == "array":
            assert part["x-kubernetes-list-type"] == "atomic", path
    spec = schema["properties"]["spec"]["properties"]
    assert spec.keys() == {field.camelcase_name for field in PipelineRequest.DESCRIPTOR.fields}
    stage = spec["stages"]["items"]["properties"]
    assert stage.keys() == {field.camelcase_name for field in stage_pb2.PipelineStage.DESCRIPTOR.fields}
    assert stage["retryPolicy"]["properties"].keys() == {f.camelcase_name for f in stage_pb2.RetryPolicy.DESCRIPTOR.fields}
    assert [column["name"] for column in version["additionalPrinterColumns"]][:4] == ["State", "Progress", "Stages", "Age"]
    assert (version["subresources"], crd["spec"]["names"]["shortNames"]) == ({"status": {}}, ["plr"])
