"""A worker's spec, as the pod that is asked of the cluster. Pure: data in, data out.

What counts, from below: our defaults, which fulfil the Pod Security Standard "restricted"; the installation's template; the spec.
"""

import math
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from otto_scaler.backends.kubernetes import checkout, marks
from otto_scaler.backends.kubernetes.template import Part, WorkerTemplate, laid_over
from otto_scaler.worker import ExtraContainer, SecretVariable, WorkerSpec

WORKSPACE_PATH = "/workspace"
HOME_PATH = "/otto-home"
WORKSPACE_VOLUME, HOME_VOLUME = "otto-workspace", "otto-home"
USER = 1000
ENVIRONMENT = {"HOME": HOME_PATH, "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
"""Of every worker, unless the template or the request says otherwise. A volume's directory may be root's, as node-local storage classes
make it; Git would not touch a checkout there.
"""
LONGEST_SECONDS = 2**31 - 1
"""Of activeDeadlineSeconds."""
AWAY_SECONDS = 60
"""How long a pod stays on a node that does not answer, from when the cluster has noticed (40 to 50 s): its own default is five minutes."""
RESOURCES: Part = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
_POD_SECURITY: Part = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CONTAINER_SECURITY: Part = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_DEFAULTS: Part = {
    "enableServiceLinks": False,
    # Process 1 of a PID namespace ignores SIGTERM unless it asks for it, which hardly any shell or tool does: then every stop would take
    # the whole grace and end with SIGKILL. Shared, process 1 is the pause container.
    "shareProcessNamespace": True,
    "securityContext": _POD_SECURITY,
    "volumes": [{"name": HOME_VOLUME, "emptyDir": {}}],
}
_TOLERATIONS = tuple(
    {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": AWAY_SECONDS}
    for what in ("not-ready", "unreachable")
)
_EXPANDED = re.compile(r"\$(?=[$(])")
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is the same for all workers of an installation."""

    instance: str
    template: WorkerTemplate
    pending_timeout: float
    """Seconds."""
    checkout_image: str = ""
    """Empty: the worker's own."""
    workspaces: bool = False
    """Whether claims can be made."""

    def claim(self, spec: WorkerSpec) -> str:
        """The claim that the worker works in; empty: a directory of its own."""
        alone = spec.workspace_unshared and spec.workspace_optional
        return spec.identity.workspace if self.workspaces and not alone else ""


def problems(spec: WorkerSpec, plan: Plan) -> Iterator[tuple[str, str]]:
    """What can't be asked of the cluster: pairs of a WorkerSpec field's proto name and words for the client."""
    if not spec.image and not plan.template.image:
        yield "image", "is empty, and no default is configured (OTTO_SCALER_WORKER_TEMPLATE, container `worker`)"
    if spec.identity.workspace and not plan.workspaces and not spec.workspace_optional:
        yield "workspace", "needs a PersistentVolumeClaim, for which no storage class is configured (OTTO_SCALER_WORKSPACE_CLASS)"
    for name in sorted(marks.RESERVED_LABELS & spec.identity.labels.keys() - {marks.MANAGED_BY}):
        yield f"labels[{name!r}]", "is set by Ottoscaler itself"
    for field, value in (("priority_class_name", spec.priority_class), ("service_account_name", spec.service_account)):
        if value and not _DNS_SUBDOMAIN.fullmatch(value):
            yield field, f"{value[:80]!r} can't be the name of an object in Kubernetes"
    for secret in spec.secrets:
        if not _DNS_SUBDOMAIN.fullmatch(secret.secret):
            yield "secret_env", f"{secret.secret[:80]!r} can't be the name of a Secret in Kubernetes"
    taken = {marks.WORKER, marks.CHECKOUT} | {
        str(container["name"]) for container in (*plan.template.init_containers, *plan.template.sidecars)
    }
    for index, container in enumerate(spec.extra_containers):
        field = f"extra_containers[{index}]"
        if container.name and not _DNS_LABEL.fullmatch(container.name):
            yield f"{field}.name", f"{container.name[:80]!r} is no container name (lower-case letters, digits and '-', at most 63)"
        elif container.name in taken:
            yield f"{field}.name", f"{container.name} is the name of another container"
        taken.add(container.name)
        if not container.image:
            yield f"{field}.image", "is empty"


def pod(spec: WorkerSpec, plan: Plan, *, held: bool) -> dict[str, Any]:
    """The pod of a worker; with `held` it isn't scheduled before its gate is taken away."""
    template = plan.template
    metadata: dict[str, Any] = {
        "name": spec.identity.name,
        "labels": {**template.labels, **marks.labels(spec, plan.instance)},
        "annotations": {**template.annotations, **marks.annotations(spec)},
    }
    if (owners := owner_references(spec)) is not None:
        metadata["ownerReferences"] = owners
    body = laid_over(_DEFAULTS, template.spec)
    body["volumes"] = _volumes(body["volumes"], plan.claim(spec))
    body["tolerations"] = _tolerations(template.spec.get("tolerations") or [])
    if held:
        body["schedulingGates"] = [*body.get("schedulingGates", ()), {"name": marks.GATE}]
    if spec.priority_class:
        body["priorityClassName"] = spec.priority_class
    if spec.service_account:
        body["serviceAccountName"] = spec.service_account
    body |= {
        "restartPolicy": "Never",
        "automountServiceAccountToken": bool(spec.service_account),
        "terminationGracePeriodSeconds": math.ceil(spec.stop_grace),
        # Counted from when a node has taken the pod, pulls included: a limit for when nobody watches. The scaler keeps the true one.
        "activeDeadlineSeconds": min(LONGEST_SECONDS, math.ceil(spec.timeout) + math.ceil(plan.pending_timeout)),
        "containers": [_worker(spec, plan)],
    }
    before = [*template.init_containers, *template.sidecars]
    if spec.repository:
        before.append(_checkout(spec, plan))
    before += [_extra(container, template) for container in spec.extra_containers]
    if before:
        body["initContainers"] = before
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body}


def owner_references(spec: WorkerSpec) -> list[dict[str, Any]] | None:
    """What takes the object away when it goes itself; None if nothing does."""
    owner = spec.owner
    if owner is None:
        return None
    return [{"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid, "controller": True}]


def literal(text: str) -> str:
    """The text so that Kubernetes hands it to a container as it is: it would replace `$(NAME)`, and take `$$` for an escaped `$`."""
    return _EXPANDED.sub("$$", text) if "$" in text else text


def _worker(spec: WorkerSpec, plan: Plan) -> dict[str, Any]:
    own: dict[str, Any] = {
        "name": marks.WORKER,
        "command": [literal(argument) for argument in spec.command],
        "workingDir": posixpath.normpath(posixpath.join(WORKSPACE_PATH, spec.working_directory)),
        "env": _environment(spec),
    }
    if spec.image:
        own["image"] = spec.image
    default = {
        "resources": RESOURCES,
        "securityContext": _CONTAINER_SECURITY,
        "volumeMounts": _mounts(),
        "env": [_variable(name, value) for name, value in ENVIRONMENT.items()],
    }
    container = laid_over(laid_over(default, plan.template.worker), own)
    container["resources"] = _resources(container["resources"], spec.cpu_cores, spec.memory_bytes)
    return container


def _checkout(spec: WorkerSpec, plan: Plan) -> dict[str, Any]:
    worker = _worker(spec, plan)
    inherited = ("image", "imagePullPolicy", "resources", "securityContext", "volumeMounts", "envFrom")
    container = {name: worker[name] for name in inherited if name in worker}
    if plan.checkout_image:
        container["image"] = plan.checkout_image
    told = [_variable(name, value) for name, value in checkout.variables(spec).items()]
    return {
        **container,
        "name": marks.CHECKOUT,
        "command": [literal(argument) for argument in checkout.COMMAND],
        "workingDir": WORKSPACE_PATH,
        "env": [*worker["env"], *told],
    }


def _extra(extra: ExtraContainer, template: WorkerTemplate) -> dict[str, Any]:
    """A sidecar, so that it ends with the worker."""
    security = laid_over(_CONTAINER_SECURITY, template.worker.get("securityContext") or {})
    container: dict[str, Any] = {
        "name": extra.name,
        "image": extra.image,
        "restartPolicy": "Always",
        "env": [_variable(name, value) for name, value in extra.env.items()],
        "resources": _resources(RESOURCES, extra.cpu_cores, extra.memory_bytes),
        "securityContext": security,
        "volumeMounts": [{"name": WORKSPACE_VOLUME, "mountPath": WORKSPACE_PATH}],
    }
    if extra.command:
        container["command"] = [literal(argument) for argument in extra.command]
    if extra.args:
        container["args"] = [literal(argument) for argument in extra.args]
    if "imagePullPolicy" in template.worker:
        container["imagePullPolicy"] = template.worker["imagePullPolicy"]
    return container


def _environment(spec: WorkerSpec) -> list[dict[str, Any]]:
    told = {**spec.env, "OTTO_WORKSPACE": WORKSPACE_PATH, "OTTO_WORKER_NAME": spec.identity.name}
    secrets = {secret.name: _from_secret(secret) for secret in spec.secrets}
    return [*(_variable(name, value) for name, value in told.items() if name not in secrets), *secrets.values()]


def _variable(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "value": literal(value)}


def _from_secret(secret: SecretVariable) -> dict[str, Any]:
    return {"name": secret.name, "valueFrom": {"secretKeyRef": {"name": secret.secret, "key": secret.key}}}


def _resources(default: Mapping[str, Any], cores: float, memory: int) -> dict[str, Any]:
    """What it may use is also what is reserved for it, where it was asked for."""
    asked: dict[str, str] = {}
    if cores:
        asked["cpu"] = f"{max(1, math.ceil(cores * 1000))}m"
    if memory:
        asked["memory"] = str(memory)
    if not asked:
        return dict(default)
    return {**default, **{what: {**(default.get(what) or {}), **asked} for what in ("requests", "limits")}}


def _mounts() -> list[dict[str, Any]]:
    return [{"name": WORKSPACE_VOLUME, "mountPath": WORKSPACE_PATH}, {"name": HOME_VOLUME, "mountPath": HOME_PATH}]


def _volumes(given: list[dict[str, Any]], claim: str) -> list[dict[str, Any]]:
    """The template may say what a workspace of one's own is made of; a shared one is a claim."""
    own = next((volume for volume in given if volume["name"] == WORKSPACE_VOLUME), {"name": WORKSPACE_VOLUME, "emptyDir": {}})
    shared = {"name": WORKSPACE_VOLUME, "persistentVolumeClaim": {"claimName": claim}}
    return [*(volume for volume in given if volume["name"] != WORKSPACE_VOLUME), shared if claim else own]


def _tolerations(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    named = {toleration.get("key") for toleration in given if isinstance(toleration, dict)}
    return [*given, *(toleration for toleration in _TOLERATIONS if toleration["key"] not in named)]
