"""The checks of a release on a cluster: another table, as it brings kubekit, and only those who ask for a cluster shall wait for that."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from ottoctl.cluster.connection import Cluster, ClusterError, connected
from ottoctl.cluster.place import Place
from ottoctl.doctor import ground, installation, standing
from ottoctl.doctor.case import Case, Finding, fail, warn
from ottoctl.doctor.examination import Check

Look = Callable[[Case], Awaitable[list[Finding]]]


def _asked(look: Look) -> Look:
    """The same check, with what the cluster does not give as a finding."""

    async def looked(case: Case) -> list[Finding]:
        try:
            return await look(case)
        except ClusterError as error:
            if error.may_not:
                words = str(error).partition("is forbidden: ")[2]
                return [warn(f"this could not be looked at: {words}", "ask with a kubeconfig that may (--kubeconfig, --context)")]
            return [
                fail(
                    f"the cluster does not answer: {error}",
                    "look at the cluster, the kubeconfig (--kubeconfig, --context) and the network to it",
                )
            ]

    looked.__doc__ = look.__doc__
    return looked


def _answers(case: Case) -> bool:
    return "kubernetes" in case.facts


def _there(case: Case) -> bool:
    return case.release is not None


CLUSTER_CHECKS = (
    Check("cluster", _asked(installation.api_server)),
    Check("release", _asked(installation.release), _answers),
    Check("pods", _asked(installation.pods), _there),
    Check("versions", _asked(installation.versions), _there),
    Check("permissions", _asked(ground.permissions), _there),
    Check("crd", _asked(ground.definition), _there),
    Check("quotas", _asked(ground.quotas), _there),
    Check("leases", _asked(standing.leases), _there),
    Check("front door", _asked(standing.front_door), _there),
    Check("spool", _asked(standing.spool), _there),
    Check("runs", _asked(standing.runs), _there),
)


@asynccontextmanager
async def cluster_of(place: Place, environ: Mapping[str, str], found: Callable[[str, Finding], None]) -> AsyncIterator[Cluster | None]:
    """The cluster to be looked at; None, and a finding, if there is no usable kubeconfig."""
    async with AsyncExitStack() as stack:
        try:
            cluster = await stack.enter_async_context(connected(place, environ))
        except ClusterError as error:
            found("cluster", fail(str(error), "name one: --kubeconfig FILE, --context NAME, or KUBECONFIG"))
            cluster = None
        yield cluster
