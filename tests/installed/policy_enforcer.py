"""Network policies that are kept while a test runs: where the network of pods is ours, which keeps none, by kube-router on each node."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..outside import built
from .cluster_nodes import Node, names
from .installation import said

HOME = "/opt/kube-router"
"""Where it is on nodes meanwhile."""
UNIT = "kube-router"


@contextmanager
def policies_kept() -> Iterator[bool]:
    """Whether it is certain that they are; a network of somebody else's may keep them too. Leaves none of its rules behind."""
    nodes = [node for node in map(Node, names()) if node.has_our_network]
    if not nodes:
        yield False
        return
    files = {file.name: file.read_bytes() for file in built("enforcer").iterdir()}
    files["kubeconfig"] = said("docker", "exec", names()[0], "cat", "/etc/kubernetes/admin.conf").encode()
    for node in nodes:
        _stop(node)
    before = {node.name: _rules(node) for node in nodes}
    try:
        for node in nodes:
            _start(node, files)
        yield True
    finally:
        sets = [_stop(node) for node in nodes]
    assert not any(sets)
    assert {node.name: _rules(node) for node in nodes} == before


def _start(node: Node, files: Mapping[str, bytes]) -> None:
    node.put(HOME, files)
    command = [f"{HOME}/kube-router", f"--kubeconfig={HOME}/kubeconfig", f"--hostname-override={node.name}"]
    settings = {"PATH": f"{HOME}:/usr/sbin:/usr/bin", "LD_LIBRARY_PATH": HOME}
    node.start(UNIT, *command, settings=settings, after=f"{' '.join(command)} --cleanup-config")


def _stop(node: Node) -> str:
    """The names of sets of addresses that are still there when it has ended. Harmless where it does not run."""
    node.stop(UNIT)
    sets = f"[ ! -e {HOME}/ipset ] || LD_LIBRARY_PATH={HOME} {HOME}/ipset list --name"
    left = said("docker", "exec", node.name, "sh", "-c", sets)
    node.drop(HOME)
    return left


def _rules(node: Node) -> set[str]:
    """What decides about packets there."""
    lines = said("docker", "exec", node.name, "iptables-save", "--table", "filter").splitlines()
    return {line for line in lines if line.startswith("-")} | {line.split()[0] for line in lines if line.startswith(":")}
