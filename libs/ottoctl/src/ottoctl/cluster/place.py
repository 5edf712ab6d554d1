"""Which cluster is asked for, as options say it. Light: nothing of a cluster is imported before one is asked for."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated

import typer

ClusterOption = Annotated[bool, typer.Option("--cluster", "-k", help="Look at a release on the cluster that kubectl would take, too.")]
KubeconfigOption = Annotated[
    str, typer.Option(help="Kubeconfig of that cluster; implies --cluster.", show_default="$KUBECONFIG, else ~/.kube/config")
]
ContextOption = Annotated[
    str, typer.Option("--context", help="Context of the kubeconfig; implies --cluster.", show_default="its current one")
]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", help="Namespace of the release; implies --cluster.", show_default="the context's")
]
ReleaseOption = Annotated[str, typer.Option(help="Name of the release; implies --cluster.", show_default="the only one there")]


@dataclass(frozen=True, slots=True)
class Place:
    """Which cluster, and what in it; what is empty is found as kubectl finds it, and a release by its labels."""

    kubeconfig: str = ""
    context: str = ""
    namespace: str = ""
    release: str = ""


def asked_for(cluster: bool, kubeconfig: str, context: str, namespace: str, release: str) -> Place | None:
    """The cluster that options ask for; None: none of them does. Raises BadParameter where kubekit is not installed."""
    place = Place(kubeconfig, context, namespace, release)
    if not cluster and place == Place():
        return None
    if find_spec("otto_kubekit") is None:
        raise typer.BadParameter("needs otto-kubekit, which is not installed: install ottoctl[cluster]", param_hint="--cluster")
    return place
