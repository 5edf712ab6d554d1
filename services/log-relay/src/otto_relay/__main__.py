"""`otto-relay`: reads the environment and runs the log-relay until SIGTERM or SIGINT."""

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
    """Runs the service; returns the exit code."""
    return launch("log-relay", {"OTTO": RuntimeSettings, "OTTO_RELAY": Settings, "OTTO_KUBE": KubeSettings}, _compose, DEFAULTS)


if __name__ == "__main__":
    raise SystemExit(main())
