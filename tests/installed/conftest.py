"""One release for all tests here; a test that needs other values installs its own."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ..cluster_report import reported
from .control_plane import ControlPlane, control_plane
from .installation import IMAGES, Installation, install, make_namespace, uninstall

Install = Callable[..., Installation]


@pytest.fixture(scope="session", autouse=True)
def named_cluster(kubeconfig: Path) -> None:
    """There is one: what kubectl and helm reach by themselves is no place for these tests."""


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """The release that most tests use."""
    if not IMAGES.exists():
        pytest.fail(f"{IMAGES} is not there: make images makes it")
    with installing(wait=False) as install_release:  # what is left to wait for would count as the last test's time
        yield install_release()


@pytest.fixture
def installed() -> Iterator[Install]:
    """Installs further releases, with values as `helm --set` takes them."""
    with installing() as install_release:
        yield install_release


@contextmanager
def installing(*, wait: bool = True) -> Iterator[Install]:
    """The same for as long as somebody wants; then they are uninstalled, and with `wait` gone."""
    with ExitStack() as releases:

        def install_release(*sets: str, address: str = "") -> Installation:
            namespace = f"otto-test-{secrets.token_hex(3)}"
            releases.callback(uninstall, namespace, wait=wait)
            releases.enter_context(reported(namespace))
            make_namespace(namespace)
            return install(namespace, *sets, address=address)

        yield install_release


@pytest.fixture(scope="session")
def plane() -> ControlPlane:
    """The control plane; tests that do something to it are skipped where it can't be reached."""
    found = control_plane()
    if found is None:
        pytest.skip("the nodes of this cluster are no containers of ours, as those of make cluster-up are")
    return found
