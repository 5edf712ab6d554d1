"""Where the cluster is and who we are: kubeconfigs, service accounts, tokens that change, plug-ins, certificates."""

import importlib.abc
import json
import re
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from otto_kubekit.connecting import connect
from otto_kubekit.errors import ConfigurationError, UnauthorizedError, UnreachableError, UntrustedError
from otto_kubekit.kinds import CONFIG_MAPS
from otto_kubekit.settings import KubeSettings
from otto_kubekit.testing import FakeCluster

PLUGIN = """
import json, pathlib, sys
count = pathlib.Path(sys.argv[1])
number = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(number))
status = {"token": f"token-{number}"}
if len(sys.argv) > 2:
    status["expirationTimestamp"] = sys.argv[2]
print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}))
"""


class NotInImages(importlib.abc.MetaPathFinder):
    """Says of the modules of `kubernetes` that services/Dockerfile leaves out that they are not there."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if re.fullmatch(r"kubernetes\.(aio\.)?client\.(api|models)\..*", fullname):
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


@pytest.fixture(autouse=True)
def as_in_an_image() -> Iterator[None]:
    """Whatever credentials take is to be had without the modules that images lack."""
    sys.meta_path.insert(0, finder := NotInImages())
    yield
    sys.meta_path.remove(finder)


def written(path: Path, config: dict[str, Any]) -> KubeSettings:
    path.write_text(json.dumps(config))
    return KubeSettings(config=str(path))


def kubeconfig(url: str, user: dict[str, Any], **context: str) -> dict[str, Any]:
    """A kubeconfig with one context."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", **context}}],
        "current-context": "x",
    }


def plugin(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """A user whose token a program gives."""
    script = tmp_path / "plugin.py"
    script.write_text(PLUGIN)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": [str(script), str(tmp_path / "count"), *arguments],
            "interactiveMode": "Never",
        }
    }


def certificate(directory: Path) -> Path:
    """A certificate for 127.0.0.1 that is its own authority, and its key, both in one file."""
    path = directory / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=fake"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    made = [str(directory / "key.pem"), str(directory / "ca.crt")]
    subprocess.run([*command, *names, "-days", "2", "-keyout", made[0], "-out", made[1]], check=True, capture_output=True)
    path.write_bytes(Path(made[0]).read_bytes() + Path(made[1]).read_bytes())
    return path


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """The files of a service account, with a certificate to serve beside them."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    directory = tmp_path / "account"
    directory.mkdir()
    certificate(directory)
    (directory / "token").write_text("first")
    (directory / "namespace").write_text("kube-system")
    return directory


@pytest.fixture
def stranger(tmp_path: Path, account: Path) -> Path:
    """Another authority."""
    directory = tmp_path / "stranger"
    directory.mkdir()
    certificate(directory)
    return directory / "ca.crt"


@pytest.fixture
async def tls_cluster(account: Path) -> AsyncIterator[FakeCluster]:
    """A fake cluster behind TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(account / "both.pem")
    async with FakeCluster(tls=context) as cluster:
        yield cluster


async def test_a_context_has_its_namespace_and_token(fake: FakeCluster, tmp_path: Path) -> None:
    """The one that is asked for, else the current one; without a namespace it is `default`."""
    config = kubeconfig(fake.url, {"token": "secret"})
    config["contexts"].append({"name": "y", "context": {"cluster": "c", "user": "u", "namespace": "kube-system"}})
    settings = written(tmp_path / "config", config)
    async with connect(settings) as client:
        assert client.namespace == "default"
    async with connect(KubeSettings(config=settings.config, context="y")) as client:
        assert client.namespace == "kube-system"
        await client.list(CONFIG_MAPS)
    async with connect(settings, "other") as client:
        assert client.namespace == "other"
    assert fake.requests[-1].token == "secret"


async def test_without_a_setting_the_environment_is_asked(fake: FakeCluster, tmp_path: Path) -> None:
    """KUBECONFIG, also one of several files; a service account comes first where there is one."""
    settings = written(tmp_path / "config", kubeconfig(fake.url, {}))
    environ = {"KUBECONFIG": f"{tmp_path / 'none'}:{settings.config}"}
    async with connect(KubeSettings(), environ=environ, service_account=tmp_path / "no") as client:
        await client.list(CONFIG_MAPS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no kubeconfig file"),
        ("{", "can't be used"),
        ("[]", "can't be used"),
        (json.dumps(kubeconfig("http://x", {}) | {"current-context": "other"}), "other"),
        (json.dumps(kubeconfig("http://x", {}) | {"clusters": []}), "c"),
        (json.dumps(kubeconfig("https://x", {"client-certificate": "none.pem", "client-key": "none.pem"})), "none.pem"),
        (json.dumps(kubeconfig("https://x", {"client-certificate-data": "bm8=", "client-key-data": "bm8="})), "certificates"),
    ],
    ids=["no file", "no YAML", "a list", "no such context", "no such cluster", "no certificate", "a broken certificate"],
)
async def test_what_can_not_be_used_says_why(tmp_path: Path, text: str | None, words: str) -> None:
    """ConfigurationError names the file or what is wrong in it."""
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        async with connect(KubeSettings(config=str(path))):
            pass


async def test_a_plugin_gives_the_token_and_is_asked_again_when_it_is_refused(fake: FakeCluster, tmp_path: Path) -> None:
    """A token without an end is kept until the server answers 401; then the plug-in runs once more."""
    fake.api.authorization = "Bearer token-1"
    async with connect(written(tmp_path / "config", kubeconfig(fake.url, plugin(tmp_path)))) as client:
        await client.list(CONFIG_MAPS)
        await client.list(CONFIG_MAPS)
        assert (tmp_path / "count").read_text() == "1"
        fake.api.authorization = "Bearer token-2"
        await client.list(CONFIG_MAPS)
        assert (tmp_path / "count").read_text() == "2"


async def test_a_plugin_is_asked_before_its_token_ends(fake: FakeCluster, tmp_path: Path) -> None:
    """One that ends soon is not used up to the refusal."""
    fake.api.authorization = "Bearer token-2"
    user = plugin(tmp_path, "2020-01-01T00:00:00Z")
    async with connect(written(tmp_path / "config", kubeconfig(fake.url, user))) as client:
        await client.list(CONFIG_MAPS)
    assert [asked.token for asked in fake.requests] == ["token-2"]


async def test_a_plugin_that_fails_is_named(tmp_path: Path) -> None:
    """With what it said; we don't go on as nobody."""
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/sh", "args": ["-c", "echo no login >&2; exit 3"]}}
    with pytest.raises(ConfigurationError, match=r"/bin/sh.*no login"):
        async with connect(written(tmp_path / "config", kubeconfig("http://127.0.0.1:1", user))):
            pass


async def test_a_token_that_stays_refused_is_unauthorized(fake: FakeCluster, tmp_path: Path) -> None:
    """After one more try."""
    fake.api.authorization = "Bearer other"
    async with connect(written(tmp_path / "config", kubeconfig(fake.url, {"token": "wrong"}))) as client:
        with pytest.raises(UnauthorizedError):
            await client.list(CONFIG_MAPS)
    assert len(fake.requests) == 2


async def test_a_service_account_s_token_is_read_again(tls_cluster: FakeCluster, account: Path) -> None:
    """The kubelet replaces it; a refusal is reason enough to look, whatever the minute."""
    port = tls_cluster.url.rsplit(":", 1)[1]
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}
    tls_cluster.api.authorization = "Bearer first"
    async with connect(KubeSettings(), environ=environ, service_account=account) as client:
        assert client.namespace == "kube-system"
        await client.list(CONFIG_MAPS)
        (account / "token").write_text("second")
        tls_cluster.api.authorization = "Bearer second"
        await client.list(CONFIG_MAPS)


async def test_an_unknown_authority_is_not_trusted(tls_cluster: FakeCluster, account: Path, stranger: Path) -> None:
    """UnreachableError, and nothing was sent."""
    (account / "ca.crt").write_bytes(stranger.read_bytes())
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": tls_cluster.url.rsplit(":", 1)[1]}
    async with connect(KubeSettings(), environ=environ, service_account=account) as client:
        with pytest.raises(UnreachableError, match="certificate"):
            await client.list(CONFIG_MAPS)
    assert not tls_cluster.requests


async def test_a_new_authority_is_read_when_the_server_has_a_certificate_of_it(
    tls_cluster: FakeCluster, account: Path, stranger: Path
) -> None:
    """A cluster that has changed its authority does not lose those who run: the file is replaced under them. What changes something too."""
    right = (account / "ca.crt").read_bytes()
    (account / "ca.crt").write_bytes(stranger.read_bytes())
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": tls_cluster.url.rsplit(":", 1)[1]}
    async with connect(KubeSettings(), environ=environ, service_account=account) as client:
        with pytest.raises(UntrustedError) as refused:
            await client.create(CONFIG_MAPS, {"metadata": {"name": "one"}})
        assert not refused.value.maybe_done
        (account / "ca.crt").write_bytes(right)
        await client.create(CONFIG_MAPS, {"metadata": {"name": "one"}})
        assert [one.metadata.name for one in (await client.list(CONFIG_MAPS)).items] == ["one"]


@pytest.mark.parametrize("missing", ["ca.crt", "namespace"])
async def test_half_a_service_account_is_none(account: Path, missing: str) -> None:
    """It is not passed over for a kubeconfig that happens to be there."""
    (account / missing).unlink()
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    with pytest.raises(ConfigurationError):
        async with connect(KubeSettings(), environ=environ, service_account=account):
            pass


@pytest.mark.slow
def test_kubernetes_is_imported_as_far_as_it_is_needed() -> None:
    """Neither typed models nor the synchronous client; whoever else imports the package gets it whole."""
    program = (
        "import otto_kubekit.objects, otto_kubekit.kinds, otto_kubekit.errors, otto_kubekit.bodies, sys\n"
        "assert not {'aiohttp', 'kubernetes'} & set(sys.modules)\n"
        "import otto_kubekit.connecting, otto_kubekit.watching, otto_kubekit.election\n"
        "heavy = [m for m in sys.modules if m.startswith(('kubernetes.client', 'kubernetes.aio.client.models.', 'pydantic'))]\n"
        "assert not heavy, heavy\n"
        "import kubernetes.aio\n"
        "assert kubernetes.__version__ and kubernetes.client.Configuration and kubernetes.aio.config.load_kube_config\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


async def test_the_environment_names_the_proxy(fake: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests go through the proxy of the URL's scheme, but not to hosts that need none."""
    settings = written(tmp_path / "config", kubeconfig("http://cluster.invalid:6443", {}))
    monkeypatch.setenv("http_proxy", fake.url)
    async with connect(settings, "default") as client:
        await client.list(CONFIG_MAPS)
    assert fake.requests[-1].path == "/api/v1/namespaces/default/configmaps"
    monkeypatch.setenv("no_proxy", "example.com,cluster.invalid")
    async with connect(settings, "default") as client:
        with pytest.raises(UnreachableError):
            await client.list(CONFIG_MAPS)


async def test_a_request_is_no_thread_s_work(fake: FakeCluster, tmp_path: Path) -> None:
    """Whatever files and variables there are for each request, they are looked at before the first: a thread would cost more than it."""
    settings = written(tmp_path / "config", kubeconfig(fake.url, {"token": "t"}))
    async with connect(settings, "default") as client:
        before = set(threading.enumerate())
        await client.list(CONFIG_MAPS)
        assert set(threading.enumerate()) == before
