"""The cluster itself: Kind's, on whichever engine; with the pods' network where Kind's own can't be had."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from testcluster import clients, engine, programs
from testcluster.parts import part
from testcluster.place import Place
from testcluster.steps import run

# Test pods by the hundred on one machine; what they need to start is in the nodes already. Nodes tell all of their images, of which there
# are soon more than the 50 that a kubelet tells by itself: tools/load-images goes by that. Stdout and stderr come apart when asked for;
# the API server does not ask, as by default: tests/installed/test_streams.py has it do so.
KUBELET = {
    "kind": "KubeletConfiguration",
    "maxPods": 250,
    "serializeImagePulls": False,
    "nodeStatusMaxImages": -1,
    "featureGates": {"PodLogsQuerySplitStreams": True},
}
# On control groups of version 1 a systemd that starts hundreds of containers at once freezes some in the middle of their start, and runc
# fails ("unable to freeze"): there kubelet and containerd make the groups themselves.
OLD_CONTROL_GROUPS = {"failCgroupV1": False, "cgroupDriver": "cgroupfs"}
WITHOUT_SYSTEMD = "\n".join(
    f'[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{handler}.options]\nSystemdCgroup = false'
    for handler in ("runc", "test-handler")
)
# What kubeadm waits for would be there in seconds, unless the machine has much else to do; the whole is bounded by CREATE_SECONDS.
PATIENCE = {
    "timeouts": dict.fromkeys(
        ("kubernetesAPICall", "controlPlaneComponentHealthCheck", "kubeletHealthCheck", "tlsBootstrap", "discovery"), "8m"
    )
}
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"  # a label and a taint of those nodes
CREATE_SECONDS = 600
READY_SECONDS = 180


@dataclass(frozen=True)
class Cluster:
    """A cluster at a place, on an engine of its own (`own`) or on the machine's."""

    place: Place
    own: bool

    @property
    def prefix(self) -> Sequence[str]:
        """What to put before a command that talks to the cluster."""
        return engine.inside(self.place) if self.own else []

    @property
    def environment(self) -> dict[str, str]:
        """What such a command needs in its environment: which cluster, which engine, and kubectl, helm and kind on its PATH."""
        given = os.environ.get("PATH", os.defpath)
        if clients.run_here():
            tools = [str(part("clients", [clients.PIN, Path(clients.__file__)], clients.install))]
        else:
            clients.of_this_machine(given)
            tools = []
        built = [] if shutil.which("kind") and not self.own else [str(programs.kind().parent)]
        path = os.pathsep.join([*tools, *built, given])
        # Where packages can be fetched from: whoever called this waits there, and `nsenter` with this file leads to it.
        outside = os.environ.get("OTTO_OUTSIDE") or f"/proc/{os.getppid()}/ns/net"
        reach = {**engine.docker(self.place), "OTTO_OUTSIDE": outside} if self.own else {}
        return {
            **reach,
            "PYTHONPATH": "",
            "KUBECONFIG": str(self.place.kubeconfig),
            "OTTO_TEST_KUBECONFIG": str(self.place.kubeconfig),
            "PATH": path,
        }

    def run(self, *command: str | Path, text: str | None = None, timeout: float | None = None) -> str:
        """What a command printed that talks to the cluster or its engine."""
        environment = self.environment
        # Found on the PATH of the environment, where subprocess would look on our own.
        return run([*self.prefix, "env", *command], env=environment, text=text, timeout=timeout)

    def become(self, command: Sequence[str]) -> None:
        """Turn this process into a command that talks to the cluster."""
        words = [*self.prefix, "env", *command]
        os.execvpe(words[0], words, {**os.environ, **self.environment})  # noqa: S606 - the words are the caller's, and no shell reads them

    def stands(self) -> bool:
        """Whether its engine answers and has nodes of it, whatever these do."""
        if not self.place.kubeconfig.exists() or (self.own and not engine.answers(self.place)):
            return False
        return bool(self.nodes())

    def answers(self) -> bool:
        """Whether the API server is there and says that it is ready."""
        if not self.stands():
            return False
        probe = [*self.prefix, "env", "kubectl", "--request-timeout=10s", "get", "--raw", "/readyz"]
        return subprocess.run(probe, env={**os.environ, **self.environment}, capture_output=True, check=False).returncode == 0

    def nodes(self) -> list[str]:
        """The names of its nodes, which are those of their containers; none if it is not there."""
        return self.run("kind", "get", "nodes", "--name", self.place.name).split()


def create(cluster: Cluster, nodes: int, image: str | None) -> None:
    """Create the cluster and wait until its nodes take pods; `image` is the nodes', or None for Kind's own, which is pulled."""
    old = cluster.run("docker", "info", "--format", "{{.CgroupVersion}}").strip() == "1"
    configuration = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "networking": {"ipFamily": "ipv4", **({"disableDefaultCNI": True, "kubeProxyMode": "nftables"} if image else {})},
        "kubeadmConfigPatches": [
            json.dumps(KUBELET | (OLD_CONTROL_GROUPS if old else {})),
            *(json.dumps({"kind": kind} | PATIENCE) for kind in ("InitConfiguration", "JoinConfiguration")),
        ],
        "containerdConfigPatches": [WITHOUT_SYSTEMD] if old else [],
        "nodes": [{"role": "control-plane"}, *[{"role": "worker"}] * (nodes - 1)],
    }
    options = ["--name", cluster.place.name, "--kubeconfig", str(cluster.place.kubeconfig), *(["--image", image] if image else [])]
    cluster.run("kind", "create", "cluster", "--quiet", "--config", "-", *options, text=json.dumps(configuration), timeout=CREATE_SECONDS)
    if nodes > 1:  # a test that takes one node away needs another that takes pods
        cluster.run("kubectl", "taint", "nodes", f"--selector={CONTROL_PLANE}", f"{CONTROL_PLANE}-")


def connect_pods(cluster: Cluster) -> None:
    """Give every node's pods their network, and the other nodes and whoever is inside the namespace the way there. May be repeated: a node
    that has left and joined again may have another network.
    """
    limit = f"--timeout={READY_SECONDS}s"
    nodes = [f"node/{name}" for name in cluster.nodes()]
    cluster.run("kubectl", "wait", "--for=create", *nodes, limit)  # one may join after Kind has ended
    cluster.run("kubectl", "wait", "--for=jsonpath={.spec.podCIDR}", *nodes, limit)
    listed = json.loads(cluster.run("kubectl", "get", "nodes", "--output=json"))["items"]
    pods = {node["metadata"]["name"]: node["spec"]["podCIDR"] for node in listed}
    addresses = {
        node["metadata"]["name"]: next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP") for node in listed
    }
    everybody = json.loads(cluster.run("kubectl", "get", "configmap", "kubeadm-config", "--namespace=kube-system", "--output=json"))
    everywhere = next(
        line.split()[1] for line in everybody["data"]["ClusterConfiguration"].splitlines() if line.strip().startswith("podSubnet:")
    )
    for name, own in pods.items():
        others = [f"{pods[other]} {addresses[other]}" for other in pods if other != name]
        routes = "\n".join([f"{own} {everywhere}", *others, ""])
        # Pods that were started again before this have made the bridge of the network that the node had.
        gateway = next(ip_network(own).hosts())
        renewed = f"ip -oneline address show dev pods | grep -q ' {gateway}/' || ip link delete pods"
        script = f"cat >/etc/pod-routes && pod-routes && if [ -e /sys/class/net/pods ]; then {renewed}; fi"
        cluster.run("docker", "exec", "--interactive", name, "sh", "-c", script, text=routes)
        cluster.run("ip", "route", "replace", own, "via", addresses[name])


def wait_until_ready(cluster: Cluster) -> None:
    """Wait until all nodes are ready, names are resolved, and the default storage class has its provisioner."""
    limit = f"--timeout={READY_SECONDS}s"
    cluster.run("kubectl", "wait", "--for=condition=Ready", "nodes", "--all", limit)
    cluster.run("kubectl", "rollout", "status", "deployment/coredns", "--namespace=kube-system", limit)
    cluster.run("kubectl", "rollout", "status", "deployment/local-path-provisioner", "--namespace=local-path-storage", limit)
