"""`otto-relay`: reads the environment and runs the log-relay until SIGTERM or SIGINT."""

import argparse
from collections.abc import Sequence

import msgspec

from otto_runtime.launch import Compose
from otto_runtime.launch import main as launch

# isort: split
# What follows imports gRPC, which reads then what the former has set.
from otto_kubekit.settings import KubeSettings
from otto_relay.app import relay_component
from otto_relay.settings import DEFAULTS, Settings
from otto_runtime.settings import RuntimeSettings


def _compose(read: Sequence[msgspec.Struct]) -> Compose:
    settings, kube = read[1:]
    assert isinstance(settings, Settings)
    assert isinstance(kube, KubeSettings)
    return lambda _address, _runtime: [relay_component(settings, kube=kube)]


def main() -> int:
    """Runs the log-relay; returns the exit code (0 stopped, 1 could not start or failed, 2 bad settings or usage)."""
    parser = argparse.ArgumentParser(
        prog="otto-relay",
        description="Serves LogStreamingService. Everything is set by OTTO_*, OTTO_RELAY_* and OTTO_KUBE_* environment variables.",
    )
    parser.parse_args()
    return launch("log-relay", {"OTTO": RuntimeSettings, "OTTO_RELAY": Settings, "OTTO_KUBE": KubeSettings}, _compose, DEFAULTS)


if __name__ == "__main__":
    raise SystemExit(main())
