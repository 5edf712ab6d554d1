"""Kinds: where objects live in the API and which Struct they are read into.

A kind of one's own is `Kind("ottoscaler.io", "v1alpha1", "pipelineruns", "PipelineRun", PipelineRun)` with a Struct derived from
`objects.KubeObject`.
"""

from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import quote

import msgspec

from otto_kubekit import objects

O = TypeVar("O", bound=objects.KubeObject)  # noqa: E741 - an object, of whichever kind


class ListMeta(objects.Part, frozen=True):
    """Where in time a list stands, and where it goes on."""

    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")
    remaining_item_count: int | None = None


class Page(msgspec.Struct, Generic[O], frozen=True):
    """A list, or a page of one."""

    metadata: ListMeta = ListMeta()
    items: list[O] = []


@dataclass(frozen=True, slots=True, eq=False)
class Kind(Generic[O]):
    """A kind of object. `group` is "" for the core group."""

    group: str
    version: str
    plural: str
    name: str
    type: type[O]
    namespaced: bool = True
    one: "msgspec.json.Decoder[O]" = field(init=False, repr=False)
    many: "msgspec.json.Decoder[Page[O]]" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "one", msgspec.json.Decoder(self.type))
        object.__setattr__(self, "many", msgspec.json.Decoder(Page[self.type]))  # type: ignore[name-defined] # the type is a value here

    @property
    def api_version(self) -> str:
        """`group/version`, as it stands in objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """The URL path of the objects of a namespace ("" for all of them), or of one object."""
        parts = [f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


PODS = Kind("", "v1", "pods", "Pod", objects.Pod)
CLAIMS = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", objects.PersistentVolumeClaim)
EVENTS = Kind("", "v1", "events", "Event", objects.Event)
SECRETS = Kind("", "v1", "secrets", "Secret", objects.Secret)
CONFIG_MAPS = Kind("", "v1", "configmaps", "ConfigMap", objects.ConfigMap)
LEASES = Kind("coordination.k8s.io", "v1", "leases", "Lease", objects.Lease)
NAMESPACES = Kind("", "v1", "namespaces", "Namespace", objects.CustomObject, namespaced=False)
NODES = Kind("", "v1", "nodes", "Node", objects.CustomObject, namespaced=False)
QUOTAS = Kind("", "v1", "resourcequotas", "ResourceQuota", objects.CustomObject)
CUSTOM_RESOURCE_DEFINITIONS = Kind(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", objects.CustomObject, namespaced=False
)
POD_METRICS = Kind("metrics.k8s.io", "v1beta1", "pods", "PodMetrics", objects.PodMetrics)
"""Only where a metrics server serves them."""
TOKEN_REVIEWS = Kind("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", objects.TokenReview, namespaced=False)


def custom(group: str, version: str, plural: str, name: str, namespaced: bool = True) -> Kind[objects.CustomObject]:
    """A kind that is read as it comes: spec and status are dicts."""
    return Kind(group, version, plural, name, objects.CustomObject, namespaced)
