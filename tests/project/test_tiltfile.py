"""The Tiltfile, run as what it also is, Python, with Tilt's own functions writing down what they are asked for; its helm is real."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import yaml

from ..chart.rendering import BIN

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SERVICES = {"scaler", "pipeline-executor", "log-relay"}


class FailedError(Exception):
    """The Tiltfile's own `fail`."""


@dataclass
class Tilt:
    """What a Tiltfile has asked for."""

    directory: Path
    context: str = "kind-mine"
    settings: dict[str, Any] = field(default_factory=dict)
    objects: list[dict[str, Any]] = field(default_factory=list)
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By the name it has in Tilt; with `workload` those of the cluster, with `cmd` those of this machine."""

    def run(self) -> "Tilt":
        """Runs it in a directory that is like a checkout with images. Raises FailedError."""

        def local(command: list[str], **_: Any) -> str:
            words = [str(BIN / command[0]), *command[1:]]
            done = subprocess.run(words, cwd=self.directory, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, done.stderr
            return done.stdout

        def fail(words: str) -> NoReturn:
            raise FailedError(words)

        def k8s_resource(workload: str, new_name: str, **options: Any) -> None:
            self.resources[new_name] = {"workload": workload, **options}

        def local_resource(name: str, cmd: str, **options: Any) -> None:
            self.resources[name] = {"cmd": cmd, **options}

        def nothing(*_: Any, **__: Any) -> None:
            pass

        known = {
            "config": SimpleNamespace(
                define_string=nothing, define_string_list=nothing, set_enabled_resources=nothing, parse=lambda: self.settings
            ),
            "custom_build": lambda ref, command, **options: self.images.update({ref: {"command": command, **options}}),
            "decode_yaml_stream": lambda text: [each for each in yaml.safe_load_all(text) if each],
            "encode_yaml": lambda each: [each],
            "encode_yaml_stream": list,
            "fail": fail,
            "fall_back_on": lambda files: ("fall_back_on", files),
            "k8s_context": lambda: self.context,
            "k8s_resource": k8s_resource,
            "k8s_yaml": self.objects.extend,
            "local": local,
            "local_resource": local_resource,
            "os": SimpleNamespace(path=SimpleNamespace(exists=lambda path: (self.directory / path).exists())),
            "port_forward": lambda *ports: ports,
            "sync": lambda source, target: (source, target),
            "TRIGGER_MODE_MANUAL": "manual",
            "watch_file": nothing,
        }
        exec(compile((ROOT / "Tiltfile").read_text(), "Tiltfile", "exec"), known)
        return self

    def group(self, label: str) -> set[str]:
        """The resources that Tilt shows below this heading."""
        return {name for name, options in self.resources.items() if options["labels"] == [label]}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """With the chart, and images as `make tilt` makes them before it starts Tilt."""
    (tmp_path / "charts").symlink_to(ROOT / "charts")
    images = tmp_path / ".cache/images"
    images.mkdir(parents=True)
    (images / "values.yaml").write_text("frontDoor: {image: {repository: localhost/ottoscaler/front-door, tag: a}}\n")
    (images / "workshop.yaml").write_text("workers: {image: localhost/ottoscaler/workshop:a}\n")
    return tmp_path


def test_what_there_is_stands_in_groups(checkout: Path) -> None:
    """Services, front door, tests and demo pipelines; what runs at once, and what when somebody asks."""
    tilt = Tilt(checkout).run()
    tests, demos = {"doctor", "lint", "types", "test-quick"}, {"run hello", "run this repository"}
    assert tilt.group("services") == SERVICES
    assert tilt.group("front-door") == {"front-door"}
    assert tilt.group("tests") == tests
    assert tilt.group("demo-pipelines") == demos
    assert set(tilt.resources) == SERVICES | {"front-door"} | tests | demos
    asked = {name for name, options in tilt.resources.items() if options.get("trigger_mode") == "manual" and not options["auto_init"]}
    assert asked == (tests | demos) - {"doctor"}


def test_the_doctor_looks_once_all_is_ready(checkout: Path) -> None:
    """At the address to which the front door is forwarded; without a port there is no such address, and nobody who would look."""
    resources = Tilt(checkout, settings={"port": "9191", "namespace": "mine"}).run().resources
    doctor = resources["doctor"]
    assert "ottoctl doctor && exit 0" in doctor["cmd"]  # again after a while
    assert doctor["cmd"].endswith("; ottoctl doctor")
    assert doctor["env"] == {"OTTO_ADDRESS": "127.0.0.1:9191", "NAMESPACE": "mine"}
    assert set(doctor["resource_deps"]) == SERVICES | {"front-door"}
    assert resources["front-door"]["port_forwards"] == [(9191, 9090)]
    without = Tilt(checkout, settings={"port": "0"}).run().resources
    assert without["front-door"]["port_forwards"] == []
    assert set(without) == SERVICES | {"front-door", "lint", "types", "test-quick"}


def test_what_runs_here_is_there(checkout: Path) -> None:
    """Each command is a target of the Makefile, a file of this repository, or a command of ottoctl with its files."""
    for name, options in Tilt(checkout).run().resources.items():
        # the doctor comes again and again; its last words are the command
        match options.get("cmd", "").rpartition("; ")[2].split():
            case []:
                assert options["workload"], name
            case ["make", target]:
                assert f"\n{target}: " in (ROOT / "Makefile").read_text(), name
            case ["ottoctl", *words]:
                assert subprocess.run([BIN / "ottoctl", *words, "--help"], check=False, capture_output=True, timeout=60).returncode == 0, (
                    name
                )
                assert all((ROOT / word).is_file() for word in words if "/" in word), name
            case [program]:
                assert (ROOT / program).stat().st_mode & 0o100, name
            case words:
                pytest.fail(f"{name}: {words}")


def test_what_the_chart_renders_is_what_tilt_follows(checkout: Path) -> None:
    """Each workload is one that there is, in the namespace that was asked for, and runs the image that is built for it."""
    tilt = Tilt(checkout, settings={"namespace": "mine"}).run()
    assert tilt.objects[0] == {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mine"}}
    workloads = {each["metadata"]["name"]: each for each in tilt.objects if each["kind"] in {"Deployment", "StatefulSet"}}
    assert {options["workload"] for options in tilt.resources.values() if "workload" in options} == set(workloads)
    assert {each["metadata"]["namespace"] for each in workloads.values()} == {"mine"}
    for service in SERVICES:
        (container,) = workloads[f"otto-ottoscaler-{service}"]["spec"]["template"]["spec"]["containers"]
        image = container["image"].removesuffix(":dev")
        assert tilt.images[image]["command"] == f'python3 tools/dev_image.py {service} "$EXPECTED_REF" --cluster mine'
        for source, target in tilt.images[image]["live_update"][1:]:
            assert target == "/opt/otto/code"
            assert (ROOT / source).is_dir()
    assert len(tilt.images) == len(SERVICES)
    kept = [each for each in tilt.objects if each["kind"] == "CustomResourceDefinition"]
    assert [each["metadata"]["annotations"]["tilt.dev/down-policy"] for each in kept] == ["keep"]


@pytest.mark.parametrize("context", ["minikube", "gke_somewhere", "kind-production", "kind-PROD"])
def test_clusters_that_are_somebody_s_are_refused(checkout: Path, context: str) -> None:
    """Any but Kind's, and those whose name speaks of production."""
    with pytest.raises(FailedError, match="this is for Kind clusters"):
        Tilt(checkout, context).run()


def test_without_images_it_says_what_makes_them(tmp_path: Path) -> None:
    """Those that Tilt does not build itself."""
    with pytest.raises(FailedError, match="`make tilt`"):
        Tilt(tmp_path).run()
