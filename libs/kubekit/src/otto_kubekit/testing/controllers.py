"""What the controllers of a cluster do for us: owners take along what they own, claims are bound, namespaces empty themselves."""

import asyncio

from otto_kubekit.testing.resources import CLAIMS, NAMESPACES, PODS, Resource, Resources
from otto_kubekit.testing.storage import Change, Object, Storage
from otto_kubekit.testing.verbs import Verbs

_PROTECTED = "kubernetes.io/pvc-protection"


class Controllers:
    """Tidies up behind every change, a moment later, as controllers do."""

    def __init__(self, storage: Storage, resources: Resources, verbs: Verbs) -> None:
        self.storage_classes = {"standard"}
        self.default_class = "standard"
        self._storage = storage
        self._resources = resources
        self._verbs = verbs
        self._wanted = asyncio.Event()
        storage.listen(self._hear)

    def _hear(self, _: Change) -> None:
        self._wanted.set()

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await asyncio.sleep(0.01)
            uids = {(item["metadata"].get("namespace", ""), item["metadata"]["uid"]) for _, item in self._storage.everything()}
            for resource, item in list(self._storage.everything()):
                self._collect(resource, item, uids)
                if resource is CLAIMS:
                    self._claim(item)
                elif resource is NAMESPACES and "deletionTimestamp" in item["metadata"]:
                    self._empty(item)

    def _collect(self, resource: Resource, item: Object, uids: set[tuple[str, str]]) -> None:
        """Deletes what has owners of which none is there: cluster-wide, or in its own namespace, for elsewhere there are none for it."""
        meta = item["metadata"]

        def there(owner: Object) -> bool:
            return not uids.isdisjoint({("", owner["uid"]), (meta.get("namespace", ""), owner["uid"])})

        finalizers = meta.get("finalizers", [])
        if "deletionTimestamp" in meta and "orphan" in finalizers:
            for kind, owned in self._owned(meta["uid"]):
                self._disown(kind, owned, meta["uid"])
            self._drop_finalizer(resource, item, "orphan")
            return
        if "deletionTimestamp" in meta and "foregroundDeletion" in finalizers:
            owned_by_it = self._owned(meta["uid"])
            for kind, owned in owned_by_it:
                if any(there(o) and o["uid"] != meta["uid"] for o in owned["metadata"]["ownerReferences"]):
                    self._disown(kind, owned, meta["uid"])
                else:
                    self._delete(kind, owned)
            if not owned_by_it:
                self._drop_finalizer(resource, item, "foregroundDeletion")
            return
        owners = meta.get("ownerReferences", [])
        if owners and not any(there(owner) for owner in owners):
            self._delete(resource, item)

    def _owned(self, uid: str) -> list[tuple[Resource, Object]]:
        return [
            (kind, item)
            for kind, item in self._storage.everything()
            if any(o["uid"] == uid for o in item["metadata"].get("ownerReferences", []))
        ]

    def _disown(self, resource: Resource, item: Object, uid: str) -> None:
        references = [o for o in item["metadata"]["ownerReferences"] if o["uid"] != uid]
        self._storage.put(resource, {**item, "metadata": {**item["metadata"], "ownerReferences": references}})

    def _delete(self, resource: Resource, item: Object) -> None:
        meta = item["metadata"]
        if "deletionTimestamp" not in meta and self._storage.get(resource, meta.get("namespace", ""), meta["name"]) is not None:
            self._verbs.delete(resource, meta.get("namespace", ""), meta["name"], {})

    def _drop_finalizer(self, resource: Resource, item: Object, finalizer: str) -> None:
        meta = item["metadata"]
        there = self._storage.get(resource, meta.get("namespace", ""), meta["name"])
        if there is None:
            return
        left = [f for f in there["metadata"].get("finalizers", []) if f != finalizer]
        self._verbs.replace(
            resource, meta.get("namespace", ""), meta["name"], {**there, "metadata": {**there["metadata"], "finalizers": left}}
        )

    def _claim(self, claim: Object) -> None:
        meta = claim["metadata"]
        name = claim["spec"].get("storageClassName", self.default_class)
        if "deletionTimestamp" in meta and _PROTECTED in meta.get("finalizers", []):
            used = any(
                volume.get("persistentVolumeClaim", {}).get("claimName") == meta["name"]
                for pod in self._storage.all(PODS, meta["namespace"])
                if pod["status"].get("phase") not in {"Succeeded", "Failed"}
                for volume in pod["spec"].get("volumes", [])
            )
            if not used:
                self._drop_finalizer(CLAIMS, claim, _PROTECTED)
        elif claim["status"]["phase"] == "Pending" and name in self.storage_classes:
            capacity = claim["spec"].get("resources", {}).get("requests", {})
            status = {"phase": "Bound", "capacity": capacity, "accessModes": claim["spec"].get("accessModes", [])}
            self._storage.put(CLAIMS, {**claim, "spec": {**claim["spec"], "volumeName": f"pvc-{meta['uid']}"}, "status": status})

    def _empty(self, namespace: Object) -> None:
        name = namespace["metadata"]["name"]
        inside = [(kind, item) for kind, item in self._storage.everything() if item["metadata"].get("namespace") == name]
        for kind, item in inside:
            self._delete(kind, item)
        if not inside:
            self._drop_finalizer(NAMESPACES, namespace, "kubernetes")
