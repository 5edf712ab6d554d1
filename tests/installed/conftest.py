"""One release for all tests here; a test that needs other values installs its own."""

import secrets
from collections.abc import Callable, Iterator

import pytest

from .installation import IMAGES, Installation, install, uninstall

Install = Callable[..., Installation]


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """The release that most tests use."""
    yield from _installed()


@pytest.fixture
def installed() -> Iterator[Install]:
    """Installs further releases, with values as `helm --set` takes them."""
    made: list[str] = []

    def one(*sets: str) -> Installation:
        made.append(_name())
        return install(made[-1], *sets)

    yield one
    for namespace in made:
        uninstall(namespace)


def _installed() -> Iterator[Installation]:
    if not IMAGES.exists():
        pytest.fail(f"{IMAGES} is not there: make images makes it")
    namespace = _name()
    try:
        yield install(namespace)
    finally:
        uninstall(namespace)


def _name() -> str:
    return f"otto-test-{secrets.token_hex(3)}"
