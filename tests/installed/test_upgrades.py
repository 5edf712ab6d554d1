"""What the README says about upgrades, rollbacks and an end of it all, done to a release in the middle of its work."""

import asyncio
import json
import re
import secrets
import shlex
from collections.abc import Callable

import pytest

from ottoscaler.v1.ottoscaler_service_pb2 import ScaleRequest, ScaleResponse
from ottoscaler.v1.ottoscaler_service_pb2_grpc import OttoscalerServiceStub
from ottoscaler.v1.worker_pb2 import WorkerSpec

from ..patient_clients import Clients
from ..quick import QUICK
from .conftest import Install
from .installation import COMPONENTS, IMAGES, ROOT, Installation, install, said
from .load import Load
from .onlooker import attached
from .pod_watch import watching_leases, watching_pods
from .test_pipelines import one_stage

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

OTHERS = ("runtime.log_level=debug", "frontDoor.logLevel=info")
"""Values that change the pods of every component."""
TWO = ("scaler.replicas=2", "executor.replicas=2")
STEPS: dict[str, Callable[[Installation], None]] = {
    "upgrade": lambda installation: installation.upgrade(*OTHERS),
    "rollback": lambda installation: installation.rollback(),
    "restart": lambda installation: installation.restart(*COMPONENTS),
    "upgrade to two replicas": lambda installation: installation.upgrade(*OTHERS, *TWO),
    "restart of two replicas": lambda installation: installation.restart(*COMPONENTS),
    "rollback to one replica": lambda installation: installation.rollback(),
}
if QUICK:
    STEPS = {name: STEPS[name] for name in ("upgrade to two replicas", "restart of two replicas", "rollback to one replica")}
AT_ONCE_SECONDS = 5
"""Half of what another replica would wait for a Lease that was not given back."""


@pytest.mark.long
async def test_everything_is_replaced_in_the_middle_of_runs(installed: Install, capsys: pytest.CaptureFixture[str]) -> None:
    """Upgrades, rollbacks and restarts of all there is lose and double nothing; who is attached goes on; the next replica acts at once."""
    installation = await asyncio.to_thread(installed)
    load = Load(Clients(installation), "replaced")
    async with asyncio.timeout(1100), watching_pods(installation) as pods, watching_leases(installation) as leases:
        await load.calm()
        async with attached(installation, "replaced-onlooker") as onlooker, load.going():
            for name, replace in STEPS.items():
                before, lost = names(installation), onlooker.lost()
                await asyncio.to_thread(replace, installation)
                assert not before & names(installation), name
                await onlooker.loses_and_goes_on(lost)
                await load.begun(3)
            await onlooker.sees_the_end()
    load.check(pods)
    handovers = leases.handovers()
    with capsys.disabled():
        print()
        for given, taken in handovers:
            print(f"{given.lease}: given back, held by another replica {(taken.since - given.since).total_seconds():.2f} s later")
    assert len(handovers) >= 2 * len(STEPS) - 1, handovers
    assert all((taken.since - given.since).total_seconds() < AT_ONCE_SECONDS for given, taken in handovers)


def names(installation: Installation) -> set[str]:
    """Of the release's own pods that nobody is about to delete."""
    pods = [pod["metadata"] for component in COMPONENTS for pod in installation.pods(component)]
    return {str(pod["uid"]) for pod in pods if "deletionTimestamp" not in pod}


async def test_the_commands_of_the_readme_leave_nothing_behind(installed: Install) -> None:
    """Those for an upgrade work, and those that remove everything do, with work going on; installed again it works again."""
    installation = await asyncio.to_thread(installed)
    namespace = installation.namespace
    assert await asyncio.to_thread(left, namespace)
    upgrade, remove = readme_commands(namespace)
    async with asyncio.timeout(900):
        await used(installation)
        for command in [*upgrade, *remove]:
            await asyncio.to_thread(said, *command, directory=ROOT)
        async with asyncio.timeout(120):
            while found := await asyncio.to_thread(left, namespace):
                await asyncio.sleep(1)
        assert not found
        await used(await asyncio.to_thread(install, namespace))


async def used(installation: Installation) -> None:
    """A run that has ended, with a workspace, one that goes on, and workers of no pipeline: one that has ended, one that goes on."""
    await installation.serves()
    clients = Clients(installation)
    shares = one_stage("echo built > built", config={"otto.workspace": "shared"})
    account = await clients.run(shares)
    assert account.outcome()["only"] == ("STAGE_COMPLETED", 1)
    await clients.submit(one_stage("sleep 3600"))
    async with installation.channel() as channel:
        for task, command in {"ended": "true", "goes-on": "sleep 3600"}.items():
            worker = WorkerSpec(command=["sh", "-c"], args=[command])
            asked = ScaleRequest(task_id=f"{task}-{secrets.token_hex(3)}", worker_count=1, worker=worker)
            answer = await OttoscalerServiceStub(channel).ScaleUp(asked, wait_for_ready=True)
            assert answer.status == ScaleResponse.SUCCESS


def readme_commands(namespace: str) -> list[list[list[str]]]:
    """Those for upgrades and those to remove everything, in this namespace. The CRD stays, as others have runs here; images are there."""
    section = (ROOT / "README.md").read_text().partition("### Upgrade, roll back, uninstall\n")[2].partition("\n##")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 2
    ours = {
        "--namespace ottoscaler": f"--namespace {namespace}",
        "--values .cache/images/values.yaml": f"--values {shlex.quote(str(IMAGES))}",
    }
    for said_there, ours_is in ours.items():
        assert said_there in "".join(blocks)
        blocks = [block.replace(said_there, ours_is) for block in blocks]
    lines = [[shlex.split(line, comments=True) for line in block.splitlines()] for block in blocks]
    return [[line for line in block if line[1:3] != ["delete", "crd"] and line[:2] != ["make", "images"]] for block in lines]


def left(namespace: str) -> list[str]:
    """What is in a namespace beside what Kubernetes puts into each, and what outside of it names it."""
    always = {"configmaps/kube-root-ca.crt", "serviceaccounts/default", f"namespaces/{namespace}"}
    found = []
    for scope in ("true", "false"):
        kinds = said("kubectl", "api-resources", f"--namespaced={scope}", "--verbs=list", "--output=name").split()
        kinds = [kind for kind in kinds if not kind.startswith(("events", "componentstatuses"))]
        listed = json.loads(said("kubectl", "get", ",".join(kinds), f"--namespace={namespace}", "--output=json"))["items"]
        for item in listed:
            name = f"{item['kind'].lower()}s/{item['metadata']['name']}"
            if name not in always and (scope == "true" or namespace in json.dumps(item)):
                found.append(name)
    return found
