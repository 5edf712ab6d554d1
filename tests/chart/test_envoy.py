"""The front door's configuration is one that Envoy takes, and none of its timeouts ends a stream."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .envoy import configuration, program
from .rendering import objects, one

NAMES = ("default", "small", "everything")


@pytest.mark.parametrize("name", NAMES)
def test_envoy_takes_the_configuration(name: str, tmp_path: Path) -> None:
    """`envoy --mode validate` passes without a warning, so nothing in it is deprecated."""
    (tmp_path / "envoy.yaml").write_text(one(objects(name), "ConfigMap", "front-door")["data"]["envoy.yaml"])
    done = subprocess.run(
        [program(), "--mode", "validate", "--config-path", str(tmp_path / "envoy.yaml"), "--log-level", "warning"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_envoy_would_notice() -> None:
    """A field that Envoy does not know makes the check above fail."""
    config = configuration()
    config["static_resources"]["clusters"][0]["conect_timeout"] = "1s"
    done = subprocess.run(
        [program(), "--mode", "validate", "--config-yaml", yaml.safe_dump(config)], capture_output=True, check=False, timeout=60
    )
    assert done.returncode != 0


def routes(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The routes of the gRPC listener that go somewhere."""
    (listener,) = (listener for listener in config["static_resources"]["listeners"] if listener["name"] == "grpc")
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert (manager["stream_idle_timeout"], manager["request_timeout"]) == ("0s", "0s")
    for host in manager["route_config"]["virtual_hosts"]:
        yield from (route for route in host["routes"] if "route" in route)


def test_no_route_ends_a_stream() -> None:
    """Each route says that neither the time of a call nor its silence is bounded: Envoy's defaults are 15 s and 5 min."""
    found = list(routes(configuration()))
    assert len(found) > 6
    assert {(route["route"]["timeout"], route["route"]["idle_timeout"]) for route in found} == {("0s", "0s")}


def test_nobody_can_dial_the_admin_interface() -> None:
    """It listens on a socket in the pod's own directory; no Service and no container port leads to it, and only /metrics goes there."""
    config = configuration()
    assert set(config["admin"]["address"]) == {"pipe"}
    (listener,) = (listener for listener in config["static_resources"]["listeners"] if listener["name"] == "metrics")
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    (route,) = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert route["match"]["path"] == "/metrics"
    assert route["route"]["prefix_rewrite"] == "/stats/prometheus"
