"""Objects of a cluster without what may be secret in them, by where it stands."""

from typing import Any

from ottoctl.bundle.masking import MASK, Masker, is_sensitive
from ottoctl.doctor.machine import OWN_VARIABLES, settings

_LEFT_OUT = frozenset({"managedFields", "volumeAttributes", "options"})
_COMMANDS = frozenset({"command", "args", "httpHeaders"})
_HARMLESS_ANNOTATIONS = (
    "checksum/",
    "deployment.kubernetes.io/revision",
    "prometheus.io/",
    *(f"ottoscaler.io/{name}-id" for name in ("task", "pipeline", "stage")),
    *(
        f"ottoscaler.io/{name}"
        for name in ("attempt", "index", "count", "timeout", "admitted-at", "stop-cause", "stop-reason", "rest-stopped")
    ),
)
_WORDS_OF_A_STAGE = ("stageId", "state", "attempt", "workers", "message", "cause", "exitCode", "startedAt", "endedAt")
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class Objects:
    """What is told of objects; what is masked in them is masked everywhere."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._settings = settings()

    def told(self, item: Any) -> Any:
        """An object of any kind but those below."""
        if isinstance(item, list):
            return [self.told(one) for one in item]
        if not isinstance(item, dict):
            return item
        told: dict[str, Any] = {}
        for name, value in item.items():
            if name in _LEFT_OUT:
                continue
            if name == "annotations" and isinstance(value, dict):
                told[name] = {key: self._annotation(key, text) for key, text in value.items()}
            elif name == "env" and isinstance(value, list):
                told[name] = [self._variable(one) for one in value]
            elif name in _COMMANDS and isinstance(value, list):
                told[name] = [self._masker.learn(one) if isinstance(one, str) else self._masked(one) for one in value]
            else:
                told[name] = self.told(value)
        return told

    def config_map(self, item: dict[str, Any]) -> dict[str, Any]:
        """Keys and sizes; what a value is nobody can tell from here."""
        sizes = {key: len(str(value)) for field in ("data", "binaryData") for key, value in (item.get(field) or {}).items()}
        return {"metadata": self.told(item["metadata"]), "sizes": sizes}

    def worker(self, item: dict[str, Any]) -> dict[str, Any]:
        """A worker's pod. What its containers left as their last words is the worker's own."""
        told: dict[str, Any] = self.told(item)
        for field in ("initContainerStatuses", "containerStatuses"):
            for status in told.get("status", {}).get(field) or []:
                for state in (status.get("state", {}), status.get("lastState", {})):
                    if "message" in state.get("terminated", {}):
                        state["terminated"]["message"] = MASK
        return told

    def run(self, item: dict[str, Any]) -> dict[str, Any]:
        """A PipelineRun as it stands: its id, nothing of what it runs, and not what the executor keeps for itself."""
        status = item.get("status", {})
        kept = {name: value for name, value in status.items() if name not in {"memory", "stages"}}
        stages = [{word: stage[word] for word in _WORDS_OF_A_STAGE if word in stage} for stage in status.get("stages") or []]
        pipeline_id = item.get("spec", {}).get("pipelineId") or item["metadata"]["name"]
        return {"pipelineId": pipeline_id, "metadata": self.told(item["metadata"]), "status": {**kept, "stages": stages}}

    def _annotation(self, key: str, value: str) -> str:
        if key.startswith(_HARMLESS_ANNOTATIONS):
            return value
        return MASK if key == LAST_APPLIED else self._masker.learn(str(value), key)

    def _variable(self, variable: dict[str, Any]) -> dict[str, Any]:
        name = variable.get("name", "")
        ours = name in self._settings or OWN_VARIABLES.fullmatch(name)
        if "value" not in variable or (ours and not is_sensitive(name)):
            return self.told(variable)  # type: ignore[no-any-return]  # a dict gives one
        return {**variable, "value": self._masker.learn(str(variable["value"]), name)}

    def _masked(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._masked(below) for name, below in value.items()}
        if isinstance(value, list):
            return [self._masked(below) for below in value]
        return self._masker.learn(value) if isinstance(value, str) else value
