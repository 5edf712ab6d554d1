"""The images that can't be pulled: Debian with Python, Kubernetes's own, and the node that holds them all."""

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from testcluster import archives, programs
from testcluster.archives import Image
from testcluster.parts import part
from testcluster.steps import ClusterError, run

NODE = Path(__file__).with_name("node")
SUITE = "bookworm"
BASE = "ottoscaler-base:latest"  # what base() is called in an engine and in the cluster
NODE_IMAGE = "ottoscaler-node:latest"
HELPER = "docker.io/library/ottoscaler-base:latest"  # the same, as containerd says it
STORAGE = "docker.io/library/local-path-provisioner:latest"
PYTHON_PACKAGES = ["python3", "python3-venv", "ca-certificates"]
# What nobody reads in a container is a third of its files.
UNREAD = [f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("doc", "info", "locale", "man")]
# The essential packages want `usrmerge`, which brings all of Perl, 49 MB, or what says that nothing is left for it to do.
PREFERENCE = '"$1/etc/apt/preferences.d/usrmerge"'
MERGED = [
    "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
    f'--setup-hook=printf "Package: usrmerge\\nPin: release *\\nPin-Priority: -1\\n" >{PREFERENCE}',
    f"--customize-hook=rm {PREFERENCE}",
]
PROXY_PACKAGES = ["nftables", "iptables", "conntrack", "kmod"]
NODE_PACKAGES = [
    *("systemd", "systemd-sysv", "dbus", "conntrack", "iptables", "nftables", "iproute2", "ethtool", "util-linux", "mount", "kmod"),
    *("libseccomp2", "pigz", "ca-certificates", "curl", "jq", "procps", "findutils", "e2fsprogs", "containernetworking-plugins"),
]


def base() -> Path:
    """An image archive with Debian and Python: the Dockerfile's `BASE` where none can be pulled, and what the cluster's tests run in."""
    return _base() / "base.tar"


def _base() -> Path:
    def make(target: Path) -> None:
        rootfs = debian(target / "rootfs.tar", "minbase", PYTHON_PACKAGES, *MERGED)
        archives.write(target / "base.tar", [Image([BASE], [rootfs], {"Cmd": ["python3"]})])

    return part("base", [SUITE, *PYTHON_PACKAGES, *UNREAD, *MERGED, BASE, Path(archives.__file__)], make)


def node() -> Path:
    """An image archive with the node of a cluster, called NODE_IMAGE."""
    recipe = [Path(__file__), Path(archives.__file__)]
    ingredients: list[str | Path] = [NODE, *recipe, *map(str, _made())]
    return part("node", ingredients, _make_node) / "node.tar"


def _made() -> Sequence[Path]:
    """All parts that a node is made of: their paths bear the keys of their content."""
    cluster = [programs.kubernetes(), programs.coredns(), programs.storage(), programs.pause()]
    return [*cluster, programs.containerd(), programs.runc(), programs.kind(), base()]


def _make_node(target: Path) -> None:
    kind = programs.kind_sources()
    gathered = target / "programs"
    gathered.mkdir()
    for program in (*programs.containerd().iterdir(), programs.runc(), programs.kubernetes()):
        (gathered / program.name).symlink_to(program)
    storage = target / "storage.yaml"
    storage.write_text(_storage_manifest(kind))
    images = _cluster_images(target, kind)
    given = map(str, [kind / "images/base/files", gathered, images, storage, programs.kubernetes_version()])
    furnish = f'{shlex.quote(str(NODE / "furnish"))} "$1" {shlex.join(given)}'  # mmdebstrap says as $1 where the root is
    rootfs = debian(target / "rootfs.tar", "minbase", NODE_PACKAGES, f"--customize-hook={furnish}")
    images.unlink()
    shutil.rmtree(gathered)
    config = {
        "Env": [archives.PATH, "container=docker"],
        "Entrypoint": ["/usr/local/bin/entrypoint", "/sbin/init"],
        "StopSignal": "SIGRTMIN+3",
    }
    archives.write(target / "node.tar", [Image([NODE_IMAGE], [rootfs], config)])
    rootfs.unlink()


def _cluster_images(target: Path, kind: Path) -> Path:
    """The images of all pods that a new cluster starts, under the names that kubeadm, containerd and Kind's manifests look for."""
    version = programs.kubernetes_version()
    names = run([programs.kubernetes(), "kubeadm", "config", "images", "list", "--kubernetes-version", version]).split()
    sandbox = re.search(r'sandbox_image = "(\S+)"', (kind / "images/base/files/etc/containerd/config.toml").read_text())
    if sandbox is None:
        raise ClusterError("Kind's configuration of containerd names no sandbox image")

    def called(*words: str) -> list[str]:
        found = [name for name in names if any(f"/{word}:" in name for word in words)]
        if len(found) != len(words):
            raise ClusterError(f"kubeadm lists {found} for {words}")
        return found

    proxy_base = debian(target / "proxy.tar", "extract", PROXY_PACKAGES)
    servers = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")
    links = {f"usr/local/bin/{name}": "kubernetes" for name in (*servers, "kube-proxy")}
    kubernetes = archives.layer(target / "kubernetes.tar", {"usr/local/bin/kubernetes": programs.kubernetes(), **links})
    coredns = archives.layer(target / "coredns.tar", {"coredns": programs.coredns()})
    pause = archives.layer(target / "pause.tar", {"pause": programs.pause()})
    storage = archives.layer(target / "storage.tar", {"usr/local/bin/local-path-provisioner": programs.storage()})
    everything = [
        Image(called(*servers[:3]) + called("etcd"), [kubernetes]),
        Image(called("kube-proxy"), [proxy_base, kubernetes]),
        Image(called("coredns/coredns"), [coredns], {"Entrypoint": ["/coredns"]}),
        Image([*{*called("pause"), sandbox[1]}], [pause], {"Entrypoint": ["/pause"]}),
        Image([STORAGE], [storage]),
        Image([HELPER], [_base() / "rootfs.tar"], {"Cmd": ["python3"]}),
    ]
    archive = archives.write(target / "images.tar", everything)
    for file in (proxy_base, kubernetes, coredns, pause, storage):
        file.unlink()
    return archive


def _storage_manifest(kind: Path) -> str:
    """Kind's own manifest of the class `standard`, with the images that are made here."""
    source = (kind / "pkg/build/nodeimage/const_storage.go").read_text()
    found = re.search(r"const defaultStorageManifest = `(.*)`", source, re.DOTALL)
    if found is None:
        raise ClusterError("Kind's sources hold no manifest of the default storage class")
    return found[1].replace("` + storageProvisionerImage + `", STORAGE).replace("` + storageHelperImage + `", HELPER)


def debian(target: Path, variant: str, packages: Sequence[str], *options: str) -> Path:
    """A Debian root file system as a tar file; whatever is mounted for it vanishes with its making, also with one that is killed."""
    apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    include = f"--include={','.join(packages)}"
    made = ["mmdebstrap", "--quiet", f"--variant={variant}", "--format=tar", include, *UNREAD, *options, SUITE, str(target)]
    run([*apart, *made], env={"TMPDIR": str(target.parent)})
    return target
