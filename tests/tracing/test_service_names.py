"""Under which name a service sends what it tells."""

import sys
from types import ModuleType

import pytest

import otto_executor.__main__
import otto_relay.__main__
import otto_scaler.__main__


@pytest.mark.parametrize(
    ("module", "name"),
    [(otto_scaler.__main__, "scaler"), (otto_executor.__main__, "pipeline-executor"), (otto_relay.__main__, "log-relay")],
    ids=["scaler", "executor", "relay"],
)
def test_a_service_is_called_as_everywhere_else(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> None:
    """As its image, its Deployment and docs/traces.md call it: it becomes `service.name`."""
    names: list[str] = []

    def launched(name: str, *_: object) -> int:
        names.append(name)
        return 0

    monkeypatch.setattr(module, "launch", launched)
    monkeypatch.setattr(sys, "argv", ["service"])
    assert module.main() == 0
    assert names == [name]
