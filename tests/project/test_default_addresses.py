"""The three services find each other when each is started on its own with nothing set."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import msgspec
import pytest

import otto_executor.__main__ as executor
import otto_relay.__main__ as relay
import otto_scaler.__main__ as scaler
from otto_runtime.launch import completed, read_settings
from otto_runtime.settings import RuntimeSettings

SERVICES = {"otto_scaler": scaler, "otto_executor": executor, "otto_relay": relay}


def started(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> tuple[RuntimeSettings, Any]:
    """What a service's `main` reads from an empty environment: the runtime's settings and its own."""
    read: list[msgspec.Struct] = []

    def launch(_: str, kinds: Mapping[str, type[msgspec.Struct]], __: object, defaults: Mapping[str, str] | None = None) -> int:
        read.extend(read_settings(kinds, completed({}, defaults or {}))[0])
        return 0

    monkeypatch.setattr(module, "launch", launch)
    monkeypatch.setattr("sys.argv", ["service"])
    assert module.main() == 0
    runtime, own, *_ = read
    assert isinstance(runtime, RuntimeSettings)
    return runtime, own


def test_each_service_dials_where_the_others_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every port is used once, and every address of a peer is the one that this peer takes by itself."""
    read = {name: started(module, monkeypatch) for name, module in SERVICES.items()}
    listening = {name: runtime.listen for name, (runtime, _) in read.items()}
    taken = [*listening.values(), *(runtime.metrics_listen for runtime, _ in read.values())]
    assert len(set(taken)) == 6
    assert read["otto_scaler"][1].executor_address == listening["otto_executor"]
    assert read["otto_executor"][1].scaler_address == listening["otto_scaler"]
    assert read["otto_relay"][1].scaler_address == listening["otto_scaler"]
    assert read["otto_relay"][1].executor_address == listening["otto_executor"]


@pytest.mark.parametrize(("environ", "port"), [({}, "1"), ({"A": " "}, "1"), ({"A": "2"}, "2")], ids=["absent", "empty", "set"])
def test_what_is_set_wins_over_a_default(environ: dict[str, str], port: str) -> None:
    """A service's own default holds for a variable that is absent or empty, and for no other."""
    assert completed(environ, {"A": "1"})["A"] == port
