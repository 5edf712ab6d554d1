"""`otto-executor`: reads the environment and serves PipelineService until SIGTERM or SIGINT."""

import argparse
from collections.abc import Sequence
from typing import cast

import msgspec

from otto_runtime.launch import Compose
from otto_runtime.launch import main as launch

# isort: split
# What follows imports gRPC, which reads then what the former has set.
from otto_executor.app import executor_component
from otto_executor.settings import DEFAULTS, Settings
from otto_kubekit.settings import KubeSettings
from otto_runtime.replicas import Place
from otto_runtime.settings import RuntimeSettings


def compose(settings: Sequence[msgspec.Struct]) -> Compose:
    """The executor's component for the settings that were read."""
    own, kube = cast("Settings", settings[1]), cast("KubeSettings", settings[2])
    return lambda address, runtime: [executor_component(own, kube=kube, at=Place(address, runtime))]


def main() -> int:
    """Runs the executor; returns the exit code (0 stopped, 1 could not start or failed, 2 bad settings or usage)."""
    parser = argparse.ArgumentParser(
        prog="otto-executor",
        description="Serves PipelineService. Everything is set by OTTO_* environment variables; the README lists them.",
    )
    parser.parse_args()
    return launch("pipeline-executor", {"OTTO": RuntimeSettings, "OTTO_EXECUTOR": Settings, "OTTO_KUBE": KubeSettings}, compose, DEFAULTS)


if __name__ == "__main__":
    raise SystemExit(main())
