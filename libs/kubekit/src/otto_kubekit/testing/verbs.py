"""Create, get, replace, patch and delete, as the API server does them: what it fills in, what it refuses, what it leaves alone."""

import copy
import random
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from otto_kubekit.testing import patching
from otto_kubekit.testing.fields import Ownership
from otto_kubekit.testing.pod_rules import accept_pod_change, new_pod
from otto_kubekit.testing.refusals import Refusal, bad_request, exists, invalid, modified, not_found, precondition, too_large
from otto_kubekit.testing.resources import CLAIMS, DEFINITIONS, NAMESPACES, PODS, Resource, Resources
from otto_kubekit.testing.storage import Object, Storage

Admission = Callable[[Resource, Object], None]
"""Looks at an object about to be created and raises a Refusal if it may not be: a quota, a policy."""

ETCD_BYTES = 1_572_864
"""The largest request that etcd takes by default."""
_ESCAPED = re.compile(rb"[<>&]")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_RANDOM = "bcdfghjklmnpqrstvwxz2456789"
_SERVER_OWNED = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink")


def now(micro: bool = False) -> str:
    """The time as it stands in objects."""
    moment = datetime.now(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


class Verbs:
    """Writes that keep the API server's rules."""

    def __init__(self, storage: Storage, resources: Resources) -> None:
        self.admissions: list[Admission] = []
        self._storage = storage
        self._resources = resources
        self._ownership = Ownership()

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """The object. Raises a Refusal (404)."""
        found = self._storage.get(resource, namespace, name)
        if found is None:
            raise not_found(resource.title, resource.plural, name)
        return found

    def create(self, resource: Resource, namespace: str, body: Object, manager: str = "", dry_run: bool = False) -> Object:
        """A new object."""
        self._check_type(resource, namespace, body)
        meta = {k: v for k, v in body.get("metadata", {}).items() if k not in (*_SERVER_OWNED, "resourceVersion")}
        if body.get("metadata", {}).get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + "".join(random.choices(_RANDOM, k=5))
        name = meta.get("name", "")
        self._check_meta(resource, meta)
        if resource.namespaced:
            space = self._storage.get(NAMESPACES, "", namespace)
            if space is None:
                raise not_found("namespaces", "namespaces", namespace)
            if "deletionTimestamp" in space["metadata"]:
                why = f"unable to create new content in namespace {namespace} because it is being terminated"
                message = f'{resource.title} "{name}" is forbidden: {why}'
                raise Refusal(403, "Forbidden", message, {"name": name, "kind": resource.plural})
            meta["namespace"] = namespace
        item = {**copy.deepcopy(body), "apiVersion": resource.api_version, "kind": resource.kind}
        item["metadata"] = {**meta, "uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
        if resource.status:
            item.pop("status", None)
        if resource is PODS:
            item = new_pod(item)
        elif resource is CLAIMS:
            item["status"] = {"phase": "Pending"}
            item["metadata"]["finalizers"] = [*meta.get("finalizers", []), "kubernetes.io/pvc-protection"]
        elif resource is NAMESPACES:
            item["status"] = {"phase": "Active"}
        for admission in self.admissions:
            admission(resource, item)
        there = self._storage.get(resource, meta.get("namespace", ""), name)
        if there is not None:
            raise exists(resource.title, resource.plural, name, "deletionTimestamp" in there["metadata"])
        if dry_run:
            return item
        self._check_size(item)
        if resource is DEFINITIONS:
            item["status"] = {"conditions": [{"type": "Established", "status": "True"}, {"type": "NamesAccepted", "status": "True"}]}
            self._resources.define_from(item)
        stored = self._storage.put(resource, item)
        self._ownership.wrote(stored, manager, body)
        return stored

    def replace(self, resource: Resource, namespace: str, name: str, body: Object, subresource: str = "", manager: str = "") -> Object:
        """A whole object in place of the one there."""
        self._check_type(resource, namespace, body)
        if body.get("metadata", {}).get("name", name) != name:
            raise bad_request(f"the name of the object ({body['metadata']['name']}) does not match the name on the URL ({name})")
        there = self.get(resource, namespace, name)
        if not body.get("metadata", {}).get("resourceVersion") and not resource.unconditional and not subresource:
            raise invalid(
                resource.kind, name, "metadata.resourceVersion", "FieldValueInvalid", "Invalid value: 0x0: must be specified for an update"
            )
        return self._write(resource, there, body, subresource, manager)

    def patch(
        self, resource: Resource, namespace: str, name: str, content_type: str, change: Any, subresource: str = "", manager: str = ""
    ) -> Object:
        """An object changed by a patch."""
        there = self.get(resource, namespace, name)
        if content_type == "application/merge-patch+json":
            wanted = patching.merge(there, change)
        elif content_type == "application/strategic-merge-patch+json" and not resource.custom:
            wanted = patching.strategic(there, change)
        elif content_type == "application/json-patch+json":
            wanted = patching.json_patch(there, change)
        else:
            raise Refusal(415, "UnsupportedMediaType", f"the body of the request was in an unknown format - {content_type}")
        return self._write(resource, there, wanted, subresource, manager)

    def apply(
        self, resource: Resource, namespace: str, name: str, body: Object, manager: str, force: bool, subresource: str = ""
    ) -> Object:
        """Server-side apply: what `manager` applied before and leaves out now goes, what belongs to others is a conflict unless forced."""
        if not manager:
            raise bad_request('PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch')
        self._check_type(resource, namespace, body)
        there = self._storage.get(resource, namespace, name)
        if there is None:
            if subresource:
                raise not_found(resource.title, resource.plural, name)
            created = self.create(resource, namespace, {**body, "metadata": {**body.get("metadata", {}), "name": name}})
            self._ownership.applied(created, manager, body)
            return created
        taken = self._ownership.taken(there, manager, body)
        if taken and not force:
            causes = [
                {"reason": "FieldManagerConflict", "message": f'conflict with "{other}"', "field": "." + ".".join(path)}
                for path, other in taken
            ]
            message = (
                f"Apply failed with {len(taken)} conflict{'s' if len(taken) > 1 else ''}: {causes[0]['message']}: {causes[0]['field']}"
            )
            raise Refusal(409, "Conflict", message, {"causes": causes})
        wanted = there
        for path in self._ownership.left_out(there, manager, body):
            wanted = patching.without(wanted, path)
        wanted = patching.strategic(wanted, body) if not resource.custom else patching.merge(wanted, body)
        written = self._write(resource, there, wanted, subresource, "")
        self._ownership.applied(written, manager, body)
        return written

    def delete(self, resource: Resource, namespace: str, name: str, options: Object) -> Object:
        """The beginning of an object's end, or its end. Returns the object as it is then."""
        there = self.get(resource, namespace, name)
        meta = there["metadata"]
        for field, what in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            wanted = (options.get("preconditions") or {}).get(field)
            if wanted and wanted != meta[field]:
                raise precondition(resource.title, resource.plural, name, what, wanted, meta[field])
        policy = options.get("propagationPolicy", "")
        finalizers = list(meta.get("finalizers", []))
        for word, finalizer in (("Foreground", "foregroundDeletion"), ("Orphan", "orphan")):
            if policy == word and finalizer not in finalizers:
                finalizers.append(finalizer)
        grace = self._grace(resource, there, options)
        if not finalizers and grace == 0:
            return self._storage.remove(resource, namespace, name)
        changed = {"deletionTimestamp": meta.get("deletionTimestamp", now()), "deletionGracePeriodSeconds": grace}
        if finalizers:
            changed["finalizers"] = finalizers
        if all(meta.get(key) == value for key, value in changed.items()):
            return there
        return self._storage.put(resource, {**there, "metadata": {**meta, **changed}})

    @staticmethod
    def _grace(resource: Resource, there: Object, options: Object) -> int:
        if resource is not PODS:
            return 0
        if not there["spec"].get("nodeName") or there["status"].get("phase") in {"Succeeded", "Failed"}:
            return 0
        grace: int | None = options.get("gracePeriodSeconds")
        if grace is None:
            grace = there["spec"].get("terminationGracePeriodSeconds", 30)
        already = there["metadata"].get("deletionGracePeriodSeconds")
        return grace if already is None else min(grace, already)

    def _write(self, resource: Resource, there: Object, wanted: Object, subresource: str, manager: str) -> Object:
        meta, name = there["metadata"], there["metadata"]["name"]
        asked = wanted.get("metadata", {})
        if asked.get("uid", meta["uid"]) != meta["uid"]:
            raise precondition(resource.title, resource.plural, name, "UID", asked["uid"], meta["uid"])
        if (asked.get("resourceVersion") or meta["resourceVersion"]) != meta["resourceVersion"]:
            raise modified(resource.title, resource.plural, name)
        kept = {key: meta[key] for key in (*_SERVER_OWNED, "name", "namespace", "resourceVersion", "generateName") if key in meta}
        if subresource == "status":
            if not resource.status:
                raise Refusal(404, "NotFound", "the server could not find the requested resource")
            item = {**there, **({"status": wanted["status"]} if "status" in wanted else {})}
        else:
            item = {**copy.deepcopy(wanted), "metadata": {**asked, **kept}}
            if resource.status:
                item.pop("status", None)
                if "status" in there:
                    item["status"] = there["status"]
            self._check_meta(resource, item["metadata"])
            if resource is PODS:
                accept_pod_change(there, item)
            body = {k: v for k, v in item.items() if k not in ("metadata", "status")}
            if body != {k: v for k, v in there.items() if k not in ("metadata", "status")}:
                item["metadata"]["generation"] = meta.get("generation", 1) + 1
        if not item["metadata"].get("finalizers"):
            item["metadata"].pop("finalizers", None)
        if item == there:
            return there
        if "deletionTimestamp" in meta and not item["metadata"].get("finalizers") and not meta.get("deletionGracePeriodSeconds"):
            self._storage.put(resource, item)
            return self._storage.remove(resource, meta.get("namespace", ""), name)
        self._check_size(item)
        stored = self._storage.put(resource, item)
        if manager:
            self._ownership.wrote(stored, manager, stored, there)
        return stored

    @staticmethod
    def _check_size(item: Object) -> None:
        text = msgspec.json.encode(item)
        # API servers escape three characters as \u00XX.
        if len(text) > ETCD_BYTES // 6 and len(text) + 5 * len(_ESCAPED.findall(text)) > ETCD_BYTES:
            raise too_large()

    @staticmethod
    def _check_type(resource: Resource, namespace: str, body: Any) -> None:
        if not isinstance(body, dict):
            raise bad_request("the object provided is unrecognized (must be of type Object)")
        for field, wanted in (("apiVersion", resource.api_version), ("kind", resource.kind)):
            if body.get(field, "" if resource.custom else wanted) != wanted:
                raise bad_request(f"{field} in the data ({body.get(field)}) does not match the expected {field} ({wanted})")
        if resource.namespaced and body.get("metadata", {}).get("namespace", namespace) != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")

    @staticmethod
    def _check_meta(resource: Resource, meta: Object) -> None:
        name = meta.get("name", "")
        if not name:
            raise invalid(resource.kind, "", "metadata.name", "FieldValueRequired", "Required value: name or generateName is required")
        if not _NAME.fullmatch(name) or len(name) > 253:
            raise invalid(
                resource.kind,
                name,
                "metadata.name",
                "FieldValueInvalid",
                f"Invalid value: \"{name}\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'",
            )
        for key, value in (meta.get("labels") or {}).items():
            if not isinstance(value, str) or len(value) > 63 or not _LABEL_VALUE.fullmatch(value):
                allowed = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'"
                raise invalid(resource.kind, name, "metadata.labels", "FieldValueInvalid", f'Invalid value: "{value}": {allowed} ({key})')
