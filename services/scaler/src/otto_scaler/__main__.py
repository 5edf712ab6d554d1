"""`otto-scaler`: reads the environment and runs the scaler on its own until SIGTERM or SIGINT."""

import argparse
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import msgspec

from otto_kubekit.settings import KubeSettings
from otto_runtime.launch import Compose
from otto_runtime.launch import main as launch
from otto_runtime.replicas import Place
from otto_runtime.server import Component
from otto_runtime.settings import RuntimeSettings
from otto_scaler.app import scaler_component
from otto_scaler.settings import Settings


def _compose(settings: Sequence[msgspec.Struct]) -> Compose:
    _, scaler, kube = settings
    assert isinstance(scaler, Settings)
    assert isinstance(kube, KubeSettings)

    def roots(address: str, runtime: RuntimeSettings) -> Sequence[AbstractAsyncContextManager[Component]]:
        return [scaler_component(scaler, scaler.executor_address, kube=kube, at=Place(address, runtime))]

    return roots


def main() -> int:
    """Runs the scaler; returns the exit code (0 stopped, 1 could not start or failed, 2 bad settings or usage)."""
    parser = argparse.ArgumentParser(
        prog="otto-scaler",
        description="Runs Ottoscaler's scaler. Everything is set by OTTO_*, OTTO_SCALER_* and OTTO_KUBE_* environment variables.",
    )
    parser.parse_args()
    return launch("scaler", {"OTTO": RuntimeSettings, "OTTO_SCALER": Settings, "OTTO_KUBE": KubeSettings}, _compose)


if __name__ == "__main__":
    raise SystemExit(main())
