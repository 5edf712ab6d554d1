"""The table of checks, in the order in which they build on each other."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import grpc.aio

from ottoctl.cluster.place import Place
from ottoctl.doctor import machine, network, services, work
from ottoctl.doctor.case import Case, Finding, Level, fail

CHECK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Check:
    """A check: its name, what it does, and when it makes sense."""

    name: str
    look: Callable[[Case], Awaitable[list[Finding]]]
    when: Callable[[Case], bool] = lambda _: True


def _speaks(case: Case) -> bool:
    return case.speaks


def _serves(case: Case) -> bool:
    return case.serves


def _local(case: Case) -> bool:
    return case.local and case.place is None


CHECKS = (
    Check("address", network.address),
    Check("health", services.health, _speaks),
    Check("contract", services.contract, _serves),
    Check("round trip", services.round_trip, _serves),
    Check("clock", services.clock, _serves),
    Check("room", services.room, _serves),
    Check("pipelines", work.pipelines, _serves),
    Check("workers", work.workers, _serves),
    Check("port", machine.port, _local),
    Check("state", machine.state, _local),
    Check("leftovers", machine.leftovers, _local),
    Check("tools", machine.tools, _local),
    Check("variables", machine.variables, _local),
)


async def diagnose(
    address: str, environ: Mapping[str, str], found: Callable[[str, Finding], None], place: Place | None = None, *, named: bool = True
) -> Case:
    """Examines what is at the address, and with a place first the release on a cluster. `named`: that address was asked for."""
    async with AsyncExitStack() as stack:
        options = [("grpc.enable_http_proxy", 0), ("grpc.min_reconnect_backoff_ms", 3_000)]
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
        case = Case(address, environ, channel, place=place, named=named)
        if place is not None:
            from ottoctl.doctor.cluster_examination import CLUSTER_CHECKS, cluster_of  # brings kubekit: 0.4 to 2 s

            case.cluster = await stack.enter_async_context(cluster_of(place, environ, found))
            if case.cluster is not None:
                await examine(case, found, CLUSTER_CHECKS)
        await examine(case, found)
    return case


async def examine(case: Case, found: Callable[[str, Finding], None], checks: Sequence[Check] = CHECKS) -> None:
    """Runs the checks that make sense and tells each finding as it comes; afterwards the case has its facts."""
    for check in checks:
        if not check.when(case):
            continue
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                findings = await check.look(case)
        except TimeoutError:
            findings = [fail(f"this check did not end within {CHECK_SECONDS:g} s", "the service or this machine hangs: look at its load")]
        for finding in findings:
            found(check.name, finding)


def healthy(findings: list[tuple[str, Finding]]) -> bool:
    """Whether nothing failed."""
    return all(finding.level is not Level.FAIL for _, finding in findings)
