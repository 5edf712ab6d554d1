"""The commands; `make help` shows those for people."""

import argparse
import os
import sys
from pathlib import Path

from testcluster import clients, enforcer, forward, images, life, place, programs
from testcluster.kind import Cluster
from testcluster.steps import ClusterError


def main() -> int:
    """Run one command; what a person can do about a failure is on stderr."""
    given = _arguments()
    here = place.of_this_checkout()
    try:
        match given.command:
            case "clients":
                clients.install(given.directory)
            case "base":
                print(images.base())
            case "kwok":
                print(programs.kwok())
            case "enforcer":
                print(enforcer.directory())
            case "metrics-server":
                print(programs.metrics_server())
            case "prometheus-operator":
                print(programs.prometheus_operator())
            case "contour":
                print(programs.contour())
            case "tilt":
                print(programs.tilt())
            case "up":
                life.up(here, given.nodes)
                print(f"The cluster {here.name} is up; `make cluster-shell` has kubectl, helm and kind for it", file=sys.stderr)
            case "down":
                life.down(here)
            case "status":
                cluster = life.found(here)
                print(_way_in(cluster))
                print(cluster.run("kubectl", "get", "nodes,pods", "--all-namespaces", "--output=wide"), end="")
            case "shell":
                cluster = life.found(here)
                print(f"{_way_in(cluster)}\nLeave it with exit.", file=sys.stderr)
                cluster.become([os.environ.get("SHELL", "/bin/sh")])
            case "connect":
                life.connect(life.found(here))
            case "run":
                life.found(here).become(given.words)
            case "forward":
                forward.forward(life.found(here), given.port, given.namespace, given.selector)
            case "load" if given.archive:
                life.load_archive(life.found(here), given.archive)
            case "load":
                life.load_image(life.found(here), given.image)
    except (ClusterError, clients.NoClientsError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="testcluster", description="This checkout's own Kubernetes cluster.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="have it running")
    up.add_argument("--nodes", type=int, help="how many nodes; 1 if none runs")
    commands.add_parser("down", help="remove it and all that belongs to it")
    commands.add_parser("status", help="how to reach it, its nodes and its pods")
    commands.add_parser("shell", help="a shell with kubectl, helm and kind that reaches it")
    commands.add_parser("connect", help="give a node that has joined again the network of its pods")
    run = commands.add_parser("run", help="run a command that reaches it")
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="command")
    to = commands.add_parser("forward", help="hand what comes to a port of this machine's loopback on to a Service with a node port")
    to.add_argument("port", type=int)
    to.add_argument("--namespace", required=True)
    to.add_argument("--selector", required=True, help="labels of the Service")
    load = commands.add_parser("load", help="make an image known to its nodes").add_mutually_exclusive_group(required=True)
    load.add_argument("--image", help="of its engine")
    load.add_argument("--archive", type=Path, help="a file as docker save writes it")
    commands.add_parser("base", help="print where the archive of the image with Debian and Python is; made if need be")
    commands.add_parser("kwok", help="print where kwok is, which makes nodes and pods that need no machine; built if need be")
    commands.add_parser("enforcer", help="print where the directory is that lets a node keep network policies; built if need be")
    commands.add_parser("metrics-server", help="print where metrics-server is, which tells what pods use; built if need be")
    commands.add_parser(
        "prometheus-operator", help="print where the directory with Prometheus's operator and its kinds is; built if need be"
    )
    commands.add_parser("contour", help="print where the directory with Contour, its kinds and the Gateway API's is; built if need be")
    commands.add_parser("tilt", help="print where the program tilt is; built if need be")
    into = commands.add_parser("clients", help="put kubectl and helm into a directory")
    into.add_argument("directory", type=Path)
    return parser.parse_args()


def _way_in(cluster: Cluster) -> str:
    lines = [f"Cluster    {cluster.place.name}", f"KUBECONFIG {cluster.place.kubeconfig}"]
    if cluster.own:
        lines += [f"Engine     unix://{cluster.place.socket}", f"Namespace  nsenter --net={cluster.place.namespace}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
