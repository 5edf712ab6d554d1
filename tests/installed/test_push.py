"""Images that `make images PUSH=1` brings to a registry of this machine."""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ..ports import free_port
from ..quick import unless_quick

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import images  # noqa: E402 - tools/ is no package of the project's environment

pytestmark = [pytest.mark.cluster, pytest.mark.long, unless_quick, pytest.mark.timeout(900)]
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
START_SECONDS = 60.0


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Debian's `docker-registry` on loopback, without TLS, which whoever pushes there has to be told."""
    if not shutil.which("docker-registry"):
        pytest.skip("there is no docker-registry here (Debian: apt-get install docker-registry)")
    if images.engine() == "docker":
        pytest.skip("Docker pushes from its engine's network, where this loopback is another one")
    address = f"127.0.0.1:{free_port()}"
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}
    (tmp_path / "registry.yml").write_text(json.dumps({"version": "0.1", "storage": storage, "http": {"addr": address}}))
    (tmp_path / "registries.conf").write_text(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n')
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    with (tmp_path / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(tmp_path / "registry.yml")], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(address):
            assert process.poll() is None, (tmp_path / "registry.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(30)
        for large in ("registry", "images"):
            shutil.rmtree(tmp_path / large, ignore_errors=True)


def answers(address: str) -> bool:
    """Whether the registry is there."""
    try:
        return bool(urllib.request.urlopen(f"http://{address}/v2/", timeout=10).status == 200)
    except OSError:
        return False


def test_a_pushed_image_is_the_one_that_was_built(registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the name in values.yaml the registry has the very image whose id the tag is, and each of its layers."""
    monkeypatch.setattr(images, "TARGETS", ("scaler",))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tools"))
    name = f"{registry}/ottoscaler"
    monkeypatch.setattr(sys, "argv", ["images", str(tmp_path / "images"), "--registry", name, "--push"])
    try:
        assert images.main() == 0
        chosen = yaml.safe_load((tmp_path / "images/values.yaml").read_text())["scaler"]["image"]
    finally:
        images.said(images.engine(), "rmi", f"{name}/scaler:latest")
    images.said(images.engine(), "rmi", f"{chosen['repository']}:{chosen['tag']}")
    assert chosen["repository"] == f"{name}/scaler"
    url = f"http://{registry}/v2/ottoscaler/scaler"
    asked = urllib.request.Request(f"{url}/manifests/{chosen['tag']}", headers={"Accept": MANIFEST})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        manifest = json.load(answer)
    assert manifest["config"]["digest"].startswith(f"sha256:{chosen['tag']}")
    for part in (manifest["config"], *manifest["layers"]):
        head = urllib.request.Request(f"{url}/blobs/{part['digest']}", method="HEAD")
        with urllib.request.urlopen(head, timeout=60) as answer:
            assert int(answer.headers["Content-Length"]) == part["size"]
