"""Which cluster, and how patient to be with it. Prefix OTTO_KUBE."""

from typing import Annotated

import msgspec
from msgspec import Meta


class KubeSettings(msgspec.Struct, frozen=True):
    """What every service that talks to Kubernetes has in common."""

    config: Annotated[
        str,
        Meta(
            description="Path of a kubeconfig file. Empty: the pod's service account where there is one, else what KUBECONFIG names, "
            "else `~/.kube/config`."
        ),
    ] = ""
    context: Annotated[str, Meta(description="Context of the kubeconfig; empty: its current one.")] = ""
    timeout: Annotated[
        float,
        Meta(
            gt=0,
            description="Seconds until a call to the Kubernetes API is given up, waits that the API server asked for (429, Retry-After), "
            "and for fewer than 100 other calls under way, included.",
        ),
    ] = 30.0
