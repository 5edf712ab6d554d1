"""Opening the backend: from settings to a connection to the cluster."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from otto_kubekit.connecting import connect
from otto_kubekit.errors import ConfigurationError
from otto_kubekit.settings import KubeSettings
from otto_scaler.backends.kubernetes import template
from otto_scaler.backends.kubernetes.backend import KubernetesBackend
from otto_scaler.backends.kubernetes.claims import ClaimPlan
from otto_scaler.backends.kubernetes.manifest import Plan
from otto_scaler.errors import BackendUnusableError
from otto_scaler.settings import Settings


@asynccontextmanager
async def kubernetes_backend(
    settings: Settings, kube: KubeSettings, fence: Callable[[], bool] | None = None
) -> AsyncIterator[KubernetesBackend]:
    """A backend over the cluster that `kube` means; workers outlive it. Raises BackendUnusableError.

    It changes nothing of the cluster while `fence` is false.
    """
    plan = Plan(
        instance=settings.instance,
        template=template.load(settings.worker_template),
        pending_timeout=settings.pending_timeout,
        checkout_image=settings.checkout_image,
        workspaces=bool(settings.workspace_class),
    )
    claims = ClaimPlan(settings.workspace_class, settings.workspace_size, settings.workspace_access_mode) if plan.workspaces else None
    try:
        async with connect(kube, settings.namespace) as client:
            client.transport.fence = fence
            yield KubernetesBackend(client, plan, claims, usage_interval=settings.usage_interval)
    except ConfigurationError as error:
        raise BackendUnusableError(f"{error}. OTTO_KUBE_CONFIG and OTTO_KUBE_CONTEXT say which cluster") from error
