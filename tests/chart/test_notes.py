"""What helm says after an installation: first commands for this very release, and what its values leave it without."""

import re

import pytest

from .rendering import RELEASE, ROOT, SETS, flags, helm, objects


def notes(*arguments: str) -> str:
    """What `helm install` with these arguments would print."""
    return helm("install", *RELEASE, *arguments, "--dry-run=client").partition("\nNOTES:\n")[2]


@pytest.mark.parametrize("name", SETS)
def test_first_commands_are_about_what_is_installed(name: str) -> None:
    """Services and ports that are named are there, commands stay in the release's namespace, and the pipeline is one of this repository."""
    told = notes(*flags(name))
    ports = {thing["metadata"]["name"]: thing["spec"]["ports"][0]["port"] for thing in objects(name) if thing["kind"] == "Service"}
    addresses = re.findall(r"^  (\S+)\.ci:(\d+)$", told, re.MULTILINE)
    forwarded = re.findall(r"port-forward service/(\S+) 9090:(\d+)", told)
    assert addresses == forwarded
    assert [ports[service] for service, _ in addresses] == [int(port) for _, port in addresses]
    assert len(addresses) == ("front-door" in " ".join(ports))
    commands = re.findall(r"^  ((?:kubectl|helm) .*)$", told, re.MULTILINE)
    assert len(commands) >= 3
    assert all(command.split()[1:3] == ["-n", "ci"] for command in commands)
    assert all((ROOT / file).exists() for file in re.findall(r"pipelines/\S+", told))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("workers.image=debian:stable-slim", "No image is set"),
        ("workers.workspace.storageClass=default", "No storage class is set"),
        ("relay.spool.type=persistentVolumeClaim", "Log lines are kept in an emptyDir"),
        ("frontDoor.enabled=true", "There is no front door"),
    ],
)
def test_what_it_is_left_without_is_said(values: str, words: str) -> None:
    """Only where it is so."""
    without = ("--set", "workers.image=,workers.workspace.storageClass=,relay.spool.type=emptyDir,frontDoor.enabled=false")
    assert words in notes(*without)
    assert words not in notes(*without, "--set", values)
