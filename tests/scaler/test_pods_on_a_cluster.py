"""What only a real cluster can show of workers that are pods: what its kubelet, its scheduler and its admission make of them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from otto_kubekit import kinds
from otto_kubekit.client import Client
from otto_kubekit.objects import PartialObject, Pod
from otto_scaler.backends.kubernetes import backend as backend_module
from otto_scaler.backends.kubernetes import deadlines, manifest
from otto_scaler.errors import NotReadyError
from otto_scaler.worker import Cause, ExtraContainer, State, WorkerSpec

from .conftest import ClusterRig, cluster_rig, script, spec, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
LONG = ("sleep", "300")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[ClusterRig]:
    """A fleet over pods of the cluster."""
    async with cluster_rig(tmp_path) as running:
        yield running


async def log_of(client: Client, wanted: WorkerSpec, container: str = "worker") -> str:
    path = client.path(kinds.PODS, None, wanted.identity.name, "log")
    return (await client.transport.call("GET", path, {"container": container})).decode()


async def pod_of(rig: ClusterRig, wanted: WorkerSpec) -> Pod:
    return await rig.client.get(kinds.PODS, wanted.identity.name)


async def test_what_was_asked_for_arrives_as_it_is(rig: ClusterRig) -> None:
    """Command and variables with everything that Kubernetes would expand, the working directory, a HOME and a workspace to write to."""
    text = "$(HOME) $$ $$(A) ${HOME} 한국어 ' \" \\ \n$"
    wanted = spec(
        command=(
            "sh",
            "-c",
            'printf "%s|" "$1" "$TEXT" "$PWD" "$OTTO_WORKSPACE" "$(id -u)"; touch ~/a "$OTTO_WORKSPACE/b" && echo done',
            "sh",
            text,
        ),
        env={"TEXT": text},
        working_directory="sub",
    )
    worker = await rig.run(wanted)
    assert (worker.state, worker.error) == (State.SUCCEEDED, "")
    said = (await log_of(rig.client, wanted)).split("|")
    assert said == [text, text, "/workspace/sub", "/workspace", "1000", "done\n"]


async def test_a_stop_keeps_the_log_and_the_true_code(rig: ClusterRig) -> None:
    """A plain shell gets SIGTERM though it is the container's first process, and what it wrote is there afterwards."""
    plain, cleans = spec("plain", command=LONG), script("echo begun; trap 'echo cleaned; exit 7' TERM; sleep 300 & wait", task="cleans")
    await rig.create(plain, cleans)
    for wanted in (plain, cleans):
        await rig.runs(wanted)
        await rig.fleet.scale_down(wanted.identity.task_id, 0, "enough")
    for wanted, code in ((plain, 143), (cleans, 7)):
        worker = await rig.ends(wanted)
        assert (worker.cause, worker.error, worker.exit_code) == (Cause.CANCELLED, "enough", code)
    assert await log_of(rig.client, cleans) == "begun\ncleaned\n"


async def test_a_timeout_is_told_from_a_stop(rig: ClusterRig) -> None:
    """It counts from the start of the worker."""
    worker = await rig.run(spec(command=LONG, timeout=2.0))
    assert (worker.cause, worker.error, worker.exit_code) == (Cause.TIMEOUT, "ran longer than 2 s", 143)


async def test_out_of_memory_is_the_kernels_word(rig: ClusterRig) -> None:
    """Over its own limit."""
    worker = await rig.run(spec(command=("python3", "-c", "x = b'x' * 200_000_000"), memory_bytes=32 * 2**20))
    assert (worker.cause, worker.exit_code) == (Cause.OOM_KILLED, 137)


async def test_a_program_that_is_not_there_is_said(rig: ClusterRig) -> None:
    """In the runtime's words, with the code that the cluster gives it."""
    worker = await rig.run(spec(command=("no-such-program",)))
    assert (worker.cause, worker.exit_code, worker.started) == (Cause.EXIT_CODE, 128, 0)
    assert "no-such-program" in worker.error


async def test_an_image_that_is_not_there_fails_the_worker(rig: ClusterRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kubelet's words; and one whose name is none fails at once."""
    monkeypatch.setattr(deadlines, "PULL_SECONDS", 1.0)
    missing, none = spec("missing", image="127.0.0.1:1/nope:1"), spec("none", image="A B")
    await rig.create(missing, none)
    for wanted, words in ((none, "InvalidImageName"), (missing, "127.0.0.1:1/nope:1")):
        worker = await rig.ends(wanted)
        assert (worker.cause, worker.started) == (Cause.IMAGE_PULL, 0)
        assert words in worker.error


async def test_a_worker_that_no_node_can_take_fails_in_the_schedulers_words(tmp_path: Path) -> None:
    """After the pending timeout; nothing of it stays in the cluster."""
    async with cluster_rig(tmp_path, pending_timeout=2.0) as rig:
        wanted = spec(cpu_cores=500.0)
        worker = await rig.run(wanted)
        assert worker.cause is Cause.UNSCHEDULABLE
        assert "Insufficient cpu" in worker.error
        assert (await rig.client.list(kinds.PODS)).items == []


async def test_a_quota_and_a_limit_refuse_in_their_words(rig: ClusterRig) -> None:
    """QUOTA for the one, which may become free, REJECTED for the other."""
    limits = kinds.custom("", "v1", "limitranges", "LimitRange")
    await rig.client.create(limits, {"metadata": {"name": "small"}, "spec": {"limits": [{"type": "Container", "max": {"memory": "4Gi"}}]}})
    await rig.client.create(kinds.QUOTAS, {"metadata": {"name": "few"}, "spec": {"hard": {"pods": "0"}}})
    [large] = (await rig.create(spec("large", memory_bytes=8 * 2**30))).refused
    assert (large.cause, "maximum memory usage" in large.why) == (Cause.REJECTED, True)
    for _ in range(100):  # until the quota's controller has counted
        if refused := (await rig.create(spec("more"))).refused:
            break
        await rig.ends(spec("more"))
        await rig.backend.remove(spec("more").identity.name)
        await until(lambda: rig.worker(spec("more").identity.name) is None)
    assert (refused[0].cause, "exceeded quota: few" in refused[0].why) == (Cause.QUOTA, True)


async def test_a_deleted_pod_is_a_failure(rig: ClusterRig) -> None:
    """However well it ends: its code is told, and it stays to be seen."""
    wanted = script("trap 'exit 0' TERM; sleep 300 & wait")
    await rig.create(wanted)
    await rig.runs(wanted)
    await rig.client.delete(kinds.PODS, wanted.identity.name)
    worker = await rig.ends(wanted)
    assert (worker.state, worker.cause, worker.exit_code) == (State.FAILED, Cause.DELETED, 0)
    assert rig.worker(wanted.identity.name) is worker


async def test_an_extra_container_ends_with_the_worker(rig: ClusterRig) -> None:
    """It is there before the worker, in its workspace, and the worker's end is the pod's."""
    extra = ExtraContainer("helper", await base_image(rig), ("sh", "-c", "echo hello > /workspace/hello; sleep 300"))
    wanted = script("until cat hello 2>/dev/null; do sleep 0.1; done", extra_containers=(extra,), stop_grace=1.0)
    worker = await rig.run(wanted)
    assert (worker.state, worker.exit_code) == (State.SUCCEEDED, 0)
    assert await log_of(rig.client, wanted) == "hello\n"


async def test_an_evicted_worker_is_no_failure_of_its_own(rig: ClusterRig) -> None:
    """Through the eviction API, as a drain does it: the cluster's word for it, though it ends on SIGTERM with 0."""
    wanted = script("trap 'exit 0' TERM; sleep 300 & wait")
    await rig.create(wanted)
    await rig.runs(wanted)
    name = wanted.identity.name
    body: dict[str, Any] = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    evictions = kinds.Kind("", "v1", f"pods/{name}/eviction", "Eviction", PartialObject)
    await rig.client.create(evictions, body)
    worker = await rig.ends(wanted)
    assert (worker.state, worker.cause) == (State.FAILED, Cause.EVICTED)
    assert worker.error.startswith("evicted: ")


async def test_a_workspace_is_shared_by_those_who_name_it(rig: ClusterRig) -> None:
    """One claim, what the first writes the second reads."""
    first, second = script("echo hello > file", workspace="ws-1", task="first"), script("cat file", workspace="ws-1", task="second")
    assert (await rig.run(first)).state is State.SUCCEEDED
    assert (await rig.run(second)).state is State.SUCCEEDED
    assert await log_of(rig.client, second) == "hello\n"
    assert [claim.metadata.name for claim in (await rig.client.list(kinds.CLAIMS)).items] == ["ws-1"]


async def base_image(rig: ClusterRig) -> str:
    """The image that workers have here."""
    wanted = spec("image")
    await rig.run(wanted)
    return (await pod_of(rig, wanted)).spec.containers[0].image


def injecting(monkeypatch: pytest.MonkeyPatch, field: str, container: dict[str, Any]) -> None:
    """Each pod gets a container more, as from a webhook of a mesh."""
    made = manifest.pod

    def pod(*given: Any, **options: Any) -> dict[str, Any]:
        body = made(*given, **options)
        [own] = body["spec"]["containers"]
        kept = {key: own[key] for key in ("image", "imagePullPolicy", "securityContext") if key in own}
        body["spec"].setdefault(field, []).append({**kept, **container})
        return body

    monkeypatch.setattr(manifest, "pod", pod)


@pytest.mark.parametrize("code", [0, 3])
async def test_a_plain_container_beside_it_does_not_keep_a_worker(rig: ClusterRig, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """The worker ends as its own container did, soon and with its log; its pod has ended too."""
    injecting(monkeypatch, "containers", {"name": "proxy", "command": ["sh", "-c", "trap exit TERM; while :; do sleep 0.1; done"]})
    wanted = script(f"echo said; exit {code}", timeout=200.0)
    worker = await rig.run(wanted)
    assert (worker.exit_code, worker.cause) == (code, Cause.EXIT_CODE if code else Cause.UNSPECIFIED)
    assert worker.ended - worker.started < 5e9
    assert await log_of(rig.client, wanted) == "said\n"
    assert (await pod_of(rig, wanted)).status.phase == "Failed"


async def test_an_init_container_that_fails_is_named(rig: ClusterRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As kubectl names it, with its exit code."""
    injecting(monkeypatch, "initContainers", {"name": "mesh-init", "command": ["sh", "-c", "exit 7"]})
    worker = await rig.run(script("true"))
    assert (worker.cause, worker.started) == (Cause.INTERNAL, 0)
    assert worker.error == "Init:Error: container mesh-init ended with exit code 7"


async def test_a_webhook_that_does_not_answer_fails_a_worker_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers are told to repeat, until a worker has been refused for as long as it may be pending."""
    monkeypatch.setattr(backend_module, "CREATE_SECONDS", 1.0)
    group, plural = "admissionregistration.k8s.io", "validatingwebhookconfigurations"
    webhooks = kinds.custom(group, "v1", plural, "ValidatingWebhookConfiguration", namespaced=False)
    async with cluster_rig(tmp_path, pending_timeout=5.0) as rig:
        name = f"{rig.client.namespace}.example.com"
        webhook = {
            "name": name,
            "clientConfig": {"service": {"namespace": rig.client.namespace, "name": "nobody"}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": rig.client.namespace}},
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 1,
        }
        await rig.client.create(webhooks, {"metadata": {"name": name}, "webhooks": [webhook]})
        try:
            told: list[str] = []
            number = 0
            while True:
                try:
                    created = await rig.create(spec(f"task-{number}"))
                except NotReadyError as error:
                    told.append(str(error))
                    continue
                if told:
                    break
                number += 1  # the API server has not heard of the webhook yet
            [(_, why, cause, _)] = created.refused
            assert cause is Cause.INTERNAL
            assert f'failed calling webhook "{name}"' in why
            assert len(told) > 1
        finally:
            await rig.client.delete(webhooks, name)


async def test_a_claim_that_somebody_deletes_ends_who_comes_next(rig: ClusterRig) -> None:
    """In the scheduler's words, long before the time that a worker may be pending."""
    first, second = script("echo left > file", workspace="ws-1"), script("cat file", task="second", workspace="ws-1")
    assert (await rig.run(first)).state is State.SUCCEEDED
    await rig.backend.remove(first.identity.name)
    await rig.client.delete(kinds.CLAIMS, "ws-1")
    worker = await rig.run(second)
    assert worker.cause is Cause.UNSCHEDULABLE
    assert 'persistentvolumeclaim "ws-1"' in worker.error
