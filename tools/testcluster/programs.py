"""The programs that are built here, each from the Go modules that its directory under go/ pins."""

import inspect
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from testcluster.parts import part
from testcluster.steps import ClusterError, run

GO = Path(__file__).with_name("go")
LEAST_GO = (1, 26)
LEAN = "-s -w"  # without symbols and debugging information: a third smaller


def kubernetes() -> Path:
    """One program that is all of Kubernetes, and etcd."""
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitCommit": "none", "gitTreeState": "clean"}
    flags = " ".join([LEAN, *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in stamp.items())])
    return _built("kubernetes", ["."], flags=flags) / "kubernetes"


def kubernetes_version() -> str:
    """As kubeadm knows it: v1.37.2."""
    return required("kubernetes", "k8s.io/kubernetes")


def containerd() -> Path:
    """The directory of containerd, its shim for runc, and ctr."""
    return _built("containerd", ["tool"], tags="no_btrfs,no_devmapper,no_zfs")


def runc() -> Path:
    """What starts containers, in nodes and on machines whose own can't."""
    return _built("runc", ["tool"], tags="seccomp", cgo=True) / "runc"


def kind() -> Path:
    """The program that makes clusters out of containers."""
    return _built("kind", ["tool"]) / "kind"


def kind_sources() -> Path:
    """Kind's own module: what its nodes are made of is taken from there."""
    kind()
    return Path(run(["go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kind"], cwd=GO / "kind", env=_settings(cgo=False)).strip())


def coredns() -> Path:
    """The cluster's name server."""
    return _built("coredns", ["."]) / "coredns"


def storage() -> Path:
    """The provisioner of claims that Kind's clusters have."""
    return _built("storage", ["tool"]) / "local-path-provisioner"


def kwok() -> Path:
    """What makes nodes and pods that need no machine, for benches of many."""
    return _built("kwok", ["tool"]) / "kwok"


def kube_router() -> Path:
    """What keeps the network policies of a node, for tests of them: the network of these clusters' pods keeps none."""
    return _built("kube-router", ["."]) / "kube-router"


def metrics_server() -> Path:
    """What tells what pods use, for tests of it: these clusters are without."""
    return _built("metrics-server", ["tool"]) / "metrics-server"


def prometheus_operator() -> Path:
    """The directory of what makes a Prometheus's configuration of PodMonitors and PrometheusRules, `operator`, and of its kinds, `crds`."""
    module = "github.com/prometheus-operator/prometheus-operator"
    return _with_kinds("prometheus-operator", {module: "example/prometheus-operator-crd/*.yaml"})


def contour() -> Path:
    """The directory of what makes an Envoy's configuration of Gateways and their routes, `contour`, and of its kinds and theirs, `crds`."""
    module = "github.com/projectcontour/contour"
    return _with_kinds("contour", {module: "examples/contour/01-crds.yaml", "sigs.k8s.io/gateway-api": "config/crd/standard/*.yaml"})


def tilt() -> Path:
    """The program that keeps a cluster in step with the files that are worked on.

    Its module comes without web pages, and without any it fetches tools to build them: it gets one that only has a title.
    """

    def make(target: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:  # with the sources of all modules, as those in Go's own cache can't be added to
            for file in (GO / "tilt").iterdir():
                shutil.copy(file, scratch)
            _check_go()
            run(["go", "mod", "vendor"], cwd=Path(scratch), env=_settings(cgo=False))
            page = Path(scratch, "vendor/github.com/tilt-dev/tilt/pkg/assets/build/index.html")
            page.write_text("<!doctype html><title>Tilt</title>The pages are not here; `tilt get uiresources` tells what they would.")
            _build(Path(scratch), target, ["tool"], "-mod=vendor", cgo=True)

    return part("tilt", [GO / "tilt", inspect.getsource(tilt), LEAN], make) / "tilt"


def pause() -> Path:
    """The process that holds a pod's namespaces: waits, and reaps what is left to it."""
    source = Path(__file__).with_name("node") / "pause.c"
    compile_it = ["gcc", "-Os", "-static", str(source), "-o"]

    def make(target: Path) -> None:
        run([*compile_it, target / "pause"])

    return part("pause", [source, *compile_it[:3]], make) / "pause"


def required(directory: str, module: str) -> str:
    """The version of a module that a directory's go.mod requires."""
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", (GO / directory / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise ClusterError(f"{GO / directory / 'go.mod'} requires no {module}")
    return found[1]


def _built(name: str, packages: Sequence[str], *, flags: str = LEAN, tags: str = "", cgo: bool = False) -> Path:
    def make(target: Path) -> None:
        _build(GO / name, target, packages, "-tags", tags, flags=flags, cgo=cgo)

    return part(name, [GO / name, flags, tags, str(cgo)], make)


def _with_kinds(name: str, kinds: Mapping[str, str]) -> Path:
    """A program, and in `crds` the kinds that it knows: files of modules."""

    def make(target: Path) -> None:
        _build(sources, target, ["tool"])
        (target / "crds").mkdir()
        for module, files in kinds.items():
            home = run(["go", "list", "-m", "-f", "{{.Dir}}", module], cwd=sources, env=_settings(cgo=False)).strip()
            for file in Path(home).glob(files):
                shutil.copyfile(file, target / "crds" / file.name)

    sources = GO / name
    return part(name, [sources, *kinds, *kinds.values(), LEAN], make)


def _build(sources: Path, target: Path, packages: Sequence[str], *options: str, flags: str = LEAN, cgo: bool = False) -> None:
    _check_go()
    run(["go", "build", "-trimpath", "-ldflags", flags, *options, "-o", f"{target}/", *packages], cwd=sources, env=_settings(cgo))


def _settings(cgo: bool) -> dict[str, str]:
    return {"CGO_ENABLED": str(int(cgo)), "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


def _check_go() -> None:
    needed = ".".join(map(str, LEAST_GO))
    why = "to build what this machine lacks"
    if not shutil.which("go"):
        instead = "where a Docker engine answers that can pull images, kind on the PATH does as well (for `make tilt`, tilt too)"
        raise ClusterError(f"Go {needed} or later is needed {why}: install it; {instead}")
    found = re.match(r"go(\d+)\.(\d+)", version := run(["go", "env", "GOVERSION"]).strip())
    if found and (int(found[1]), int(found[2])) < LEAST_GO:
        raise ClusterError(f"Go {needed} or later is needed {why}; {shutil.which('go')} is {version}")
