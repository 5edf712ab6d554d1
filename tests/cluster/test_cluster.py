"""What we build on a cluster's doing, seen on the real one with nothing of ours in between."""

import json
import subprocess

import pytest

from .kubectl import Manifest, Namespace, RefusedError, pod, termination

pytestmark = pytest.mark.cluster

STOPPED_WELL = "trap 'echo stopping; sleep 2; echo stopped; exit 7' TERM; echo started; while :; do sleep 0.1; done"
GREEDY = "python3 -c 'held = bytearray(400 << 20); print(len(held))'"


def claim(name: str) -> Manifest:
    """A claim of the cluster's default class."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def service(name: str, port: int) -> Manifest:
    """A service in front of the pods with the label `app` of its name."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": port}]},
    }


def test_a_restricted_pod_runs_as_nobody_and_can_write_nowhere(namespace: Namespace) -> None:
    """A pod of the restricted profile runs to its end as the user it names, without a capability, and its root can't be written."""
    namespace.create(pod("plain", "id -u; grep CapEff /proc/self/status; touch /somewhere || echo read-only"))
    namespace.ended("plain", "Succeeded")
    said = namespace.logs("plain")
    assert said.splitlines()[0] == "10001"
    assert "CapEff:\t0000000000000000" in said
    assert "read-only" in said.splitlines()  # before or after what is said on stderr


def test_a_pod_beyond_the_restricted_profile_is_refused(namespace: Namespace) -> None:
    """The label on the namespace is kept by the cluster: a pod that may become root is refused with what is wrong with it."""
    rooted = pod("rooted", "true")
    rooted["spec"]["securityContext"]["runAsNonRoot"] = False
    with pytest.raises(RefusedError, match="runAsNonRoot"):
        namespace.create(rooted)


def test_a_deadline_stops_a_pod_gently_and_keeps_its_logs(namespace: Namespace) -> None:
    """A deadline patched onto a running pod is SIGTERM and the grace period; exit code and logs stay, which deleting would cost."""
    namespace.create(pod("stopped", STOPPED_WELL))
    namespace.wait("pod", "stopped", "condition=Ready")
    namespace.kubectl("patch", "pod", "stopped", "--patch", json.dumps({"spec": {"activeDeadlineSeconds": 1}}))
    found = namespace.ended("stopped", "Failed")
    assert found["status"]["reason"] == "DeadlineExceeded"
    assert termination(found)["exitCode"] == 7
    assert namespace.logs("stopped").splitlines() == ["started", "stopping", "stopped"]


def test_memory_beyond_the_limit_is_oom_killed(namespace: Namespace) -> None:
    """The kernel kills what takes more than its limit, and the pod's state says so."""
    namespace.create(pod("greedy", GREEDY, memory="48Mi"))
    ended = termination(namespace.ended("greedy", "Failed"))
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


def test_a_claim_is_bound_writable_for_nobody_and_outlives_its_pod(namespace: Namespace) -> None:
    """A claim of the default class is bound for the pod that uses it, which writes as a user of no rights; the next pod reads it."""
    namespace.create(claim("workspace"), pod("writer", "echo kept >/claim/file", claim="workspace"))
    namespace.ended("writer", "Succeeded")
    assert namespace.get("pvc", "workspace")["status"]["phase"] == "Bound"
    namespace.create(pod("reader", "cat /claim/file", claim="workspace"))
    namespace.ended("reader", "Succeeded")
    assert namespace.logs("reader") == "kept\n"


def test_a_service_is_reached_by_its_name(namespace: Namespace) -> None:
    """Names of services are resolved in pods, and their address leads to a pod behind them."""
    namespace.create(service("files", 8000), pod("files", "cd /etc && exec python3 -m http.server", app="files"))
    namespace.wait("pod", "files", "condition=Ready")
    namespace.create(pod("client", fetch("http://files:8000/hostname")))
    namespace.ended("client", "Succeeded")
    assert namespace.logs("client") == "files\n"


def test_pods_of_different_nodes_reach_each_other(namespace: Namespace) -> None:
    """The nodes' pod networks lead to each other, and keep the address of whom they come from."""
    nodes = namespace.kubectl("get", "nodes", "--output=jsonpath={.items[*].metadata.name}").split()
    if len(nodes) < 2:
        pytest.skip("needs a cluster of two nodes (`make cluster-up NODES=2`)")
    namespace.create(pod("there", "cd /etc && exec python3 -u -m http.server 2>&1", node=nodes[0]))
    there = namespace.wait("pod", "there", "condition=Ready")
    namespace.create(pod("here", fetch(f"http://{there['status']['podIP']}:8000/hostname"), node=nodes[1]))
    here = namespace.ended("here", "Succeeded")
    assert namespace.logs("here") == "there\n"
    assert here["status"]["podIP"] in namespace.logs("there")


def test_a_pod_is_reached_from_where_the_tests_run(namespace: Namespace) -> None:
    """Tests can drive what runs in the cluster by its own address, as something else in the cluster would."""
    namespace.create(pod("files", "cd /etc && exec python3 -m http.server"))
    address = namespace.wait("pod", "files", "condition=Ready")["status"]["podIP"]
    fetched = subprocess.run(
        ["sh", "-c", fetch(f"http://{address}:8000/hostname")], capture_output=True, text=True, timeout=60, check=False
    )
    assert fetched.stdout == "files\n", fetched.stderr


def fetch(url: str) -> str:
    """A script that prints what is at an address, as soon as something listens there."""
    return f"""python3 -c '
import time, urllib.request
until = time.monotonic() + 60
while True:
    try:
        print(urllib.request.urlopen("{url}", timeout=5).read().decode(), end="")
        break
    except OSError:
        if time.monotonic() > until:
            raise
        time.sleep(0.2)
'"""
