"""A worker's spec becomes the pod that is asked of the cluster: safe by default, shaped by the template, and nothing of it misread."""

import dataclasses
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from otto_scaler.backends.kubernetes import manifest, marks, template
from otto_scaler.backends.kubernetes.manifest import Plan
from otto_scaler.backends.kubernetes.template import WorkerTemplate
from otto_scaler.errors import BackendUnusableError
from otto_scaler.worker import ExtraContainer, Owner, SecretVariable, WorkerSpec

from .conftest import spec
from .pod_reports import PLAN, pod, read


def made(wanted: WorkerSpec, *, held: bool = False, **plan: Any) -> dict[str, Any]:
    return manifest.pod(wanted, dataclasses.replace(PLAN, **plan), held=held)


def container(made_pod: dict[str, Any], name: str = "worker") -> dict[str, Any]:
    every = [*made_pod["spec"].get("initContainers", []), *made_pod["spec"]["containers"]]
    (found,) = [one for one in every if one["name"] == name]
    return dict(found)


def variables(made_pod: dict[str, Any], name: str = "worker") -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container(made_pod, name)["env"]}


def with_template(text: str, **plan: Any) -> Plan:
    import yaml

    return dataclasses.replace(PLAN, template=template.parse(yaml.safe_load(text)), **plan)


def test_a_pod_keeps_to_the_restricted_profile() -> None:
    """Nobody is root, nothing is escalated, no token of a service account is there, and every container has requests and limits."""
    wanted = spec(repository="https://git.example.com/a.git", extra_containers=(ExtraContainer("db", "postgres:17"),))
    body = made(wanted)["spec"]
    assert body["securityContext"]["runAsNonRoot"] is True
    assert body["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (body["automountServiceAccountToken"], body["enableServiceLinks"], body["restartPolicy"]) == (False, False, "Never")
    for one in (*body["initContainers"], *body["containers"]):
        assert one["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert all(one["resources"][what][of] for what in ("requests", "limits") for of in ("cpu", "memory"))


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_whose_it_is_can_be_read_again() -> None:
    """Ids in any script come back from the annotations; the labels are fit to select by."""
    task = "빌드/1 " + "x" * 300
    wanted = spec(
        task,
        2,
        3,
        pipeline_id="파이프라인 β",
        stage_id="deploy: prod",
        attempt=4,
        workspace="ws-1",
        labels={"ottoscaler.io/task": "a-0123456789"},
    )
    wanted = dataclasses.replace(
        wanted, identity=dataclasses.replace(wanted.identity, annotations={"reason": "because\nof that"}, parent=TRACE)
    )
    found = marks.identity(read(pod(wanted)).metadata)
    assert found == dataclasses.replace(wanted.identity, labels=found.labels)
    assert found.traceparent == wanted.identity.traceparent
    spoilt = pod(wanted)
    spoilt["metadata"]["annotations"]["ottoscaler.io/traceparent"] = "rubbish"
    assert marks.identity(read(spoilt).metadata).traceparent == ""
    assert found.labels["ottoscaler.io/task"] == "a-0123456789"
    assert (found.labels["ottoscaler.io/instance"], found.labels["app.kubernetes.io/component"]) == ("ottoscaler", "worker")


@pytest.mark.parametrize("missing", ["task-id", "index", "count", "attempt"])
def test_a_pod_that_lost_its_annotations_is_said_to(missing: str) -> None:
    """The words name what is missing."""
    report = pod()
    del report["metadata"]["annotations"][f"ottoscaler.io/{missing}"]
    with pytest.raises(ValueError, match=f"no annotation ottoscaler.io/{missing}"):
        marks.identity(read(report).metadata)


@pytest.mark.parametrize("what", ["index", "count", "attempt"])
@pytest.mark.parametrize("number", [str(2**31), "9" * 5000], ids=["large", "long"])
def test_a_pod_whose_numbers_fit_into_no_message_is_said_to(what: str, number: str) -> None:
    """One that was changed so by hand would fail every answer that shows it, and every watch."""
    report = pod()
    report["metadata"]["annotations"][f"ottoscaler.io/{what}"] = number
    with pytest.raises(ValueError, match=f"ottoscaler.io/{what} is .* no number from 1 to 2147483647"):
        marks.identity(read(report).metadata)


def expanded(text: str, known: dict[str, str]) -> str:
    """What a kubelet makes of a container's text: k8s.io/kubernetes/third_party/forked/golang/expansion."""
    result, position = "", 0
    while position < len(text):
        if text[position] == "$" and position + 1 < len(text):
            follows = text[position + 1]
            if follows == "$":
                result, position = result + "$", position + 2
                continue
            if follows == "(" and (closing := text.find(")", position)) != -1:
                name = text[position + 2 : closing]
                result, position = result + known.get(name, f"$({name})"), closing + 1
                continue
        result, position = result + text[position], position + 1
    return result


@pytest.mark.parametrize("text", ["$(HOME)", "$$(HOME)", "echo $$; echo ${HOME} $HOME", "$$$(HOME)$", "$$$$", "$(", "$)", "a$b$$", "$" * 7])
def test_nothing_of_what_was_asked_for_is_expanded(text: str) -> None:
    """Commands, arguments and variables reach containers as they are, whatever Kubernetes would read into them."""
    wanted = spec(
        command=("sh", "-c", text),
        env={"TEXT": text, "HOME": "/elsewhere"},
        extra_containers=(ExtraContainer("db", "db", (text,), (text,), {"T": text}),),
    )
    body = made(wanted)
    own, extra = container(body), container(body, "db")
    for there in (own["command"][2], variables(body)["TEXT"], extra["command"][0], extra["args"][0], variables(body, "db")["T"]):
        assert expanded(there, {"HOME": "/elsewhere"}) == text


def test_secrets_are_references() -> None:
    """Their values never pass through us; a secret wins over a variable of the same name."""
    wanted = spec(env={"TOKEN": "plain", "A": "b"}, secrets=(SecretVariable("TOKEN", "deploy", "token"),))
    assert variables(made(wanted))["TOKEN"] == {"secretKeyRef": {"name": "deploy", "key": "token"}}
    assert "plain" not in str(made(wanted))


def test_the_worker_is_told_where_it_works() -> None:
    """OTTO_WORKSPACE, OTTO_WORKER_NAME, a HOME that it can write to, and its working directory in the workspace."""
    wanted = spec(working_directory="a/../sub dir", env={"OTTO_TASK_ID": "task"})
    body = made(wanted)
    told = variables(body)
    assert (told["OTTO_WORKSPACE"], told["OTTO_WORKER_NAME"], told["OTTO_TASK_ID"]) == ("/workspace", wanted.identity.name, "task")
    assert container(body)["workingDir"] == "/workspace/sub dir"
    mounts = {one["mountPath"]: one["name"] for one in container(body)["volumeMounts"]}
    volumes = {one["name"]: one for one in body["spec"]["volumes"]}
    assert volumes[mounts["/workspace"]] == {"name": "otto-workspace", "emptyDir": {}}
    assert volumes[mounts[told["HOME"]]] == {"name": "otto-home", "emptyDir": {}}


@pytest.mark.parametrize("told", [True, False], ids=["with the pod's variables", "without them"])
def test_git_works_in_a_volume_of_somebody_else(told: bool, tmp_path: Path) -> None:
    """A checkout in a directory that isn't the worker's user's is one that Git reads, by the variables that every worker has."""
    git = ("git", "-C", str(tmp_path))
    subprocess.run([*git, "init", "--quiet"], check=True, timeout=30)
    body = made(spec(repository="https://y/z.git", workspace="ws-1"))
    assert manifest.ENVIRONMENT.items() <= variables(body).items()
    assert manifest.ENVIRONMENT.items() <= variables(body, "checkout").items()
    environ = {**os.environ, "GIT_TEST_ASSUME_DIFFERENT_OWNER": "1", **(manifest.ENVIRONMENT if told else {}), "HOME": str(tmp_path)}
    done = subprocess.run([*git, "status"], env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode == 0) is told
    assert ("dubious ownership" in done.stderr) is not told


def test_a_shared_workspace_is_a_claim() -> None:
    """Of the workspace's name; where there are no claims, a worker that can do without has a directory of its own."""
    wanted = spec(workspace="ws-1")
    shared = {"name": "otto-workspace", "persistentVolumeClaim": {"claimName": "ws-1"}}
    assert shared in made(wanted, workspaces=True)["spec"]["volumes"]
    assert shared not in made(wanted)["spec"]["volumes"]


def test_times_are_the_clusters_business_too() -> None:
    """The grace is the pod's; its deadline covers the timeout and the longest wait, for when nobody watches."""
    body = made(spec(timeout=29.5, stop_grace=0.5), pending_timeout=300.0)["spec"]
    assert (body["terminationGracePeriodSeconds"], body["activeDeadlineSeconds"]) == (1, 330)
    assert made(spec(timeout=1e12))["spec"]["activeDeadlineSeconds"] == 2**31 - 1


def test_what_is_asked_for_is_reserved() -> None:
    """Resources of the spec are request and limit; what was not asked for stays the default."""
    resources = container(made(spec(cpu_cores=0.5, memory_bytes=2**30)))["resources"]
    assert resources == {"requests": {"cpu": "500m", "memory": "1073741824"}, "limits": {"cpu": "500m", "memory": "1073741824"}}
    assert container(made(spec(cpu_cores=0.0001)))["resources"]["limits"] == {"cpu": "1m", "memory": "2Gi"}


def test_a_held_pod_has_our_gate() -> None:
    """Beside those of the template."""
    plan = with_template("spec: {schedulingGates: [{name: example.com/quota}]}")
    assert manifest.pod(spec(), plan, held=True)["spec"]["schedulingGates"] == [
        {"name": "example.com/quota"},
        {"name": "ottoscaler.io/admission"},
    ]
    assert "schedulingGates" not in made(spec())["spec"]


def test_owner_priority_and_service_account_are_handed_on() -> None:
    """Only a worker that asks for a service account gets its token."""
    body = made(
        spec(owner=Owner("ottoscaler.io/v1alpha1", "PipelineRun", "run", "8c1e"), priority_class="high", service_account="deployer")
    )
    assert body["metadata"]["ownerReferences"] == [
        {"apiVersion": "ottoscaler.io/v1alpha1", "kind": "PipelineRun", "name": "run", "uid": "8c1e", "controller": True}
    ]
    assert (body["spec"]["priorityClassName"], body["spec"]["serviceAccountName"]) == ("high", "deployer")
    assert body["spec"]["automountServiceAccountToken"] is True
    assert "ownerReferences" not in made(spec())["metadata"]


def test_extra_containers_end_with_the_worker() -> None:
    """They are sidecars, started before it and after its checkout, in the same workspace."""
    extra = ExtraContainer("db", "postgres:17", ("postgres",), ("-N", "10"), {"A": "b"}, 0.25, 2**28)
    body = made(spec(repository="https://git.example.com/a.git", extra_containers=(extra,)))
    assert [one["name"] for one in body["spec"]["initContainers"]] == ["checkout", "db"]
    sidecar = container(body, "db")
    assert (sidecar["restartPolicy"], sidecar["command"], sidecar["args"]) == ("Always", ["postgres"], ["-N", "10"])
    assert sidecar["resources"]["limits"] == {"cpu": "250m", "memory": "268435456"}


def test_a_checkout_gets_no_text_to_run() -> None:
    """Its command is the same for every worker; what was asked for comes in variables, secrets too, as Git may need them."""
    secret = SecretVariable("GIT_TOKEN", "git", "token")
    hostile = spec(repository="https://x/$(touch /tmp/a)`b`;c", commit="--upload-pack=x", secrets=(secret,), env={"OTTO_REPOSITORY": "r"})
    first, second = made(hostile), made(spec(repository="https://y/z.git"), checkout_image="git:2")
    assert container(first, "checkout")["command"] == container(second, "checkout")["command"]
    assert variables(first, "checkout")["GIT_TOKEN"] == {"secretKeyRef": {"name": "git", "key": "token"}}
    assert container(first, "checkout")["image"] == PLAN.template.image
    assert container(second, "checkout")["image"] == "git:2"
    assert "initContainers" not in made(spec())["spec"]


TEMPLATE = """
metadata:
  labels: {team: build}
  annotations: {example.com/a: b}
spec:
  nodeSelector: {disk: fast}
  imagePullSecrets: [{name: pull}]
  tolerations: [{key: ci, operator: Exists}, {key: node.kubernetes.io/unreachable, operator: Exists, tolerationSeconds: 5}]
  securityContext: {fsGroup: 2000}
  volumes: [{name: cache, emptyDir: {}}, {name: otto-workspace, ephemeral: {}}]
  containers:
  - name: worker
    image: tools:2
    imagePullPolicy: Always
    resources: {limits: {memory: 8Gi}}
    securityContext: {readOnlyRootFilesystem: true}
    volumeMounts: [{name: cache, mountPath: /cache}]
    env: [{name: HOME, value: /cache}, {name: PROXY, value: "$(NODE)"}, {name: OTTO_TASK_ID, value: no}]
  - {name: proxy, image: proxy:1}
  initContainers: [{name: prepare, image: tools:2}]
"""


def test_a_template_is_laid_under_every_pod() -> None:
    """Over our defaults and under the spec: mappings are merged, lists by name, its other containers become sidecars."""
    plan = with_template(TEMPLATE)
    body = manifest.pod(spec(env={"OTTO_TASK_ID": "task"}, repository="https://y/z.git"), plan, held=False)
    assert (body["metadata"]["labels"]["team"], body["metadata"]["annotations"]["example.com/a"]) == ("build", "b")
    pod_spec = body["spec"]
    assert (pod_spec["nodeSelector"], pod_spec["imagePullSecrets"]) == ({"disk": "fast"}, [{"name": "pull"}])
    assert (pod_spec["securityContext"]["fsGroup"], pod_spec["securityContext"]["runAsNonRoot"]) == (2000, True)
    seconds = {one["key"]: one.get("tolerationSeconds") for one in pod_spec["tolerations"]}
    assert seconds == {"ci": None, "node.kubernetes.io/unreachable": 5, "node.kubernetes.io/not-ready": 60}
    assert {"name": "otto-workspace", "ephemeral": {}} in pod_spec["volumes"]
    own = container(body)
    assert (own["image"], own["imagePullPolicy"], own["resources"]) == ("tools:2", "Always", {"limits": {"memory": "8Gi"}})
    assert own["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
    assert [one["mountPath"] for one in own["volumeMounts"]] == ["/workspace", "/otto-home", "/cache"]
    told = variables(body)
    assert (told["HOME"], told["PROXY"], told["OTTO_TASK_ID"]) == ("/cache", "$(NODE)", "task")
    assert [(one["name"], one.get("restartPolicy")) for one in pod_spec["initContainers"]] == [
        ("prepare", None),
        ("proxy", "Always"),
        ("checkout", None),
    ]


BAD_TEMPLATES = {
    "metadata: [a]": "metadata has to be a mapping, and is a list",
    "containers: []": "the template has no 'containers'; it may have apiVersion, kind, metadata, spec",
    "metadata: {labels: {a: 1}}": "metadata.labels.a has to be a text (in quotes), and is a number",
    "metadata: {labels: {ottoscaler.io/instance: x}}": "metadata: ottoscaler.io/instance is set by Ottoscaler itself",
    "spec: {restartPolicy: Always}": "spec.restartPolicy is set by Ottoscaler itself, for each worker",
    "spec: {containers: [{image: a}]}": "spec.containers[0] has no name",
    "spec: {containers: [{name: worker, command: [a]}]}": "the container worker.command is set by Ottoscaler itself, for each worker",
    "spec: {initContainers: [{name: checkout}]}": "spec.initContainers: the name checkout is taken by Ottoscaler itself",
    "spec: {containers: [{name: worker, env: [{value: a}]}]}": "the container worker.env[0] has no name",
    "spec: {volumes: {a: b}}": "spec.volumes has to be a list, and is a mapping",
    "a: [": "is neither YAML nor JSON",
}


@pytest.mark.parametrize(("text", "words"), BAD_TEMPLATES.items())
def test_a_bad_template_is_refused_by_its_field(text: str, words: str, tmp_path: Path) -> None:
    """The setting, the file, the field and what is wrong with it."""
    path = tmp_path / "template.yaml"
    path.write_text(text)
    with pytest.raises(BackendUnusableError, match=re.escape(words)) as raised:
        template.load(str(path))
    assert str(raised.value).startswith(f"OTTO_SCALER_WORKER_TEMPLATE: {path}")


def test_a_template_that_is_not_there_is_said(tmp_path: Path) -> None:
    """With its path; none at all is no trouble."""
    with pytest.raises(BackendUnusableError, match="can't be read: No such file"):
        template.load(str(tmp_path / "nope"))
    assert template.load("") == WorkerTemplate()


PROBLEMS = {
    "image": spec(),
    "workspace": spec(image="a", workspace="ws"),
    "labels['app.kubernetes.io/component']": spec(image="a", labels={"app.kubernetes.io/component": "web"}),
    "priority_class_name": spec(image="a", priority_class="High Priority"),
    "service_account_name": spec(image="a", service_account="a_b"),
    "secret_env": spec(image="a", secrets=(SecretVariable("A", "My_Secret", "key"),)),
    "extra_containers[0].name": spec(image="a", extra_containers=(ExtraContainer("worker", "a"),)),
    "extra_containers[1].name": spec(image="a", extra_containers=(ExtraContainer("db", "a"), ExtraContainer("db", "b"))),
    "extra_containers[0].image": spec(image="a", extra_containers=(ExtraContainer("db"),)),
}


@pytest.mark.parametrize(("field", "wanted"), PROBLEMS.items(), ids=PROBLEMS.keys())
def test_what_the_cluster_can_not_do_is_said_before_it_is_asked(field: str, wanted: WorkerSpec) -> None:
    """By the field that asks for it."""
    bare = Plan("ottoscaler", WorkerTemplate(), pending_timeout=300.0)
    assert [name for name, _ in manifest.problems(wanted, bare)] == [field]


def test_a_worker_that_needs_no_workspace_is_taken_without_a_storage_class() -> None:
    """It says that it can do without one."""
    bare = Plan("ottoscaler", WorkerTemplate(), pending_timeout=300.0)
    assert list(manifest.problems(spec(image="a", workspace="ws", workspace_optional=True), bare)) == []


@pytest.mark.parametrize(
    ("optional", "unshared", "claimed"), [(True, True, False), (True, False, True), (False, True, True)], ids=["alone", "shared", "needed"]
)
def test_nobody_gets_a_claim_who_works_alone_and_needs_none(*, optional: bool, unshared: bool, claimed: bool) -> None:
    """A storage class is there, and a run of one stage that asked for nothing costs no volume all the same."""
    plan = Plan("ottoscaler", WorkerTemplate(), pending_timeout=300.0, workspaces=True)
    body = manifest.pod(spec(image="a", workspace="ws", workspace_optional=optional, workspace_unshared=unshared), plan, held=False)
    [volume] = [volume for volume in body["spec"]["volumes"] if volume["name"] == manifest.WORKSPACE_VOLUME]
    assert volume.get("persistentVolumeClaim") == ({"claimName": "ws"} if claimed else None)
    assert ("emptyDir" in volume) is not claimed
