"""A checkout's cluster from up to down, and what is kept written about it."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from testcluster import engine, images, kind
from testcluster.kind import Cluster
from testcluster.parts import locked
from testcluster.place import Place
from testcluster.steps import ClusterError, step

MOST_NODES = 9
PUBLIC_BASE = "python:3-slim"  # what the base image stands for, where images can be pulled


def up(place: Place, nodes: int | None) -> Cluster:
    """Have the cluster running; one that runs already stays as it is. What a killed run left is removed first.

    Raises:
        ClusterError: A part can't be made or the cluster does not start; or it runs with another number of nodes than asked for.
    """
    if nodes is not None and not 1 <= nodes <= MOST_NODES:
        raise ClusterError(f"NODES={nodes}: a number from 1 to {MOST_NODES} is needed")
    with _alone(place):
        current, whole = _read(place)
        if current is not None and whole and current.answers():
            running = len(current.nodes())
            if nodes not in (None, running):
                raise ClusterError(f"the cluster runs with {running} node(s), not {nodes}: `make cluster-down` first")
            if current.own:
                engine.prepare()
            return current
        cluster = Cluster(place, own=not _engine_answers())
        if cluster.own:
            engine.prepare()
            images.node()  # before anything is started, because it may take long
        _remove(place)
        _write(cluster, whole=False)
        _start(cluster, nodes or 1)
        _write(cluster, whole=True)
        return cluster


def down(place: Place) -> None:
    """Remove the cluster with everything that belongs to it; what is not there needs no removing. What is in the cache stays there."""
    with _alone(place):
        if place.state.exists() or place.namespace.exists():
            with step(f"Removing the cluster {place.name}"):
                _remove(place)
                shutil.rmtree(place.state, ignore_errors=True)


def connect(cluster: Cluster) -> None:
    """Have the nodes reach each other's pods again, after one has left and joined anew, and wait until all of it is ready."""
    if cluster.own:
        kind.connect_pods(cluster)
    kind.wait_until_ready(cluster)


def found(place: Place) -> Cluster:
    """The cluster, which is up; its API server may be away, which whoever looks into that can't be kept out for.

    Raises:
        ClusterError: It is not.
    """
    cluster, whole = _read(place)
    if cluster is None or not whole or not cluster.stands():
        raise ClusterError("no cluster of this checkout is up: `make cluster-up`")
    return cluster


def load_image(cluster: Cluster, name: str) -> None:
    """Make an image of the engine known to all nodes."""
    cluster.run("kind", "load", "docker-image", "--name", cluster.place.name, name)


def load_archive(cluster: Cluster, archive: Path) -> None:
    """Make the images of an archive (`docker save`, or buildah's docker-archive) known to all nodes."""
    if not archive.is_file():
        raise ClusterError(f"ARCHIVE={archive}: no such file")
    cluster.run("kind", "load", "image-archive", "--name", cluster.place.name, archive)


def _start(cluster: Cluster, nodes: int) -> None:
    _ = cluster.environment  # kubectl, helm and kind are fetched and built now
    if cluster.own:
        with step("Starting a Docker engine"):
            engine.start(cluster.place)
        with step("Loading the image of the nodes"):
            cluster.run("docker", "load", "--quiet", "--input", images.node())
    with step(f"Creating the cluster {cluster.place.name} with {nodes} node{'s' if nodes > 1 else ''}"):
        kind.create(cluster, nodes, images.NODE_IMAGE if cluster.own else None)
        if cluster.own:
            kind.connect_pods(cluster)
    with step("Waiting until it is ready"):
        kind.wait_until_ready(cluster)
    if not cluster.own:
        with step(f"Loading {PUBLIC_BASE} as {images.BASE}"):
            cluster.run("docker", "pull", "--quiet", PUBLIC_BASE)
            cluster.run("docker", "tag", PUBLIC_BASE, images.BASE)
            load_image(cluster, images.BASE)


def _engine_answers() -> bool:
    """Whether this machine has a Docker engine that we may use."""
    try:
        return subprocess.run(["docker", "version"], capture_output=True, timeout=30, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


@contextlib.contextmanager
def _alone(place: Place) -> Iterator[None]:
    place.state.parent.mkdir(parents=True, exist_ok=True)
    with locked(place.state.parent / f".{place.name}.lock"):
        yield


def _record(place: Place) -> Path:
    return place.state / "cluster.json"


def _read(place: Place) -> tuple[Cluster | None, bool]:
    """The cluster that was written down here, and whether it was up completely when that was written."""
    try:
        written = json.loads(_record(place).read_text())
        return Cluster(place, own=written["own_engine"]), written["whole"]
    except (FileNotFoundError, ValueError, KeyError):
        return None, False


def _write(cluster: Cluster, *, whole: bool) -> None:
    """Write the cluster down: first before there is anything to be removed, again when it is `whole`."""
    record = _record(cluster.place)
    record.parent.mkdir(parents=True, exist_ok=True)
    new = record.with_suffix(".new")
    new.write_text(json.dumps({"own_engine": cluster.own, "whole": whole}))
    new.replace(record)


def _remove(place: Place) -> None:
    cluster, _ = _read(place)
    if cluster is not None and not cluster.own:
        cluster.run("kind", "delete", "cluster", "--quiet", "--name", place.name, "--kubeconfig", place.kubeconfig)
    elif os.geteuid() == 0:
        engine.remove(place)
    _record(place).unlink(missing_ok=True)
    place.kubeconfig.unlink(missing_ok=True)
