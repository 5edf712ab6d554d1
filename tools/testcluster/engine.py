"""A Docker engine of the cluster's own, for machines without one.

It runs in a network namespace without any way out, and in mount and process namespaces of its own: with its first process all its
containers and mounts are gone, whoever killed it and when. What has to be removed by hand is the network namespace, the control groups
and the directory, all called as the place is.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from testcluster import programs
from testcluster.place import LONGEST_SOCKET, Place
from testcluster.steps import ClusterError, run, step

WRAPPER = Path(__file__).with_name("node") / "runc-without-sys-resource"
# What is needed → where Debian has it. runc is built against libseccomp.
PACKAGES = {
    "dockerd": "docker.io",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "jq": "jq",
    "gcc": "gcc libc6-dev",
    "pkg-config": "pkg-config",
    "/usr/include/seccomp.h": "libseccomp-dev",
    "buildah": "buildah",  # builds our images, for which such an engine has no way out
}
CAP_SYS_RESOURCE = 24
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
LEAST_INOTIFY = 1024  # of the whole machine: a node takes some 25, so that the kernel's own 128 end with the fifth
CGROUPS = Path("/sys/fs/cgroup")
START_SECONDS = 60
END_SECONDS = 30


def prepare() -> None:
    """Have the programs that an engine of our own and the making of its images need, from Debian if they are missing.

    Raises:
        ClusterError: They are missing and can't be installed; it names them.
    """
    if os.geteuid() != 0:
        raise ClusterError("no Docker engine answers, and only root can start one: start Docker, or run this as root")
    missing = [package for needed, package in PACKAGES.items() if not (shutil.which(needed) or Path(needed).is_file())]
    if not missing:
        return
    names = " ".join(missing)
    if not shutil.which("apt-get"):
        raise ClusterError(f"no Docker engine answers, and what it takes to start one is missing. Debian's packages are called: {names}")
    with step(f"Installing {names}"):
        run(["apt-get", "-qq", "update"])
        run(["apt-get", "-qq", "install", "-y", "--no-install-recommends", *names.split()], env={"DEBIAN_FRONTEND": "noninteractive"})


def inside(place: Place) -> Sequence[str]:
    """What to put before a command so that it runs where the engine and the cluster can be reached."""
    # Not `ip netns exec`: that mounts another /sys, without the control groups.
    return ["nsenter", f"--net={place.namespace}", "--"]


def docker(place: Place) -> dict[str, str]:
    """The environment that makes Docker's clients talk to this engine."""
    return {"DOCKER_HOST": f"unix://{place.socket}"}


def answers(place: Place) -> bool:
    """Whether the engine is there and answers."""
    if not (place.socket.exists() and place.namespace.exists()):
        return False
    environment = {**os.environ, **docker(place)}
    asked = subprocess.run([*inside(place), "docker", "version"], env=environment, capture_output=True, timeout=30, check=False)
    return asked.returncode == 0


def start(place: Place) -> None:
    """Start the engine, which must not be running, and wait until it answers.

    Raises:
        ClusterError: It ended, or did not answer within a minute; with the end of its log.
    """
    if len(str(place.socket)) > LONGEST_SOCKET:
        raise ClusterError(f"{place.socket} is too long for a socket: set XDG_STATE_HOME to a shorter directory")
    place.engine.mkdir(parents=True)
    _allow_watching()
    runc = programs.runc()
    settings: dict[str, object] = {
        "data-root": str(place.engine / "data"),
        "exec-root": "/run/docker",
        "pidfile": "/run/docker.pid",
        "deprecated-key-path": str(place.engine / "key.json"),
        "hosts": [f"unix://{place.socket}"],
        "cgroup-parent": f"/{place.name}",
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "log-level": "warn",
    }
    if not _may_raise_limits():
        wrapper = place.engine / WRAPPER.name
        wrapper.write_text(WRAPPER.read_text().replace("${RUNC:?}", str(runc)))
        wrapper.chmod(0o755)
        settings |= {"runtimes": {"without": {"path": str(wrapper)}}, "default-runtime": "without"}
    configuration = place.engine / "daemon.json"
    configuration.write_text(json.dumps(settings, indent=1))
    run(["ip", "netns", "add", place.name])
    run([*inside(place), "ip", "link", "set", "lo", "up"])
    # In a /run of its own, which its first process takes along. The record is written by the process that it is about,
    # before it becomes anything else, so that no engine runs unrecorded.
    record = 'echo "$$ $(cut -d " " -f 22 /proc/$$/stat)" >"$1"; shift; exec "$@"'
    apart = ["unshare", "--mount", "--propagation=slave", "--pid", "--fork", "--kill-child", "--mount-proc"]
    first = ["sh", "-c", 'mount -t tmpfs tmpfs /run && exec dockerd --config-file "$0"', str(configuration)]
    log = place.engine / "engine.log"
    with log.open("w") as output:
        command = [*inside(place), "sh", "-c", record, "sh", str(_record(place)), *apart, "--", *first]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True)
    deadline = time.monotonic() + START_SECONDS
    while not answers(place):
        if process.poll() is not None or time.monotonic() > deadline:
            end = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            what = "ended" if process.poll() is not None else "does not answer"
            raise ClusterError(f"the Docker engine {what}; its log {log} ends with\n{end}")
        time.sleep(0.2)


def remove(place: Place) -> None:
    """End the engine with all its containers and remove what it had; what is not there needs no removing.

    Raises:
        ClusterError: Something of it is still there after half a minute; it names what.
    """
    _kill(place)
    if place.namespace.exists():
        run(["ip", "netns", "delete", place.name])
    deadline = time.monotonic() + END_SECONDS
    while left := [group for group in _control_groups(place) if not _removed(group)]:
        if time.monotonic() > deadline:
            raise ClusterError(f"processes of the cluster don't end; they are in {left[0]}")
        time.sleep(0.1)
    place.socket.unlink(missing_ok=True)
    if place.engine.exists():
        shutil.rmtree(place.engine)
    _record(place).unlink(missing_ok=True)


def _record(place: Place) -> Path:
    """Holds the engine's process id and when that began: together they are never given out twice."""
    return place.state / "engine.pid"


def _kill(place: Place) -> None:
    if not _record(place).exists():
        return
    pid, _, began = _record(place).read_text().strip().partition(" ")
    if not pid or _began(pid) != began:
        return
    os.kill(int(pid), 9)  # its child, the first process of its namespace, goes with it (--kill-child), and with that all others
    deadline = time.monotonic() + END_SECONDS
    while _began(pid) == began:
        if time.monotonic() > deadline:
            raise ClusterError(f"the Docker engine, process {pid}, does not end")
        time.sleep(0.05)


def _began(pid: str) -> str:
    """When a process began, in ticks since boot; nothing for one that has ended."""
    try:
        fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _allow_watching() -> None:
    """Where it is too low, raise how many processes of this machine may watch files: a node beyond that does not start."""
    if int(INOTIFY.read_text()) < LEAST_INOTIFY:
        with contextlib.suppress(OSError):  # where it can't be changed there is room for a few nodes at least
            INOTIFY.write_text(str(LEAST_INOTIFY))


def _may_raise_limits() -> bool:
    """Whether this machine's processes can be given CAP_SYS_RESOURCE."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd:"))
    return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)


def _control_groups(place: Place) -> list[Path]:
    """The cluster's control group in each hierarchy; there is one hierarchy (version 2) or several (version 1)."""
    return [group for group in (CGROUPS / place.name, *(top / place.name for top in CGROUPS.iterdir() if top.is_dir())) if group.is_dir()]


def _removed(group: Path) -> bool:
    """Remove a control group with those below it; false while a process is in one of them."""
    for below, _, _ in os.walk(group, topdown=False):
        try:
            Path(below).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
