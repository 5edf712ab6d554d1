"""Who we are and where the API server is: a service account or a kubeconfig, read by `kubernetes`, kept current while we run."""

import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from otto_kubekit.bare import bare
from otto_kubekit.errors import ConfigurationError
from otto_kubekit.settings import KubeSettings

with bare("kubernetes", "kubernetes.aio", "kubernetes.aio.config"):
    from kubernetes.aio.client.configuration import Configuration
    from kubernetes.aio.client.rest import RESTClientObject
    from kubernetes.aio.config.incluster_config import InClusterConfigLoader

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
IDLE_CONNECTION = 30.0
"""Seconds that an unused connection is kept; the API server itself would keep it for 90, proxies before it for less."""


class _Connections(RESTClientObject):
    """The sessions of `kubernetes` with our bounds: no limit of connections, for each followed log takes one."""

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=0, ssl=self.ssl_context, keepalive_timeout=IDLE_CONNECTION, socket_factory=_watched_socket)

    def session(self) -> aiohttp.ClientSession:
        """A new session; the caller closes it. It looks for no proxy and no .netrc: that would be a thread's work for every request."""
        return aiohttp.ClientSession(connector=self._create_connector(), read_bufsize=2**21)


def _watched_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket whose peer's disappearance is noticed within 45 s, also in a log that says nothing; Linux would take two hours."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


class Credentials:
    """A `kubernetes` configuration that is read again when the server no longer accepts it."""

    def __init__(self, configuration: Configuration, namespace: str, loader: Any) -> None:
        """`loader` is what filled the configuration: one of the loaders of `kubernetes`."""
        self.namespace = namespace
        self.host: str = configuration.host.rstrip("/")
        self._configuration = configuration
        self._proxy: str | None = configuration.proxy or _proxy(self.host)
        self._loader = loader
        try:
            self._connections = _Connections(configuration)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"the certificates of the cluster or the user can't be used: {error}") from error

    def session(self) -> aiohttp.ClientSession:
        """A new session with these certificates; the caller closes it."""
        return self._connections.session()

    def request_options(self) -> dict[str, Any]:
        """What aiohttp has to be told with every request."""
        options: dict[str, Any] = {}
        if self._configuration.tls_server_name:
            options["server_hostname"] = self._configuration.tls_server_name
        if self._proxy:
            options["proxy"] = self._proxy
            options["proxy_headers"] = self._configuration.proxy_headers
        return options

    async def authorization(self) -> str:
        """The value of the Authorization header now, "" for none. A service account's token is read again every minute."""
        try:
            key: str | None = await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        except Exception as error:
            raise ConfigurationError(f"the service account's token can't be read: {error}") from error
        return (key or "").strip()

    async def renew(self) -> None:
        """Reads everything again: the server has refused what we have. Raises ConfigurationError if it can't be read any more."""
        await _filled(self._loader, self._configuration)
        context = self._connections.ssl_context
        try:
            if self._configuration.ssl_ca_cert:
                context.load_verify_locations(cafile=self._configuration.ssl_ca_cert)
            if self._configuration.cert_file:
                context.load_cert_chain(self._configuration.cert_file, keyfile=self._configuration.key_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"the certificates of the cluster or the user can't be used: {error}") from error


def _proxy(host: str) -> str | None:
    """The proxy that the environment (HTTPS_PROXY, NO_PROXY) wants for this URL."""
    parts = urlsplit(host)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


async def load(settings: KubeSettings, environ: Mapping[str, str] | None = None, service_account: Path = SERVICE_ACCOUNT) -> Credentials:
    """Reads the service account or kubeconfig that the settings mean. Raises ConfigurationError that says which file, and why not."""
    environ = os.environ if environ is None else environ
    if not settings.config and environ.get("KUBERNETES_SERVICE_HOST") and _is_there(service_account):
        return await _in_cluster(service_account, environ)
    paths = _kubeconfigs(settings.config or environ.get("KUBECONFIG") or "~/.kube/config", hint=not settings.config)
    with bare("kubernetes", "kubernetes.aio"):
        # Here, because only who has a kubeconfig needs what it brings: pydantic and YAML, 14 MB.
        from kubernetes.aio.config import load_kube_config
    configuration = Configuration()
    try:
        loader = await load_kube_config(  # type: ignore[no-untyped-call] # kubernetes has no types here
            paths,
            context=settings.context or None,
            client_configuration=configuration,
            persist_config=False,
        )
        namespace = loader.current_context["context"].get("namespace") or "default"
    except Exception as error:
        raise ConfigurationError(f"kubeconfig {paths} can't be used: {error}") from error
    await _check_plugin(loader, configuration)
    configuration.refresh_api_key_hook = _plugin_hook(loader)
    return Credentials(configuration, namespace, loader)


def _is_there(service_account: Path) -> bool:
    return (service_account / "token").is_file()


def _kubeconfigs(paths: str, hint: bool) -> str:
    """The files of the list that are there, as a list. Raises ConfigurationError if none is."""
    found = [path for path in (Path(part).expanduser() for part in paths.split(os.pathsep) if part) if path.is_file()]
    if not found:
        raise ConfigurationError(f"there is no kubeconfig file {paths}" + ("; set OTTO_KUBE_CONFIG or KUBECONFIG" if hint else ""))
    return os.pathsep.join(str(path) for path in found)


async def _in_cluster(service_account: Path, environ: Mapping[str, str]) -> Credentials:
    loader = InClusterConfigLoader(  # type: ignore[no-untyped-call] # as above
        str(service_account / "token"), str(service_account / "ca.crt"), environ=environ
    )
    configuration = Configuration()
    await _filled(loader, configuration)
    try:
        namespace = (service_account / "namespace").read_text().strip()
    except OSError as error:
        raise ConfigurationError(f"the service account names no namespace: {error}") from error
    return Credentials(configuration, namespace, loader)


async def _filled(loader: Any, configuration: Configuration) -> None:
    try:
        if isinstance(loader, InClusterConfigLoader):
            loader.load_and_set(configuration)  # type: ignore[no-untyped-call] # as above
            return
        await loader.load_and_set(configuration)
    except Exception as error:
        raise ConfigurationError(f"the credentials can't be used: {error}") from error
    await _check_plugin(loader, configuration)


def _plugin(loader: Any) -> Any:
    """The `exec` section of the user, or None."""
    user = loader._user
    return user["exec"] if user is not None and "exec" in user else None


async def _check_plugin(loader: Any, configuration: Configuration) -> None:
    """Says why a credential plug-in gave nothing; `kubernetes` logs that and goes on as an anonymous user."""
    plugin = _plugin(loader)
    if plugin is None or configuration.api_key or configuration.cert_file:
        return
    from kubernetes.aio.config.exec_provider import ExecProvider  # as `load_kube_config`, which has imported it already

    try:
        await ExecProvider(plugin).run()  # type: ignore[no-untyped-call] # as above
    except Exception as error:
        raise ConfigurationError(f"the credential plug-in {plugin['command']} failed: {error}") from error
    raise ConfigurationError(f"the credential plug-in {plugin['command']} gave neither a token nor a certificate with its key")


def _plugin_hook(loader: Any) -> Any:
    """Asks a credential plug-in again shortly before its token expires; a token without an end is kept until the server refuses it."""
    if _plugin(loader) is None:
        return None

    async def refresh(configuration: Configuration) -> None:
        if hasattr(loader, "exec_plugin_expiry"):
            await loader.load_from_exec_plugin()
            if hasattr(loader, "token"):
                configuration.api_key["BearerToken"] = loader.token

    return refresh
