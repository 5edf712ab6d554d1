"""What the API server fills in for a new pod, and what of a pod may still be changed."""

import copy
from typing import Any

from otto_kubekit.testing.refusals import invalid
from otto_kubekit.testing.storage import Object

_FORBIDDEN = (
    "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def new_pod(pod: Object) -> Object:
    """The pod with defaults and its first status. Raises a Refusal (422) for one without containers, or with two of a name."""
    name = pod["metadata"]["name"]
    spec: dict[str, Any] = pod.get("spec") or {}
    if not spec.get("containers"):
        raise invalid("Pod", name, "spec.containers", "FieldValueRequired", "Required value")
    seen: set[str] = set()
    for field in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(field, [])):
            where = f"spec.{field}[{index}]"
            if not container.get("name"):
                raise invalid("Pod", name, f"{where}.name", "FieldValueRequired", "Required value")
            if container["name"] in seen:
                raise invalid("Pod", name, f"{where}.name", "FieldValueDuplicate", f'Duplicate value: "{container["name"]}"')
            if not container.get("image"):
                raise invalid("Pod", name, f"{where}.image", "FieldValueRequired", "Required value")
            seen.add(container["name"])
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and deadline < 1:
        raise invalid(
            "Pod",
            name,
            "spec.activeDeadlineSeconds",
            "FieldValueInvalid",
            f"Invalid value: {deadline}: must be between 1 and 2147483647, inclusive",
        )
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    status: dict[str, Any] = {"phase": "Pending", "qosClass": "BestEffort"}
    if spec.get("schedulingGates"):
        status["conditions"] = [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }
        ]
    return {**pod, "spec": spec, "status": status}


def accept_pod_change(there: Object, wanted: Object) -> None:
    """Raises a Refusal (422) for a change of a pod that the API server does not allow."""
    name = there["metadata"]["name"]
    before, after = copy.deepcopy(there["spec"]), copy.deepcopy(wanted["spec"])
    old, new = before.pop("activeDeadlineSeconds", None), after.pop("activeDeadlineSeconds", None)
    if new is not None and new < 1:
        raise invalid(
            "Pod",
            name,
            "spec.activeDeadlineSeconds",
            "FieldValueInvalid",
            f"Invalid value: {new}: must be between 1 and 2147483647, inclusive",
        )
    if old is not None and (new is None or new > old):
        words = "must not update from a positive integer to nil value" if new is None else "must be less than or equal to previous value"
        raise invalid("Pod", name, "spec.activeDeadlineSeconds", "FieldValueInvalid", f"Invalid value: {new}: {words}")
    old_gates = [gate["name"] for gate in before.pop("schedulingGates", [])]
    new_gates = [gate["name"] for gate in after.pop("schedulingGates", [])]
    for index, gate in enumerate(new_gates):
        if gate not in old_gates:
            raise invalid(
                "Pod",
                name,
                f"spec.schedulingGates[{index}].name",
                "FieldValueForbidden",
                f"Forbidden: only deletion is allowed, but found new scheduling gate '{gate}'",
            )
    if wanted["spec"].get("schedulingGates") == []:
        del wanted["spec"]["schedulingGates"]
    for spec in (before, after):
        spec.pop("tolerations", None)
        if old_gates:
            # A gated pod may be narrowed down to other nodes.
            spec.pop("nodeSelector", None)
            spec.pop("affinity", None)
        for container in [*spec.get("containers", []), *spec.get("initContainers", [])]:
            container.pop("image", None)
    if before != after:
        raise invalid("Pod", name, "spec", "FieldValueForbidden", _FORBIDDEN)
