"""Workspaces that workers share: one PersistentVolumeClaim each, of the workspace's name.

A claim that is to be deleted gets a label, so that it is deleted even by a later service; that happens once no unfinished worker names it.
Claims that this installation has not made are neither given to workers nor touched. One in which others have worked is not made anew.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Container
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from otto_kubekit.bodies import merge
from otto_kubekit.client import Client
from otto_kubekit.errors import AlreadyExistsError, ConflictError, KubeError, NotFoundError
from otto_kubekit.kinds import CLAIMS
from otto_kubekit.objects import PersistentVolumeClaim
from otto_scaler.backends.kubernetes import marks
from otto_scaler.backends.kubernetes.manifest import owner_references
from otto_scaler.backends.kubernetes.refusals import away, may_pass, refusal, said
from otto_scaler.errors import AwayError, BackendError, RefusedError
from otto_scaler.worker import LABEL_PREFIX, WorkerSpec

log = logging.getLogger(__name__)

DEFAULT_CLASS = "default"
"""The word for the cluster's default class."""
GONE = "the workspace {} is gone: somebody has deleted its PersistentVolumeClaim while its pipeline went on"
LEAVING_SECONDS = 10.0
"""How long it is waited for an earlier claim of the same name that is being deleted."""


@dataclass(frozen=True, slots=True)
class ClaimPlan:
    """What claims ask for."""

    storage_class: str
    size: str
    access_mode: str


class Claims:
    """All claims of an installation."""

    def __init__(self, client: Client, plan: ClaimPlan, instance: str) -> None:
        self._client = client
        self._plan = plan
        self._instance = instance
        self._made: dict[str, set[str]] = {}
        """Known to be there and ours, and the uids of their owners: "" for none."""
        self._locks: dict[str, asyncio.Lock] = {}
        """Of those that are being made or deleted."""
        self._marked: dict[str, str] = {}
        """Uids of those that are to be deleted, by name."""

    async def ensure(self, spec: WorkerSpec) -> None:
        """Makes the claim that the worker names, if there is none. Raises RefusedError, AwayError, KubeError."""
        name, owner = spec.identity.workspace, spec.owner.uid if spec.owner is not None else ""
        if owner in self._made.get(name, ()):
            return
        async with self._alone(name):
            if owner not in self._made.get(name, ()):
                await self._make(name, spec)
                self._made.setdefault(name, set()).add(owner)

    async def find_marked(self) -> None:
        """Takes over what earlier services have noted. Raises KubeError."""
        listing = await self._client.list(CLAIMS, labels=f"{marks.selector(self._instance, marks.WORKSPACE)},{marks.DELETING}=true")
        self._marked |= {claim.metadata.name: claim.metadata.uid for claim in listing.items}

    async def mark(self, name: str) -> None:
        """Notes for good that it is to be deleted; nothing if there is none of ours. Raises KubeError."""
        try:
            claim = await self._client.get(CLAIMS, name)
            if not self._ours(claim) or claim.metadata.deletion_timestamp is not None:
                return
            await self._client.patch(CLAIMS, name, merge({"metadata": {"uid": claim.metadata.uid, "labels": {marks.DELETING: "true"}}}))
        except NotFoundError:
            self._made.pop(name, None)
            return
        self._marked[name] = claim.metadata.uid

    @property
    def waiting(self) -> bool:
        """Whether any is to be deleted."""
        return bool(self._marked)

    async def sweep(self, used: Callable[[], Container[str]]) -> None:
        """Deletes what is to be deleted and not `used` at that moment. What fails is said, and tried next time."""
        for name, uid in sorted(self._marked.items()):
            if name in used():
                continue
            self._made.pop(name, None)  # who names it meanwhile finds out what has become of it
            try:
                async with self._alone(name):
                    await self._client.delete(CLAIMS, name, uid=uid)
            except (NotFoundError, ConflictError):
                log.debug("scaler.claim.vanished", extra={"claim": name})
            except KubeError as error:
                log.warning("scaler.claim.delete_failed", extra={"claim": name, "why": said(error)})
                continue
            else:
                log.info("scaler.claim.deleted", extra={"claim": name})
            self._marked.pop(name, None)

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """Within, nobody else makes or deletes this claim."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and self._locks.get(name) is lock:
                del self._locks[name]

    async def _make(self, name: str, spec: WorkerSpec) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LEAVING_SECONDS
        while True:
            if not spec.workspace_expected:
                try:
                    await self._client.create(CLAIMS, self._body(name, spec))
                    log.info("scaler.claim.created", extra={"claim": name})
                    return
                except AlreadyExistsError:
                    pass
            try:
                there = await self._client.get(CLAIMS, name)
            except NotFoundError:
                if spec.workspace_expected:
                    raise RefusedError(GONE.format(name)) from None
                continue
            if not self._ours(there):
                raise RefusedError(f"the workspace {name} can't be had: a PersistentVolumeClaim of this name exists that is not ours")
            if there.metadata.deletion_timestamp is not None and spec.workspace_expected:
                raise RefusedError(GONE.format(name))
            if there.metadata.deletion_timestamp is None:
                try:
                    await self._own(there, spec)
                    return
                except (ConflictError, NotFoundError):
                    continue  # it was just bound, or deleted
            if loop.time() >= deadline:
                raise AwayError(f"the workspace {name} can't be had: an earlier one of this name is still being deleted", answered=True)
            await asyncio.sleep(0.2)

    async def _own(self, there: PersistentVolumeClaim, spec: WorkerSpec) -> None:
        """A run that takes another one's workspace over owns it too: else it would go with the other one."""
        owners = there.metadata.owner_references
        if spec.owner is None or spec.owner.uid in {owner.uid for owner in owners}:
            return
        # Not as its controller: an object has one at most.
        added = [*owners, *({**owner, "controller": False} for owner in owner_references(spec) or [])]
        meta = {"uid": there.metadata.uid, "resourceVersion": there.metadata.resource_version, "ownerReferences": added}
        await self._client.patch(CLAIMS, there.metadata.name, merge({"metadata": meta}))

    def _ours(self, claim: PersistentVolumeClaim) -> bool:
        labels = claim.metadata.labels
        return labels.get(marks.INSTANCE) == self._instance and labels.get(marks.COMPONENT) == marks.WORKSPACE

    def _body(self, name: str, spec: WorkerSpec) -> dict[str, Any]:
        identity = spec.identity
        told = (f"{LABEL_PREFIX}pipeline",) if identity.pipeline_id else (f"{LABEL_PREFIX}task",)
        labels = {key: identity.labels[key] for key in told if key in identity.labels}
        metadata: dict[str, Any] = {
            "name": name,
            "labels": {
                **labels,
                marks.MANAGED_BY: "ottoscaler",
                marks.COMPONENT: marks.WORKSPACE,
                marks.INSTANCE: self._instance,
            },
        }
        if (owners := owner_references(spec)) is not None:
            metadata["ownerReferences"] = owners
        wanted: dict[str, Any] = {
            "accessModes": [spec.claim.access_mode or self._plan.access_mode],
            "resources": {"requests": {"storage": spec.claim.size or self._plan.size}},
        }
        if (storage_class := spec.claim.storage_class or self._plan.storage_class) != DEFAULT_CLASS:
            wanted["storageClassName"] = storage_class
        return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": wanted}


def claim_refusal(error: KubeError, name: str) -> BackendError:
    """Why the workspace of a worker, and so the worker, can't be had."""
    if may_pass(error):
        return away(error, f"the workspace {name} can't be had: ")
    refused = refusal(error)
    return RefusedError(f"the workspace {name} can't be had: {refused}", refused.cause)
