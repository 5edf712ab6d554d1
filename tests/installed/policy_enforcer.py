"""Network policies that are kept while a test runs: where the network of pods is ours, which keeps none, by kube-router on each node."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .cluster_nodes import TOOLS, Node, names
from .installation import said

HOME = "/opt/kube-router"
"""Where it is on nodes meanwhile."""
UNIT = "kube-router"
LONGEST_SECONDS = 3600
"""After which it ends by itself, with all of its rules, where a killed test has left it."""


@contextmanager
def policies_kept() -> Iterator[bool]:
    """Whether it is certain that they are; a network of somebody else's may keep them too. Leaves none of its rules behind."""
    nodes = [node for node in map(Node, names()) if node.has_our_network]
    if not nodes:
        yield False
        return
    files = {file.name: file.read_bytes() for file in _built().iterdir()}
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


def _built() -> Path:
    command = [sys.executable, "-m", "testcluster", "enforcer"]
    return Path(subprocess.run(command, cwd=TOOLS, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


def _start(node: Node, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        write = f"mkdir -p {HOME}; cat >{HOME}/{name}; chmod 700 {HOME}/{name}"
        subprocess.run(["docker", "exec", "--interactive", node.name, "sh", "-c", write], input=content, check=True)
    command = [f"{HOME}/kube-router", f"--kubeconfig={HOME}/kubeconfig", f"--hostname-override={node.name}"]
    unit = [
        *(f"--unit={UNIT}", "--collect", "--quiet", f"--setenv=PATH={HOME}:/usr/sbin:/usr/bin", f"--setenv=LD_LIBRARY_PATH={HOME}"),
        *(f"--property=RuntimeMaxSec={LONGEST_SECONDS}", f"--property=ExecStopPost={' '.join(command)} --cleanup-config"),
    ]
    said("docker", "exec", node.name, "systemd-run", *unit, *command)


def _stop(node: Node) -> str:
    """The names of sets of addresses that are still there when it has ended. Harmless where it does not run."""
    sets = f"[ ! -e {HOME}/ipset ] || LD_LIBRARY_PATH={HOME} {HOME}/ipset list --name"
    return said("docker", "exec", node.name, "sh", "-c", f"systemctl --quiet stop {UNIT} 2>/dev/null; {sets}; rm -rf {HOME}")


def _rules(node: Node) -> set[str]:
    """What decides about packets there."""
    lines = said("docker", "exec", node.name, "iptables-save", "--table", "filter").splitlines()
    return {line for line in lines if line.startswith("-")} | {line.split()[0] for line in lines if line.startswith(":")}
