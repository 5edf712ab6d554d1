"""A namespace for each of those who share a cluster."""

import asyncio
import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from ..cluster_report import reported
from ..patient_clients import Clients
from .installation import CHART, IMAGES, RELEASE, ROOT, CommandError, Installation, reached, said, worker_image
from .test_pipelines import one_stage
from .test_upgrades import left

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
FILES = ROOT / ".cache" / "users"


def user(verb: str, name: str) -> str:
    """What the command for it says."""
    return said("env", "PODS=20", str(ROOT / "tools" / "user"), verb, name)


def as_user(name: str, *command: str) -> str:
    """What a command prints with the kubeconfig that was made for somebody."""
    return said("env", f"KUBECONFIG={FILES / f'{name}.kubeconfig'}", *command)


@pytest.fixture
def users() -> Iterator[tuple[str, str]]:
    """Two, each with a namespace."""
    names = (f"mia-{secrets.token_hex(2)}", f"noah-{secrets.token_hex(2)}")
    with ExitStack() as there:
        for name in names:
            there.callback(user, "remove", name)
            there.enter_context(reported(f"otto-{name}"))
            user("setup", name)
        yield names


def installed_by(name: str) -> Installation:
    """A release that somebody has installed with nothing but what was made for them."""
    values = ["--values", str(IMAGES), "--values", str(FILES / f"{name}.values.yaml"), "--set", f"workers.image={worker_image()}"]
    words = ["--skip-crds", *values, "--wait", "--timeout=240s"]
    as_user(name, "helm", "install", RELEASE, str(CHART), "--namespace", f"otto-{name}", *words)
    return reached(f"otto-{name}")


async def test_two_see_nothing_of_each_other(users: tuple[str, str]) -> None:
    """Each installs and runs pipelines by themselves; one that is removed takes all of theirs along and nothing of the other's."""
    mia, _ = users
    hers, his = await asyncio.gather(*(asyncio.to_thread(installed_by, name) for name in users))
    with pytest.raises(CommandError, match="forbidden"):
        as_user(mia, "kubectl", "get", "pods", "--namespace", his.namespace)
    with pytest.raises(CommandError, match="forbidden"):
        as_user(mia, "kubectl", "get", "nodes")

    long = one_stage("sleep 60; echo he is not disturbed")
    short = one_stage("echo hello")
    async with asyncio.timeout(300):
        lasting = asyncio.create_task(Clients(his).run(long), name="his")
        account = await Clients(hers).run(short)
        assert account.outcome()["only"] == ("STAGE_COMPLETED", 1)
        assert [pipeline for pipeline in hers.workers() if pipeline != short.pipeline_id] == []
        listed = as_user(mia, "ottoctl", "--address", hers.address, "pipeline", "list")
        assert short.pipeline_id in listed
        assert long.pipeline_id not in listed

        await asyncio.to_thread(user, "remove", mia)
        async with asyncio.timeout(120):
            while await asyncio.to_thread(left, hers.namespace):
                await asyncio.sleep(1)
        said("kubectl", "get", "crd", "pipelineruns.ottoscaler.io")
        assert not list(FILES.glob(f"{mia}.*"))
        account = await lasting
    assert account.outcome()["only"] == ("STAGE_COMPLETED", 1)
    assert "he is not disturbed" in [entry.entry.message for entry in account.entries]


def test_unfinished_runs_without_an_executor_hold_nothing_up(users: tuple[str, str]) -> None:
    """Whoever has uninstalled before is removed all the same."""
    run = {"apiVersion": "ottoscaler.io/v1alpha1", "kind": "PipelineRun", "spec": {"stages": [{"stageId": "only"}]}}
    metadata = {"name": "unfinished", "finalizers": ["ottoscaler.io/workers"]}
    said("kubectl", "create", "--namespace", f"otto-{users[0]}", "--filename", "-", stdin=json.dumps(run | {"metadata": metadata}))
    user("remove", users[0])
    assert said("kubectl", "get", "namespace", f"otto-{users[0]}", "--ignore-not-found") == ""


def test_what_is_not_ours_is_left_alone(users: tuple[str, str]) -> None:
    """A namespace that was made by others is neither set up nor removed, and a name that can't be one is refused."""
    namespace = f"otto-test-{secrets.token_hex(3)}"
    said("kubectl", "create", "namespace", namespace)
    try:
        for verb in ("setup", "remove"):
            with pytest.raises(CommandError, match="was not made by"):
                user(verb, namespace.removeprefix("otto-"))
    finally:
        said("kubectl", "delete", "namespace", namespace)
    with pytest.raises(CommandError, match="USER_NAME=Mia: lower-case"):
        user("setup", "Mia")
    quota = yaml.safe_load(said("kubectl", "get", "resourcequota", "developer", "--namespace", f"otto-{users[0]}", "--output", "yaml"))
    assert quota["spec"]["hard"]["pods"] == "20"
    assert (Path(FILES, f"{users[0]}.kubeconfig").stat().st_mode & 0o777) == 0o600
