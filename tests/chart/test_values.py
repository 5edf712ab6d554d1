"""values.yaml is the manual, its schema is closed, every setting of a service can be reached, and no value does nothing."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from importlib import import_module
from typing import Any

import msgspec
import pytest
import yaml

from .rendering import CHART, RELEASE, VALUES, RefusedError, environment, helm, text, with_values

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
MANUAL = yaml.safe_load((CHART / "values.yaml").read_text())
COMPONENTS = {"scaler": "scaler", "executor": "pipeline-executor", "relay": "log-relay"}
MODULES = {"scaler": "otto_scaler", "executor": "otto_executor", "relay": "otto_relay"}
OPEN = {"podSecurityContext", "securityContext", "resources", "podTemplate"}
"""Values that stand for an object of Kubernetes: what is in them is its, not ours."""


def declared(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Every value that the schema knows, but for the settings and for what is within objects of Kubernetes."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    if not schema.get("properties") or path.rpartition(".")[2] in {*OPEN, "settings", "runtime", "kube"}:
        yield path
        return
    for name, part in schema["properties"].items():
        if path or name != "global":
            yield from declared(part, f"{path}.{name}".lstrip("."))


def given(values: Any, path: str = "") -> Iterator[str]:
    """Every value that a file names, as deep as the schema knows them."""
    if not isinstance(values, dict) or path in KNOWN:
        yield path
        return
    for name, part in values.items():
        yield from given(part, f"{path}.{name}".lstrip("."))


KNOWN = set(declared(SCHEMA))


def test_the_manual_names_every_value_and_no_other() -> None:
    """values.yaml has each value that the schema knows, and the schema each that values.yaml has."""
    assert len(KNOWN) > 200
    assert set(given(MANUAL)) == KNOWN


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"scalar": {}}, "'scalar' not allowed"),
        ({"scaler.settings.max_workres": 3}, "'max_workres' not allowed"),
        ({"scaler.settings.max_workers": 0}, "minimum: got 0, want 1"),
        ({"executor.settings.max_workers": "many"}, "got string, want null or integer"),
        ({"runtime.log_level": "loud"}, "/runtime/log_level"),
        ({"runtime.listen": "0.0.0.0:1"}, "'listen' not allowed"),
        ({"relay.replicas": 2}, "'replicas' not allowed"),
        ({"relay.spool.type": "hostPath"}, "/relay/spool/type"),
        ({"relay.spool.size": "10 GB"}, "/relay/spool/size"),
        ({"frontDoor.service.nodePort": 99999}, "/frontDoor/service/nodePort"),
        ({"frontDoor.healthCheck.interval": "500ms"}, "/frontDoor/healthCheck/interval"),
        ({"frontDoor.healthCheck.unhealthyInterval": "0.0s"}, "/frontDoor/healthCheck/unhealthyInterval"),
        ({"gateway.enabled": True}, "/gateway/parentRefs"),
        ({"workers.podTemplate": {"specs": {}}}, "'specs' not allowed"),
        ({"scaler.extraEnv": [{"value": "nameless"}]}, "/scaler/extraEnv/0"),
        ({"metrics.port": 9090}, "/metrics/port"),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else "",
)
def test_a_value_that_can_not_be_meant_is_refused(values: dict[str, Any], complaint: str) -> None:
    """Helm names the value that is misspelt, of the wrong kind or out of its bounds, and renders nothing."""
    with pytest.raises(RefusedError, match=complaint):
        with_values(values)


@pytest.mark.parametrize("service", COMPONENTS)
def test_every_setting_can_be_set(service: str) -> None:
    """Each setting of a service becomes the variable that its code reads, and the code takes the value."""
    kind = import_module(f"{MODULES[service]}.settings").Settings
    wanted = {field.name: other(field) for field in msgspec.structs.fields(kind)}
    found = environment(with_values({f"{service}.settings": wanted}), COMPONENTS[service])
    assert {name: found[f"OTTO_{service.upper()}_{name.upper()}"] for name in wanted} == {n: written(v) for n, v in wanted.items()}


def other(field: msgspec.structs.FieldInfo) -> Any:
    """A value of the same kind as the default; a large number shows that none is written with an exponent."""
    default = field.default
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default
    schema = msgspec.json.schema(field.type, schema_hook=lambda _: {"type": "string"})
    return schema["enum"][-1] if "enum" in schema else "other:1"


def written(value: Any) -> str:
    """As the settings' reader takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | int):
        return f"{value:.0f}" if value == int(value) else str(value)
    return str(value)


def test_a_setting_wins_over_what_the_chart_decides() -> None:
    """Settings of a service win over those of all, and both over the chart's; one that is null counts as not given."""
    found = with_values(
        {
            "runtime": {"log_level": "error", "log_format": "text"},
            "scaler.runtime": {"log_level": "debug", "log_format": None},
            "scaler.settings": {"executor_address": "elsewhere:1"},
        }
    )
    scaler, relay = environment(found, "scaler"), environment(found, "log-relay")
    assert (scaler["OTTO_LOG_LEVEL"], relay["OTTO_LOG_LEVEL"]) == ("debug", "error")
    assert scaler["OTTO_LOG_FORMAT"] == "text"
    assert scaler["OTTO_SCALER_EXECUTOR_ADDRESS"] == "elsewhere:1"


@pytest.mark.timeout(600)
def test_no_value_does_nothing() -> None:
    """Taking any one value out of the set that has them all changes what is rendered."""
    everything = yaml.safe_load((VALUES / "everything.yaml").read_text())
    full = text("everything")
    # What only matters beside other values than the set has; it shows in another golden.
    elsewhere = {
        *("nameOverride", "rbac.create", "test.enabled", "frontDoor.enabled", "metrics.enabled", "relay.spool.type"),
        *(
            "executor.image.repository",
            "executor.image.tag",
            "executor.image.pullPolicy",
            "relay.image.tag",
            "executor.terminationGracePeriodSeconds",
        ),
        *(f"{part}.image.digest" for part in ("scaler", "relay", "frontDoor", "test")),
        *(f"{part}.{name}" for part in ("scaler", "executor", "relay", "frontDoor") for name in ("serviceAccount.create", "pdb.enabled")),
    }
    named = {path for path in given(everything) if not path.startswith("global")}
    assert named | elsewhere == KNOWN

    def without(path: str) -> str:
        left = deepcopy(everything)
        *above, last = path.split(".")
        parent: Any = left
        for name in above:
            parent = parent[name]
        del parent[last]
        try:
            return path if helm("template", *RELEASE, "--values", "-", given=yaml.safe_dump(left)) == full else ""
        except RefusedError:
            return ""

    with ThreadPoolExecutor(4) as threads:
        idle = set(filter(None, threads.map(without, sorted(named - elsewhere))))
    assert idle == set()


def test_the_manual_is_what_helm_shows() -> None:
    """`helm show values` prints the commented file."""
    assert "# The manual of this chart." in helm("show", "values", str(CHART))
