"""The kinds that the fake serves."""

from dataclasses import dataclass
from typing import Any

from otto_kubekit.kinds import Kind
from otto_kubekit.testing.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind as the server knows it. `custom` ones take no strategic patches and need a resourceVersion in a replacement."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    status: bool = False
    custom: bool = False
    unconditional: bool = True

    @property
    def api_version(self) -> str:
        """As it stands in objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def title(self) -> str:
        """As it stands in messages."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


PODS = Resource("", "v1", "pods", "Pod", status=True)
CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", status=True)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False, status=True)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False, status=True)
DEFINITIONS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False, status=True)
ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
BUILT_IN = (
    PODS,
    CLAIMS,
    NAMESPACES,
    NODES,
    DEFINITIONS,
    Resource("", "v1", "events", "Event"),
    Resource("", "v1", "secrets", "Secret"),
    Resource("", "v1", "configmaps", "ConfigMap"),
    Resource("", "v1", "services", "Service", status=True),
    Resource("", "v1", "serviceaccounts", "ServiceAccount"),
    Resource("", "v1", "resourcequotas", "ResourceQuota", status=True),
    ROLES,
    ROLE_BINDINGS,
    Resource("", "v1", "limitranges", "LimitRange"),
    Resource("apps", "v1", "deployments", "Deployment", status=True),
    Resource("apps", "v1", "statefulsets", "StatefulSet", status=True),
    Resource("coordination.k8s.io", "v1", "leases", "Lease", unconditional=False),
)


class Resources:
    """All kinds, found by their place in the API."""

    def __init__(self) -> None:
        self._known = {(r.group, r.version, r.plural): r for r in BUILT_IN}

    def define(self, kind: Kind[Any], status: bool = True) -> Resource:
        """A kind of one's own, as a CustomResourceDefinition would define it."""
        resource = Resource(kind.group, kind.version, kind.plural, kind.name, kind.namespaced, status, custom=True, unconditional=False)
        self._known[kind.group, kind.version, kind.plural] = resource
        return resource

    def define_from(self, definition: dict[str, Any]) -> None:
        """What a CustomResourceDefinition says."""
        spec = definition["spec"]
        for version in spec["versions"]:
            names = spec["names"]
            key = (spec["group"], version["name"], names["plural"])
            status = "status" in version.get("subresources", {})
            self._known[key] = Resource(*key, names["kind"], spec["scope"] == "Namespaced", status, custom=True, unconditional=False)

    def find(self, group: str, version: str, plural: str) -> Resource:
        """The kind there. Raises a Refusal (404) as for a path that the server does not have."""
        resource = self._known.get((group, version, plural))
        if resource is None:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        return resource

    def named(self, api_version: str, kind: str) -> Resource | None:
        """The kind that an owner reference names, if there is one."""
        return next((r for r in self._known.values() if r.api_version == api_version and r.kind == kind), None)
