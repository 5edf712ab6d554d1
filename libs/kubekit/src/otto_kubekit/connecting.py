"""From settings to a client."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from otto_kubekit.client import Client
from otto_kubekit.credentials import SERVICE_ACCOUNT, load
from otto_kubekit.settings import KubeSettings
from otto_kubekit.transport import transport


@asynccontextmanager
async def connect(
    settings: KubeSettings, namespace: str = "", environ: Mapping[str, str] | None = None, service_account: Path = SERVICE_ACCOUNT
) -> AsyncIterator[Client]:
    """A client of the cluster that the settings mean, seen from `namespace` ("": that of the credentials).

    Raises ConfigurationError when there are no usable credentials; whether the cluster can be reached is not asked. Its
    connections are closed at the end.
    """
    credentials = await load(settings, environ, service_account)
    async with transport(credentials, settings.timeout) as opened:
        yield Client(opened, namespace)
