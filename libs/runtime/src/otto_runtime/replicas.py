"""Several replicas of a service, of which one acts: what keeps a service alive runs only while we are that one.

Who loses the role has stopped acting before anybody else can begin, and its process ends: the next one begins with nothing in its head
(as controllers of Kubernetes do it). A stop gives the role back when all work has ended, so that another replica takes over at once.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from otto_runtime.addresses import parse
from otto_runtime.handing import HandOn, Leadership
from otto_runtime.settings import RuntimeSettings
from otto_runtime.tasks import cancelled, first
from otto_runtime.telemetry import ACTING

log = logging.getLogger(__name__)

Run = Callable[[Callable[[], None]], Awaitable[None]]
"""Background work, as `Component.run` is."""
RELEASE_SECONDS = 5.0
"""How long a stop waits for the role to be given back; otherwise it runs out."""


class RoleLostError(Exception):
    """Another replica may act now, so this process ends."""


class AddressError(Exception):
    """It is not known how other replicas could reach this one."""


class LeaseTimes(NamedTuple):
    """Seconds; see the settings."""

    duration: float
    renew_within: float
    retry: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where a service is served."""

    address: str
    """That is listened on, as a client on this machine can dial it."""
    runtime: RuntimeSettings

    def advertised(self) -> str:
        """The address under which other replicas reach us. Raises AddressError."""
        if self.runtime.advertised_address:
            return str(parse(self.runtime.advertised_address))
        if parse(self.runtime.listen).everywhere:
            raise AddressError(
                "OTTO_ADVERTISED_ADDRESS is not set, and OTTO_LISTEN names no address that other replicas could dial: set it to this "
                "replica's own, such as [$(POD_IP)]:9090"
            )
        return self.address

    def lease_times(self) -> LeaseTimes:
        """How long a lease lasts, until when a holder acts without renewing it, and how often it tries to."""
        duration = self.runtime.lease_duration
        return LeaseTimes(duration, 0.8 * duration, min(self.runtime.lease_retry, 0.35 * duration))


class Replicas:
    """Our part among the replicas."""

    def __init__(self, leadership: Leadership, hand_on: HandOn) -> None:
        """Made by `replicas`."""
        self._leadership = leadership
        self.hand_on = hand_on

    def acts(self) -> bool:
        """Whether we are the one that acts, at this moment: to be asked right before anything is changed."""
        return self._leadership.held

    def led(self, act: Run) -> Run:
        """Work that takes part in the election, and runs `act` once we are the one that acts.

        It is ready when it is known who acts. Raises RoleLostError when we do no more; then `act` has ended.
        """

        async def run(ready: Callable[[], None]) -> None:
            taking_part = asyncio.create_task(self._leadership.run(), name="take part in the election")
            handing = asyncio.create_task(self.hand_on.run(), name="follow who acts")
            try:
                await first(_failing(taking_part), _failing(handing), self._tenure(act, ready))
            finally:
                await cancelled(handing)
                # Only now, when nothing of ours acts any more, may another replica.
                await cancelled(taking_part, RELEASE_SECONDS)

        return run

    async def _tenure(self, act: Run, ready: Callable[[], None]) -> None:
        async for role in self._leadership.changes():
            if role.held:
                break
            if role.holder:
                log.info("runtime.replica.follows", extra={"holder": role.holder})
                ready()
        log.info("runtime.replica.acts", extra={"address": self._leadership.identity})
        await first(_work(act, ready), self._until_lost())

    async def _until_lost(self) -> None:
        async for role in self._leadership.changes():
            if not role.held:
                log.warning("runtime.replica.lost", extra={"holder": role.holder or "-"})
                raise RoleLostError(
                    "the lease was lost: another replica may act now. This process ends, to begin anew as one of the others"
                )


@asynccontextmanager
async def replicas(leadership: Leadership, runtime: RuntimeSettings, service: str, anywhere: Iterable[str] = ()) -> AsyncIterator[Replicas]:
    """Our part among those of a service, whose short name is given; connections to others are closed at the end.

    `anywhere`: methods (`service/Method`) that any replica serves.
    """
    hand_on = HandOn(leadership, runtime.hand_on_patience, anywhere)
    ACTING.labels(service).set_function(lambda: float(leadership.held))
    try:
        yield Replicas(leadership, hand_on)
    finally:
        ACTING.remove(service)
        await hand_on.close()


async def _work(act: Run, ready: Callable[[], None]) -> None:
    await act(ready)


async def _failing(task: "asyncio.Task[None]") -> None:
    """Raises what the task raises; it is ended by its owner."""
    await asyncio.shield(task)
