"""Leases: one holds, the others know who; a graceful end hands over at once, a crash after the lease's time, and nobody overlaps."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from otto_kubekit.bodies import merge
from otto_kubekit.client import Client
from otto_kubekit.election import Election, Role
from otto_kubekit.kinds import LEASES
from otto_kubekit.testing import FakeCluster

from .conftest import Kube, until

QUICK: dict[str, float] = {"duration": 3.0, "renew_within": 2.0, "retry": 0.3}


@asynccontextmanager
async def candidate(client: Client, identity: str, **options: Any) -> AsyncIterator[tuple[Election, "asyncio.Task[None]"]]:
    """A candidate that runs in the background; its end gives the lease back."""
    election = Election(client, "boss", identity, **{**QUICK, **options})
    task = asyncio.create_task(election.run(), name=f"candidate {identity}")
    try:
        yield election, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def when(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return condition()

    return check


@pytest.mark.slow
async def test_one_holds_and_the_others_know_who(kube: Kube) -> None:
    """Whoever asks gets one answer."""
    async with candidate(kube.client, "a:1") as (a, _):
        await until(when(lambda: a.held), "a holds")
        async with candidate(kube.client, "b:1") as (b, _), candidate(kube.client, "c:1") as (c, _):
            await until(when(lambda: b.holder == c.holder == "a:1"), "b and c know a")
            assert [a.held, b.held, c.held] == [True, False, False]
            # Longer than the lease's duration: it is renewed meanwhile.
            await asyncio.sleep(QUICK["duration"] + 0.5)
            assert [a.held, b.held, c.held] == [True, False, False]
            assert a.role.transitions == 0


async def test_a_graceful_end_hands_over_at_once(kube: Kube) -> None:
    """The next one does not wait for the lease to run out."""
    async with candidate(kube.client, "b:1", duration=60.0, renew_within=40.0, retry=20.0) as (b, _):
        await until(when(lambda: b.held), "b holds")
        async with candidate(kube.client, "c:1", duration=60.0, renew_within=40.0, retry=20.0) as (c, _):
            await until(when(lambda: c.holder == "b:1"), "c knows b")
            async with asyncio.timeout(30):
                async with candidate(kube.client, "d:1", duration=60.0, renew_within=40.0, retry=20.0):
                    pass  # leaves without having held: changes nothing
            assert b.held
            lease = await kube.client.get(LEASES, "boss")
            assert lease.spec.holder_identity == "b:1"
            # What b does at its end, seen by c within much less than its 60 s.
            await stopped(b)
            await until(when(lambda: c.held), "c holds")
            assert c.role.transitions == 1


async def test_a_renewal_without_an_answer_does_not_keep_the_lease_at_a_graceful_end() -> None:
    """It was carried out, and the end comes before its answer and before the watch tells of it: the lease is given back all the same."""
    async with FakeCluster() as fake, fake.client(token="first") as first, fake.client() as other:
        async with candidate(first, "a:1", duration=60.0, renew_within=40.0) as (a, _):
            await until(when(lambda: a.held), "a holds")
            before = (await other.get(LEASES, "boss")).metadata.resource_version
            fake.faults.stall(lambda asked: asked.watch)
            fake.faults.delay(30.0, after=True, times=1, when=lambda asked: asked.method == "PUT")
            while (await other.get(LEASES, "boss")).metadata.resource_version == before:
                await asyncio.sleep(0.01)
            await stopped(a)
            assert (await other.get(LEASES, "boss")).spec.holder_identity in {"", None}
            fake.faults.heal()


async def stopped(election: Election) -> None:
    for task in asyncio.all_tasks():
        if task.get_name() == f"candidate {election.identity}":
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_crash_is_taken_over_after_the_lease_has_run_out(kube: Kube) -> None:
    """Not before: the record stands still on our own clock for its whole duration. Times in it are of no account."""
    old = "1999-01-01T00:00:00.000000Z"
    spec = {"holderIdentity": "dead:1", "leaseDurationSeconds": 2, "renewTime": old, "acquireTime": old, "leaseTransitions": 4}
    await kube.client.create(LEASES, {"metadata": {"name": "boss"}, "spec": spec})
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with candidate(kube.client, "a:1") as (a, _):
        await until(when(lambda: a.held), "a holds")
        assert loop.time() - began >= 2.0
        assert a.role.transitions == 5


@pytest.mark.slow
async def test_a_holder_that_is_renewed_keeps_the_others_away(kube: Kube) -> None:
    """Though its clock stands in the past."""
    spec = {"holderIdentity": "skewed:1", "leaseDurationSeconds": 2, "renewTime": "1999-01-01T00:00:00.000000Z"}
    await kube.client.create(LEASES, {"metadata": {"name": "boss"}, "spec": spec})
    async with candidate(kube.client, "a:1") as (a, _):
        for second in range(8):
            await asyncio.sleep(0.5)
            change = merge({"spec": {"renewTime": f"1999-01-01T00:00:0{second}.000001Z"}})
            await kube.client.patch(LEASES, "boss", change)
            assert not a.held


async def test_the_same_identity_comes_back_at_once(kube: Kube) -> None:
    """A restarted replica at the same address need not wait for itself."""
    spec = {"holderIdentity": "a:1", "leaseDurationSeconds": 3600, "renewTime": "2026-01-01T00:00:00.000000Z"}
    await kube.client.create(LEASES, {"metadata": {"name": "boss"}, "spec": spec})
    async with candidate(kube.client, "a:1") as (a, _):
        await until(when(lambda: a.held), "a holds")


async def test_who_loses_the_lease_is_told(kube: Kube) -> None:
    """Somebody writes another holder: the role ends and says whose it is."""
    async with candidate(kube.client, "a:1") as (a, _):
        await until(when(lambda: a.held), "a holds")
        change = merge({"spec": {"holderIdentity": "thief:1", "leaseDurationSeconds": 3600}})
        await kube.client.patch(LEASES, "boss", change)
        await until(when(lambda: not a.held and a.holder == "thief:1"), "a has noticed")


async def test_changes_begin_with_the_role_now_and_end_with_the_last(kube: Kube) -> None:
    """Each role that is seen differs from the one before."""
    async with candidate(kube.client, "a:1") as (a, task):
        roles: list[Role] = []
        async for role in a.changes():
            roles.append(role)
            if role.held:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            elif any(earlier.held for earlier in roles):
                break
        assert (roles[-2].held, roles[-2].holder) == (True, "a:1")
        assert all(one != following for one, following in pairwise(roles))


async def test_the_end_of_an_earlier_lease_is_no_news_of_the_new_one() -> None:
    """Somebody has deleted it, a new one is held, and only then the watch tells of the deletion."""
    async with FakeCluster() as fake, fake.client() as client, candidate(client, "a:1") as (a, _):
        await until(when(lambda: a.held), "a holds")
        old = (await client.get(LEASES, "boss")).metadata.uid
        fake.faults.stall(lambda asked: asked.watch)
        await client.delete(LEASES, "boss")
        await until(when(lambda: a.held and a._lease is not None and a._lease.metadata.uid != old), "a holds the new one")
        told: list[Role] = []

        async def listen() -> None:
            async for role in a.changes():
                told.append(role)

        listening = asyncio.create_task(listen(), name="listen")
        asked = len(fake.requests)
        fake.faults.resume()
        await until(when(lambda: len(fake.requests) >= asked + 3), "it was renewed some times")
        listening.cancel()
        assert [role.held for role in told] == [True]


async def test_others_are_told_no_shorter_duration_than_the_holder_counts_on(kube: Kube) -> None:
    """The record has whole seconds: rounded down, another one could begin before this one has stopped."""
    async with candidate(kube.client, "a:1", duration=2.5, renew_within=2.1) as (a, _):
        await until(when(lambda: a.held), "a holds")
        assert (await kube.client.get(LEASES, "boss")).spec.lease_duration_seconds == 3


@pytest.mark.slow
async def test_who_can_not_renew_stops_before_anybody_else_can_begin() -> None:
    """The API server stalls for the holder only: it is out before the other one is in."""
    async with FakeCluster() as fake, fake.client(token="first") as first, fake.client() as second:
        async with candidate(first, "a:1") as (a, _):
            await until(when(lambda: a.held), "a holds")
            async with candidate(second, "b:1") as (b, _):
                await until(when(lambda: b.holder == "a:1"), "b knows a")
                fake.faults.stall(lambda asked: asked.token == "first")
                overlaps = 0
                for _ in range(2000):
                    overlaps += a.held and b.held
                    if b.held:
                        break
                    await asyncio.sleep(0.01)
                assert b.held
                assert overlaps == 0
                assert not a.held
                fake.faults.resume()


@pytest.mark.slow
async def test_an_outage_ends_the_role_and_the_holder_may_come_back() -> None:
    """The API server is away for longer than renew_within."""
    async with FakeCluster() as fake, fake.client() as client, candidate(client, "a:1") as (a, _):
        await until(when(lambda: a.held), "a holds")
        await fake.stop()
        await until(when(lambda: not a.held and not a.role.held), "a has stopped and said so")
        await fake.start()
        await until(when(lambda: a.held), "a holds again")


@pytest.mark.slow
async def test_who_was_asleep_knows_that_it_may_be_over() -> None:
    """A process that was stopped for longer than renew_within does not act on waking, before anything of it has run."""
    async with FakeCluster() as fake, fake.client() as client, candidate(client, "a:1") as (a, _):
        await until(when(lambda: a.held), "a holds")
        time.sleep(QUICK["renew_within"] + 0.1)
        assert not a.held


def test_times_that_could_overlap_are_refused() -> None:
    """A holder has to stop before others may begin."""
    with pytest.raises(ValueError, match="renew_within"):
        Election(None, "boss", "a", duration=5, renew_within=5)  # type: ignore[arg-type] # it fails before
