"""Claims of shared workspaces: what they ask for, and whose they are."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from otto_kubekit.bodies import merge
from otto_kubekit.client import Client
from otto_kubekit.kinds import CLAIMS, CONFIG_MAPS, custom
from otto_kubekit.testing import FakeCluster
from otto_scaler.backends.kubernetes.claims import ClaimPlan, Claims
from otto_scaler.errors import RefusedError
from otto_scaler.worker import Claim, Identity, Owner, WorkerSpec

from .conftest import until

PLAN = ClaimPlan("standard", "1Gi", "ReadWriteOnce")
RAW = custom("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")


def worker(claim: Claim = Claim()) -> WorkerSpec:  # noqa: B008  frozen
    return WorkerSpec(Identity("w", "t", 1, 1, workspace="ws-1"), ("true",), claim=claim)


async def owned_by(client: Client, name: str) -> WorkerSpec:
    """A worker of an owner that is there: what has none is collected."""
    made = await client.create(CONFIG_MAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
    return replace(worker(), owner=Owner("v1", "ConfigMap", name, made.metadata.uid))


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with FakeCluster() as cluster, cluster.client() as made:
        yield made


@pytest.mark.parametrize(
    ("claim", "wanted"),
    [
        (Claim(), ("standard", "1Gi", ["ReadWriteOnce"])),
        (Claim("fast", "5Gi", "ReadWriteMany"), ("fast", "5Gi", ["ReadWriteMany"])),
        (Claim(storage_class="default", size="2Gi"), (None, "2Gi", ["ReadWriteOnce"])),
    ],
    ids=["as the settings say", "as the run says", "the cluster's default class"],
)
async def test_a_claim_is_what_the_run_says_or_else_the_settings(
    client: Client, claim: Claim, wanted: tuple[str | None, str, list[str]]
) -> None:
    """Class, size and access mode, each by itself."""
    await Claims(client, PLAN, "ottoscaler").ensure(worker(claim=claim))
    spec = (await client.get(RAW, "ws-1")).spec
    assert (spec.get("storageClassName"), spec["resources"]["requests"]["storage"], spec["accessModes"]) == wanted


async def test_a_run_that_takes_a_workspace_over_owns_it_too(client: Client) -> None:
    """Else Kubernetes would delete it with the run whose it was first; asked for again, nothing changes, also by a later service."""
    claims = Claims(client, PLAN, "ottoscaler")
    old, new = [await owned_by(client, name) for name in ("old", "new")]
    await claims.ensure(old)
    await claims.ensure(new)
    before = await client.get(CLAIMS, "ws-1")
    assert [(owner.name, owner.controller) for owner in before.metadata.owner_references] == [("old", True), ("new", False)]
    for later in (claims, Claims(client, PLAN, "ottoscaler")):
        await later.ensure(new)
        await later.ensure(old)
    assert (await client.get(CLAIMS, "ws-1")).metadata.owner_references == before.metadata.owner_references


@pytest.mark.parametrize("held", [False, True], ids=["gone", "about to go"])
async def test_a_workspace_that_was_deleted_is_not_made_anew(client: Client, *, held: bool) -> None:
    """Who comes after others would find it empty: they are refused, also by a scaler that has just begun. The first may make it."""
    later = replace(worker(), workspace_expected=True)
    with pytest.raises(RefusedError, match="the workspace ws-1 is gone"):
        await Claims(client, PLAN, "ottoscaler").ensure(later)
    await Claims(client, PLAN, "ottoscaler").ensure(worker())
    await Claims(client, PLAN, "ottoscaler").ensure(later)
    if held:
        await client.patch(CLAIMS, "ws-1", merge({"metadata": {"finalizers": ["kubernetes.io/pvc-protection", "example.com/stays"]}}))
    await client.delete(CLAIMS, "ws-1")
    if not held:
        await client.patch(CLAIMS, "ws-1", merge({"metadata": {"finalizers": []}}))
    with pytest.raises(RefusedError, match="somebody has deleted its PersistentVolumeClaim"):
        await Claims(client, PLAN, "ottoscaler").ensure(later)


async def test_a_workspace_that_is_named_while_workspaces_are_deleted_is_there() -> None:
    """One whose turn has not come is kept; one whose deletion is under way is waited for, and made anew."""
    first, second = (replace(worker(), identity=replace(worker().identity, workspace=name)) for name in ("ws-1", "ws-2"))
    async with FakeCluster() as cluster, cluster.client() as client:
        claims, used = Claims(client, PLAN, "ottoscaler"), set[str]()
        for wanted in (first, second):
            await claims.ensure(wanted)
            await claims.mark(wanted.identity.workspace)
        before = {name: (await client.get(CLAIMS, name)).metadata.uid for name in ("ws-1", "ws-2")}
        cluster.faults.stall(lambda asked: asked.method == "DELETE")
        sweeping = asyncio.create_task(claims.sweep(lambda: used))
        await until(lambda: cluster.faults.stalled)
        used |= {"ws-1", "ws-2"}
        making = [asyncio.create_task(claims.ensure(wanted)) for wanted in (first, second)]
        await making[1]
        cluster.faults.resume()
        await asyncio.gather(sweeping, *making)
        there = {name: (await client.get(CLAIMS, name)).metadata for name in ("ws-1", "ws-2")}
    assert [meta.deletion_timestamp for meta in there.values()] == [None, None]
    assert [there[name].uid == before[name] for name in ("ws-1", "ws-2")] == [False, True]
