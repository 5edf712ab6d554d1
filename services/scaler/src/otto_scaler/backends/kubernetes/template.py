"""The pod template of an installation: what it wants all worker pods to have, read from a file and laid over our own defaults.

`metadata` gives labels and annotations, `spec` whatever a pod's spec can have. Its container named `worker` holds defaults of the worker's
own container; other containers become sidecars (init containers that restart always), so that they end with the worker and not the
worker with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from otto_scaler.backends.kubernetes.marks import CHECKOUT, RESERVED_LABELS, WORKER
from otto_scaler.errors import BackendUnusableError
from otto_scaler.worker import LABEL_PREFIX

Part = Mapping[str, Any]

OURS_IN_SPEC = ("restartPolicy", "activeDeadlineSeconds", "terminationGracePeriodSeconds", "automountServiceAccountToken", "nodeName")
"""What a worker's life depends on, so that it can't be anything else."""
OURS_IN_WORKER = ("command", "args", "workingDir")
_NAMED = ("env", "volumes", "volumeMounts", "schedulingGates", "ports")
"""Lists whose elements are told apart by a key; of any other list the upper one counts."""
_KEYS = {"volumeMounts": "mountPath", "ports": "containerPort"}
_WHOLE = ("resources",)
"""Mappings that belong together: a request of the template's may not fit a limit of ours."""


@dataclass(frozen=True, slots=True)
class WorkerTemplate:
    """A pod template taken apart. Without a file all of it is empty."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    spec: Part = field(default_factory=dict)
    """Without containers and init containers."""
    worker: Part = field(default_factory=dict)
    init_containers: tuple[Part, ...] = ()
    sidecars: tuple[Part, ...] = ()

    @property
    def image(self) -> str:
        """What workers run in that name no image; empty: they have to."""
        return str(self.worker.get("image", ""))


def laid_over(under: Part, upper: Part) -> dict[str, Any]:
    """`upper` laid over `under`: mappings are merged, elements of lists that have a name too, and anything else is replaced."""
    result = dict(under)
    for name, value in upper.items():
        below = under.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and name not in _WHOLE:
            result[name] = laid_over(below, value)
        elif name in _NAMED and isinstance(value, (list, tuple)) and isinstance(below, (list, tuple)):
            key = _KEYS.get(name, "name")
            result[name] = list(({element[key]: element for element in below} | {element[key]: element for element in value}).values())
        else:
            result[name] = value
    return result


def load(path: str) -> WorkerTemplate:
    """The template in the file; an empty path is an empty template. Raises BackendUnusableError that names the setting and the field."""
    if not path:
        return WorkerTemplate()
    try:
        return parse(yaml.safe_load(Path(path).expanduser().read_text()))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise BackendUnusableError(f"OTTO_SCALER_WORKER_TEMPLATE: {path} can't be read: {why}") from error
    except yaml.YAMLError as error:
        raise BackendUnusableError(f"OTTO_SCALER_WORKER_TEMPLATE: {path} is neither YAML nor JSON: {error}") from error
    except ValueError as error:
        raise BackendUnusableError(f"OTTO_SCALER_WORKER_TEMPLATE: {path}: {error}") from error


def parse(document: Any) -> WorkerTemplate:
    """Takes a template apart. Raises ValueError that names the field and what is wrong with it."""
    whole = _mapping(document or {}, "the template")
    _only(whole, ("apiVersion", "kind", "metadata", "spec"), "the template")
    metadata = _mapping(whole.get("metadata") or {}, "metadata")
    _only(metadata, ("labels", "annotations"), "metadata")
    labels, annotations = (_texts(metadata.get(name) or {}, f"metadata.{name}") for name in ("labels", "annotations"))
    for name in (*labels, *annotations):
        if name.startswith(LABEL_PREFIX) or name in RESERVED_LABELS:
            raise ValueError(f"metadata: {name} is set by Ottoscaler itself")
    spec = dict(_mapping(whole.get("spec") or {}, "spec"))
    _none_of(spec, OURS_IN_SPEC, "spec")
    containers = _containers(spec.pop("containers", None), "spec.containers")
    init_containers = _containers(spec.pop("initContainers", None), "spec.initContainers")
    worker = dict(containers.pop(WORKER, {}))
    worker.pop("name", None)
    _none_of(worker, OURS_IN_WORKER, "the container worker")
    for name in {**containers, **init_containers}:
        if name in {WORKER, CHECKOUT}:
            raise ValueError(f"spec.initContainers: the name {name} is taken by Ottoscaler itself")
    for name in containers:
        if name in init_containers:
            raise ValueError(f"spec.containers: {name} is an init container's name too")
    sidecars = tuple({**container, "restartPolicy": "Always"} for container in containers.values())
    _check_named(spec, "spec")
    _check_named(worker, "the container worker")
    return WorkerTemplate(labels, annotations, spec, worker, tuple(init_containers.values()), sidecars)


def _containers(value: Any, where: str) -> dict[str, Part]:
    found: dict[str, Part] = {}
    for index, element in enumerate(_list(value or [], where)):
        container = _mapping(element, f"{where}[{index}]")
        name = container.get("name")
        if not isinstance(name, str) or not name:
            raise ValueError(f"{where}[{index}] has no name")
        if name in found:
            raise ValueError(f"{where}[{index}]: {name} is there twice")
        found[name] = container
    return found


def _check_named(part: Part, where: str) -> None:
    for name in _NAMED:
        for index, element in enumerate(_list(part.get(name) or [], f"{where}.{name}")):
            key = _KEYS.get(name, "name")
            if key not in _mapping(element, f"{where}.{name}[{index}]"):
                raise ValueError(f"{where}.{name}[{index}] has no {key}")
    for name in ("securityContext", "resources"):
        _mapping(part.get(name) or {}, f"{where}.{name}")
    _list(part.get("tolerations") or [], f"{where}.tolerations")


def _mapping(value: Any, where: str) -> Part:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} has to be a mapping, and is {_kind(value)}")  # noqa: TRY004 - what is wrong is the file
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where} has to be a list, and is {_kind(value)}")  # noqa: TRY004 - what is wrong is the file
    return value


def _texts(value: Any, where: str) -> dict[str, str]:
    for name, text in _mapping(value, where).items():
        if not isinstance(name, str) or not isinstance(text, str):
            words = f"{where}.{name} has to be a text (in quotes), and is {_kind(text)}"
            raise ValueError(words)  # noqa: TRY004 - what is wrong is the file
    return dict(value)


def _none_of(part: Part, names: tuple[str, ...], where: str) -> None:
    for name in names:
        if name in part:
            raise ValueError(f"{where}.{name} is set by Ottoscaler itself, for each worker")


def _only(part: Part, names: tuple[str, ...], where: str) -> None:
    for name in part:
        if name not in names:
            raise ValueError(f"{where} has no {name!r}; it may have {', '.join(names)}")


def _kind(value: Any) -> str:
    return {dict: "a mapping", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}.get(
        type(value), "nothing" if value is None else type(value).__name__
    )
