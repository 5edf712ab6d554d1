"""One release for all tests here; a test that needs other values installs its own. One that fails leaves a report of all of them."""

import secrets
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import pytest

from ..cluster_report import tell, written
from .control_plane import ControlPlane, control_plane
from .installation import IMAGES, CommandError, Installation, install, make_namespace, uninstall

Install = Callable[..., Installation]
_there: list[str] = []
"""The namespaces of releases that are installed now."""


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """The release that most tests use."""
    if not IMAGES.exists():
        pytest.fail(f"{IMAGES} is not there: make images makes it")
    with installing() as install_release:
        yield install_release()


@pytest.fixture
def installed() -> Iterator[Install]:
    """Installs further releases, with values as `helm --set` takes them."""
    with installing() as install_release:
        yield install_release


@contextmanager
def installing() -> Iterator[Install]:
    """The same for as long as somebody wants; then they are uninstalled."""
    before = len(_there)
    try:
        yield _installed
    finally:
        _uninstalled(before)


@pytest.fixture(scope="session")
def plane() -> ControlPlane:
    """The control plane; tests that do something to it are skipped where it can't be reached."""
    found = control_plane()
    if found is None:
        pytest.skip("the nodes of this cluster are no containers of ours, as those of make cluster-up are")
    return found


def _installed(*sets: str) -> Installation:
    namespace = f"otto-test-{secrets.token_hex(3)}"
    _there.append(namespace)
    try:
        make_namespace(namespace)
        return install(namespace, *sets)
    except CommandError as error:
        error.add_note(f"what was in namespace {namespace}: {written('install', namespace)}")
        raise


def _uninstalled(before: int) -> None:
    while len(_there) > before:
        uninstall(_there.pop())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Written before anything is deleted."""
    outcome = yield
    if outcome.when == "call" and outcome.failed:
        tell(outcome, item.name, _there)
    return outcome
