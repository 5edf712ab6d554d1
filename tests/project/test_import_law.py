"""The import law is kept: each contract of .importlinter notices what it forbids."""

import ast
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("libs/*/src"), *ROOT.glob("services/*/src")])
VIOLATIONS = {
    ("otto_scaler.fleet", "otto_executor.run"): "order",
    ("otto_relay.registry", "otto_standalone.state"): "order",
    ("ottoctl.render", "otto_scaler.worker"): "order",
    ("otto_options.options", "otto_runtime.addresses"): "order",
    ("otto_kubekit.watching", "otto_runtime.tasks"): "order",
    ("otto_kubekit.kinds", "ottoscaler.v1"): "runtime-knows-no-messages",
    ("otto_runtime.tasks", "ottoscaler.v1.log_pb2"): "runtime-knows-no-messages",
    ("ottoctl.live", "otto_options.options"): "ottoctl-alone",
    ("otto_scaler.worker", "grpc"): "grpc",
    ("otto_executor.run", "grpc.aio"): "grpc",
    ("otto_options.quantities", "grpc"): "grpc",
    ("otto_relay.spool", "grpc_health.v1"): "grpc",
    ("otto_executor.attempt", "ottoscaler.v1.stage_pb2"): "messages",
    ("otto_relay.masking", "ottoscaler.v1"): "messages",
    ("otto_scaler.admission", "google.protobuf.duration_pb2"): "messages",
    ("otto_executor.retry", "msgspec"): "msgspec",
    ("otto_scaler.fleet", "kubernetes"): "kubernetes",
    ("otto_kubekit.client", "kubernetes.aio"): "kubernetes",
    ("otto_kubekit.watching", "aiohttp"): "http",
    ("otto_scaler.fleet", "otto_kubekit.client"): "kubekit",
    ("otto_scaler.backends.kubernetes.backend", "yaml"): "people",
    ("otto_scaler.picture", "opentelemetry.trace"): "opentelemetry",
    ("otto_runtime.addresses", "opentelemetry"): "opentelemetry",
    ("otto_relay.lanes", "structlog"): "telemetry",
    ("otto_executor.graph", "prometheus_client"): "telemetry",
    ("otto_executor.progress", "yaml"): "people",
    ("otto_scaler.watching", "rich.table"): "people",
    ("otto_executor.stage", "otto_runtime.settings"): "runtime",
    ("otto_relay.retention", "otto_runtime.calls"): "runtime",
    ("otto_executor.conductor", "otto_executor.translate"): "edges",
    ("otto_scaler.fleet", "otto_scaler.service"): "edges",
    ("otto_relay.spool", "otto_relay.app"): "edges",
    ("otto_executor.app", "otto_executor.testing.fleet"): "doubles-for-tests-only",
    ("otto_relay.service", "otto_relay.testing"): "doubles-for-tests-only",
}


def law() -> ConfigParser:
    parsed = ConfigParser()
    parsed.read(ROOT / ".importlinter")
    return parsed


def names() -> dict[str, str]:
    """Each contract's name by its id."""
    return {section.rsplit(":", 1)[1]: law()[section]["name"] for section in law().sections() if ":contract:" in section}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What lint-imports says under each contract's name about a copy of the sources that breaks all of them."""
    copy = tmp_path_factory.mktemp("law")
    shutil.copy(ROOT / ".importlinter", copy)
    for source in SOURCES:
        shutil.copytree(source, copy / "src", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for module, imported in VIOLATIONS:
        path = copy / "src" / module.replace(".", "/")
        file = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
        file.write_text(file.read_text() + f"\nimport {imported}\n")
    result = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy / "src"), "COLUMNS": "500"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    broken = re.split(r"^(.+)\n-{3,}\n", result.stdout.partition("Broken contracts")[2], flags=re.MULTILINE)
    return dict(zip(broken[1::2], broken[2::2], strict=True))


@pytest.mark.parametrize(("importer", "imported"), VIOLATIONS, ids=lambda name: name)
def test_a_forbidden_import_is_noticed(importer: str, imported: str, report: dict[str, str]) -> None:
    """By the contract that forbids it."""
    contract = VIOLATIONS[importer, imported]
    seen = report.get(names()[contract], "")
    internal = imported.split(".", maxsplit=1)[0] in {source.name for source in (path for root in SOURCES for path in root.iterdir())}
    assert re.search(rf"{re.escape(importer)} -> {re.escape(imported if internal else imported.split('.', maxsplit=1)[0])}\b", seen), seen


def test_every_contract_is_tried() -> None:
    """A new contract comes with an import that breaks it."""
    assert set(VIOLATIONS.values()) == set(names())


def test_every_package_from_outside_is_under_a_contract() -> None:
    """So a domain module can import none of them unnoticed, not even one that is new here."""
    ours = {path.name for root in SOURCES for path in root.iterdir()}
    imported: set[str] = set()
    for source in SOURCES:
        for path in source.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                    imported.add(node.module.split(".")[0])
    outside = imported - ours - set(sys.stdlib_module_names)
    protected = {name for section in law().sections() for name in law()[section].get("protected_modules", "").split()}
    assert {"grpc", "google", "msgspec"} <= outside
    assert outside - protected == set()
