"""One of several replicas holds a Lease and acts; the others know who it is.

As client-go does it, nobody compares clocks of different machines: a lease has run out when its record has not changed for its duration on
one's own clock. The holder stops earlier (`renew_within` < `duration`), counted from before its last renewal was sent, so it has
stopped when somebody else can begin. A clock that stands still while the machine sleeps would break that, so CLOCK_BOOTTIME is used.

A process that finds its own identity in the record takes it over at once: identities are addresses, so the former one is gone.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from otto_kubekit.client import Client
from otto_kubekit.connecting import connect
from otto_kubekit.errors import AlreadyExistsError, ConflictError, KubeError, NotFoundError
from otto_kubekit.kinds import LEASES
from otto_kubekit.objects import Lease
from otto_kubekit.settings import KubeSettings
from otto_kubekit.watching import Deleted, Interrupted, Synced, Watching, forever

log = logging.getLogger(__name__)
RELEASE_TIMEOUT = 2.0
"""Seconds that a stop waits for the lease to be given back; otherwise it runs out."""


@dataclass(frozen=True, slots=True)
class Role:
    """Whether we act, and who does; `holder` is "" while nobody is known to. `transitions` grows with every change of holder."""

    held: bool
    holder: str
    transitions: int


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Election:
    """A candidate for one Lease. `run` in a task of its own; ask `held` before each act that needs it."""

    def __init__(
        self,
        client: Client,
        name: str,
        identity: str,
        *,
        namespace: str | None = None,
        duration: float = 10.0,
        renew_within: float = 7.0,
        retry: float = 2.0,
    ) -> None:
        """Seconds: others may take over `duration` after the last renewal, we stop `renew_within` after it, and renew every `retry`."""
        if not 0 < retry < renew_within < duration:
            raise ValueError(
                f"retry ({retry:g}) has to be less than renew_within ({renew_within:g}), and that less than duration ({duration:g})"
            )
        self.name = name
        self.identity = identity
        self._client = client
        self._namespace = namespace
        self._duration = duration
        self._renew_within = renew_within
        self._retry = retry
        self._held = False
        self._renewed = 0.0
        self._lease: Lease | None = None
        self._changed_at = _now()
        self._synced = False
        self._news = asyncio.Event()
        self._role = Role(False, "", 0)
        self._role_changed = asyncio.Event()

    @property
    def held(self) -> bool:
        """Whether nobody else can hold the lease at this moment."""
        return self._held and _now() < self._renewed + self._renew_within

    @property
    def role(self) -> Role:
        """The role as it was last told."""
        return self._role

    @property
    def holder(self) -> str:
        """Who holds the lease, as far as we know; "" for nobody."""
        return self._role.holder

    async def changes(self) -> AsyncGenerator[Role, None]:
        """The role now, then each change of it. A slow reader misses roles in between, never the last one."""
        told: Role | None = None
        while True:
            event = self._role_changed
            if told != self._role:
                told = self._role
                yield told
                continue
            await event.wait()

    async def run(self) -> None:
        """Takes part until cancelled, then gives the lease back. Errors of the API are lived with: they end the role, not the candidate."""
        watching = asyncio.create_task(self._watch(), name=f"watch lease {self.name}")
        try:
            while True:
                if self._held:
                    await self._keep()
                else:
                    await self._try()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await self._give_back()

    async def _watch(self) -> None:
        """Keeps `_lease` current, so that a lease given back is seen at once."""
        how = Watching(fields=f"metadata.name={self.name}", namespace=self._namespace)
        async with aclosing(forever(self._client, LEASES, how)) as told:
            async for seen in told:
                if isinstance(seen, Synced):
                    self._synced = True
                    self._news.set()
                elif isinstance(seen, Interrupted):
                    log.debug("lease %s can't be watched: %s", self.name, seen.error)
                elif isinstance(seen, Deleted):
                    if self._lease is None or self._lease.metadata.uid == seen.object.metadata.uid:
                        self._observe(None)
                else:
                    self._observe(seen.object)

    def _observe(self, lease: Lease | None) -> None:
        old = self._lease
        if lease is not None and old is not None and lease.metadata.uid == old.metadata.uid and _version(lease) <= _version(old):
            return  # nothing new, or an event that comes after the answer to our own write
        self._lease = lease
        self._changed_at = _now()
        if self._held and (lease is None or lease.spec.holder_identity != self.identity):
            log.debug("lease %s is somebody else's", self.name)
            self._held = False
        self._tell()
        self._news.set()

    def _tell(self) -> None:
        spec = self._lease.spec if self._lease is not None else None
        holder = (spec.holder_identity or "") if spec is not None else ""
        role = Role(self._held, holder, (spec.lease_transitions or 0) if spec is not None else 0)
        if role != self._role:
            self._role = role
            self._role_changed.set()
            self._role_changed = asyncio.Event()

    async def _try(self) -> None:
        """Takes the lease if it is free, else waits until it may be."""
        if not self._synced:
            await self._wait(self._retry)
            return
        wait = self._taken_for()
        if wait <= 0:
            sent = _now()
            try:
                self._won(await self._write(self._lease, acquire=True), sent)
                return
            except (ConflictError, AlreadyExistsError, NotFoundError):
                await self._look()
            except KubeError as error:
                log.debug("lease %s can't be taken: %s", self.name, error)
            wait = self._retry * random.uniform(0.2, 0.5)
        await self._wait(wait)

    def _taken_for(self) -> float:
        """Seconds for which the lease is still somebody's."""
        if self._lease is None:
            return 0.0
        spec = self._lease.spec
        if not spec.holder_identity or spec.holder_identity == self.identity:
            return 0.0
        return self._changed_at + float(spec.lease_duration_seconds or self._duration) - _now()

    def _won(self, lease: Lease, sent: float) -> None:
        self._held, self._renewed = True, sent
        self._lease, self._changed_at = lease, _now()
        self._tell()

    async def _keep(self) -> None:
        """Waits, renews; ends the role when that fails for too long or the lease is somebody else's."""
        await asyncio.sleep(min(self._retry, max(0.0, self._left())))
        while self._held:
            left = self._left()
            if left <= 0:
                log.debug("lease %s could not be renewed in time", self.name)
                self._held = False
                self._tell()
                return
            sent = _now()
            try:
                async with asyncio.timeout(left):
                    self._won(await self._write(self._lease, acquire=False), sent)
                return
            except (ConflictError, NotFoundError, AlreadyExistsError):
                await self._look(left)
            except (KubeError, TimeoutError) as error:
                log.debug("lease %s is not renewed: %s", self.name, error)
            await asyncio.sleep(max(0.0, min(self._retry / 4, self._left())))

    def _left(self) -> float:
        return self._renewed + self._renew_within - _now()

    async def _look(self, timeout: float | None = None) -> None:
        """Reads the lease again: somebody has written it."""
        try:
            self._observe(await self._client.get(LEASES, self.name, namespace=self._namespace, timeout=timeout or self._retry))
        except NotFoundError:
            self._observe(None)
        except KubeError as error:
            log.debug("lease %s can't be read: %s", self.name, error)

    async def _write(self, there: Lease | None, *, acquire: bool) -> Lease:
        """Writes the record as its holder; raises ConflictError or AlreadyExistsError if somebody else was faster."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old = there.spec if there is not None else None
        spec: dict[str, Any] = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": math.ceil(self._duration),
            "renewTime": stamp,
            "acquireTime": stamp,
            "leaseTransitions": (old.lease_transitions or 0) if old is not None else 0,
        }
        if old is not None and not acquire and old.acquire_time is not None:
            spec["acquireTime"] = old.acquire_time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if old is not None and acquire and (old.holder_identity or "") != self.identity:
            spec["leaseTransitions"] += 1
        return await self._put(there, spec)

    async def _put(self, there: Lease | None, spec: dict[str, Any], timeout: float | None = None) -> Lease:
        timeout = timeout or self._renew_within
        body: dict[str, Any] = {"apiVersion": LEASES.api_version, "kind": LEASES.name, "metadata": {"name": self.name}, "spec": spec}
        if there is None:
            return await self._client.create(LEASES, body, namespace=self._namespace, timeout=timeout)
        body["metadata"] = {
            "name": self.name,
            "resourceVersion": there.metadata.resource_version,
            "labels": there.metadata.labels,
            "annotations": there.metadata.annotations,
        }
        return await self._client.replace(LEASES, self.name, body, namespace=self._namespace, timeout=timeout)

    async def _wait(self, seconds: float) -> None:
        self._news.clear()
        try:
            async with asyncio.timeout(max(0.01, seconds)):
                await self._news.wait()
        except TimeoutError:
            return

    async def _give_back(self) -> None:
        """A graceful end: the lease is nobody's at once. Bounded, and shielded from a second cancellation."""
        if not self._held or self._lease is None:
            return
        self._held = False
        self._tell()
        giving = asyncio.create_task(self._emptied(self._lease), name="give back a lease")
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT):
                await asyncio.shield(giving)
        except (KubeError, TimeoutError) as error:
            log.debug("lease %s was not given back: %s", self.name, error)
            giving.cancel()
        except asyncio.CancelledError:
            await asyncio.wait({giving}, timeout=RELEASE_TIMEOUT)
            raise

    async def _emptied(self, lease: Lease) -> None:
        """Writes the record as nobody's, if it is ours: a renewal that was cut off may have changed it."""
        for _ in range(3):
            stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            spec = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": stamp, "acquireTime": stamp}
            try:
                await self._put(lease, {**spec, "leaseTransitions": lease.spec.lease_transitions or 0}, RELEASE_TIMEOUT)
                return
            except ConflictError:
                lease = await self._client.get(LEASES, self.name, namespace=self._namespace, timeout=RELEASE_TIMEOUT)
                if lease.spec.holder_identity != self.identity:
                    return


def _version(lease: Lease) -> int:
    """Versions of one object may be compared as numbers (KEP-5504)."""
    return int(lease.metadata.resource_version)


@asynccontextmanager
async def candidate(
    settings: KubeSettings, namespace: str, lease: str, identity: str, duration: float, renew_within: float, retry: float
) -> AsyncIterator[Election]:
    """A candidate with a client of its own, so that its renewals wait behind nothing else. Times are those of Election.

    Raises ConfigurationError when there are no usable credentials.
    """
    async with connect(settings, namespace) as client:
        yield Election(client, lease, identity, duration=duration, renew_within=renew_within, retry=retry)
