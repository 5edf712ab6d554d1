"""What alerts and panels choose series by is what the code gives: a value that is misspelt finds nothing, and is noticed by nobody."""

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple, get_args

import grpc
import pytest
import yaml
from prometheus_client.core import Metric

from otto_executor.metrics import RunMetrics
from otto_executor.retry import INFRASTRUCTURE
from otto_executor.runner import Standing
from otto_kubekit.kinds import POD_METRICS
from otto_kubekit.watching import Why
from otto_runtime.calls import _FAULTS
from otto_scaler.fleet import Fleet
from otto_scaler.metrics import WorkerMetrics
from otto_scaler.testing import MemoryBackend

from ..scaler.conftest import DEFAULT_LIMITS
from .prometheus import ALERTS, panels, rules

SCRAPED = {"job", "namespace", "app_kubernetes_io_instance"}
"""Labels that are not ours, but those of whoever scrapes."""
RIGHTS = [right for rights in yaml.safe_load(ALERTS.with_name("rights.yaml").read_text()).values() for right in rights]
LOST = {cause.lower() for cause in INFRASTRUCTURE}


class Choice(NamedTuple):
    """A label of a metric, and what its value has to be."""

    metric: str
    label: str
    operator: str
    pattern: str

    @property
    def parts(self) -> list[str]:
        """Each alternative, where it is a regular expression."""
        return self.pattern.split("|") if self.operator in {"=~", "!~"} else [re.escape(self.pattern)]

    def named(self, part: str) -> set[str]:
        """The values there can be that this alternative means."""
        return {value for value in POSSIBLE[self.metric][self.label] if re.fullmatch(part, value)}


def choices(expression: str) -> list[Choice]:
    """By what of ours an expression chooses series."""
    found = []
    for metric, selector in re.findall(r"\b(\w+)\{([^}]*)\}", expression):
        for label, operator, pattern in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', selector):
            if label not in SCRAPED:
                found.append(Choice(re.sub("_(bucket|count|sum|total)$", "", metric), label, operator, pattern))
    return found


def shown(families: Iterable[Metric]) -> dict[str, dict[str, set[str]]]:
    """The values of labels by metric and label, of which all series are there from the start."""
    found: dict[str, dict[str, set[str]]] = {}
    for family in families:
        for sample in family.samples:
            for label, value in sample.labels.items():
                found.setdefault(family.name, {}).setdefault(label, set()).add(value)
    return found


METRICS = POD_METRICS.group
POSSIBLE = {
    **shown(RunMetrics(lambda: Standing(0), 1).collect()),
    **shown(WorkerMetrics(Fleet(MemoryBackend(), DEFAULT_LIMITS)).collect()),
    "otto_rpc_server_duration_seconds": {"code": {code.name for code in grpc.StatusCode}},
    "otto_kube_request_duration_seconds": {
        "code": {str(status.value) for status in HTTPStatus} | {"none"},
        "verb": {verb for right in RIGHTS for verb in right["verbs"]},
        "resource": {f"{right['resource']}.{METRICS}" if right["group"] == METRICS else right["resource"] for right in RIGHTS},
    },
    "otto_kube_watch_lists": {"why": set(get_args(Why))},
}
"""The values that labels can have, by metric and label."""
EVERY = {name: choices(rule["expr"]) for name, rule in rules().items()} | {name: choices(query) for name, query in panels().items()}


def test_each_value_that_series_are_chosen_by_is_one_that_there_can_be() -> None:
    """In alerts and panels, and each alternative of a regular expression for itself."""
    chosen = [(name, choice, part) for name, found in EVERY.items() for choice in found for part in choice.parts]
    unknown = [(name, choice.label, part) for name, choice, part in chosen if not choice.named(part)]
    assert not unknown
    assert len(chosen) > 30


@pytest.mark.parametrize(
    ("alert", "label", "wanted"),
    [
        # a call of what there is not is its caller's fault
        ("OttoscalerCallsFail", "code", {code.name for code in _FAULTS - {grpc.StatusCode.UNIMPLEMENTED}}),
        ("OttoscalerKubernetesErrors", "code", {str(code.value) for code in HTTPStatus if code >= 500} | {"429", "none"}),
        ("OttoscalerKubernetesForbidden", "code", {"401", "403"}),
        ("OttoscalerWatchesBreak", "why", set(get_args(Why)) - {"start", "reconcile"}),
        ("OttoscalerInfrastructureFailures", "cause", LOST),
        ("OttoscalerInfrastructureRetriesUsedUp", "cause", LOST),
        # the rest is what pipelines do themselves
        (
            "OttoscalerWorkersNotStarting",
            "cause",
            POSSIBLE["otto_scaler_workers_ended"]["cause"] - LOST - {"", "exit_code", "oom_killed", "timeout", "cancelled"},
        ),
    ],
)
def test_an_alert_knows_all_values_of_its_kind(alert: str, label: str, wanted: set[str]) -> None:
    """A cause or a code that is new has to be thought of here, and one that is left out is noticed."""
    (choice,) = (choice for choice in EVERY[alert] if choice.label == label)
    assert set[str]().union(*map(choice.named, choice.parts)) == wanted
