"""The settings of every service: described for people, and in the README."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from otto_runtime.settings import describe, load

ROOT = Path(__file__).resolve().parents[2]


def tool() -> ModuleType:
    """tools/settings_table.py, which is no package."""
    spec = importlib.util.spec_from_file_location("settings_table", ROOT / "tools" / "settings_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = tool()


def settings_class(where: str) -> type[msgspec.Struct]:
    module, _, name = where.partition(":")
    found: type[msgspec.Struct] = getattr(importlib.import_module(module), name)
    return found


@pytest.mark.parametrize(("title", "where", "prefix"), TOOL.SECTIONS, ids=[title for title, _, _ in TOOL.SECTIONS])
def test_settings_are_frozen_and_described(title: str, where: str, prefix: str) -> None:
    """Every setting has a sentence of its own, and its default is what the variable would give."""
    kind = settings_class(where)
    assert kind.__struct_config__.frozen
    rows = list(describe(kind, prefix))
    assert rows
    assert [row.variable for row in rows if len(row.description) < 10 or row.description[-1] != "."] == []
    assert all(row.variable.startswith(f"{prefix}_") for row in rows)
    assert load(kind, prefix, {row.variable: row.default for row in rows}) == load(kind, prefix, {})


def test_all_settings_classes_have_a_section() -> None:
    """No service's settings are left out of the README."""
    found = {path.parent.name for path in ROOT.glob("services/*/src/*/settings.py")}
    assert found == {where.split(".")[0] for _, where, _ in TOOL.SECTIONS} - {"otto_runtime", "otto_kubekit"}


def test_the_table_is_written_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Writing makes --check pass; a changed table makes it fail; what is around the markers stays; a README without them is refused."""
    readme = tmp_path / "README.md"
    monkeypatch.setattr(TOOL, "README", readme)
    readme.write_text(f"before\n{TOOL.BEGIN}\nold\n{TOOL.END}\nafter\n")
    monkeypatch.setattr(sys, "argv", ["settings_table.py", "--check"])
    assert TOOL.main() == 1
    monkeypatch.setattr(sys, "argv", ["settings_table.py"])
    assert TOOL.main() == 0
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| `OTTO_LISTEN` | `127.0.0.1:9090` |" in text
    monkeypatch.setattr(sys, "argv", ["settings_table.py", "--check"])
    assert TOOL.main() == 0
    readme.write_text(text.replace("127.0.0.1:9090", "0.0.0.0:9090"))
    assert TOOL.main() == 1
    readme.write_text("no markers")
    assert TOOL.main() == 1
    assert "has to hold the lines" in capsys.readouterr().err
