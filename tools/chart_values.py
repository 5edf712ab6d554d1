"""Writes the generated files of the chart; with --check, compares instead of writing.

values.schema.json: charts/ottoscaler/values.schema.yaml, closed, with every setting that the code declares, its bounds and its description.
files/stop.yaml: what a stop takes, of which the chart makes terminationGracePeriodSeconds.
files/dashboard.json: Grafana's dashboard, by dashboard.py.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import yaml
from dashboard import dashboard
from settings_table import SECTIONS

from otto_runtime.server import stop_seconds
from otto_runtime.settings import RuntimeSettings

CHART = Path(__file__).resolve().parents[1] / "charts/ottoscaler"
SOURCE, SCHEMA, STOP = CHART / "values.schema.yaml", CHART / "values.schema.json", CHART / "files/stop.yaml"
DASHBOARD = CHART / "files/dashboard.json"
KINDS = {prefix: where for _, where, prefix in SECTIONS}
CLOSING_SECONDS = 5
"""Beyond the stages of a stop, for closing what the composition roots opened and for the end of the process."""


def settings(prefix: str, without: list[str]) -> dict[str, Any]:
    """The closed schema of the settings under a prefix; one that is null counts as not given."""
    if prefix not in KINDS:
        raise SystemExit(f"{SOURCE.name}: no settings have the prefix {prefix}; settings_table.py knows {', '.join(KINDS)}")
    module, _, name = KINDS[prefix].partition(":")
    kind = getattr(importlib.import_module(module), name)
    hints = get_type_hints(kind, include_extras=True)
    properties = {}
    for field in msgspec.structs.fields(kind):
        if field.name not in without:
            properties[field.name] = _nullable(msgspec.json.schema(hints[field.name], schema_hook=_path))
            if isinstance(field.default, str | int | float | bool | Path):
                properties[field.name]["default"] = str(field.default) if isinstance(field.default, Path) else field.default
    return {"type": "object", "description": f"{prefix}_* variables", "properties": properties, "additionalProperties": False}


def _path(kind: type) -> dict[str, Any]:
    if kind is Path:
        return {"type": "string"}
    raise NotImplementedError(kind)


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


def expanded(node: Any, defs: dict[str, Any]) -> Any:
    """The schema that a node of the source stands for: `settings` and `extends` replaced, objects with properties closed."""
    if isinstance(node, list):
        return [expanded(part, defs) for part in node]
    if not isinstance(node, dict):
        return node
    if "settings" in node and isinstance(node["settings"], str):
        return settings(node["settings"], node.get("without", []))
    if isinstance(base := node.get("extends"), str):
        inherited = defs[base]
        properties = {**_flat(inherited, defs), **node["properties"]}
        node = {**{key: value for key, value in node.items() if key != "extends"}, "properties": properties}
    fresh = {key: expanded(value, defs) for key, value in node.items()}
    if fresh.get("type") == "object" and isinstance(node.get("properties"), dict):
        fresh.setdefault("additionalProperties", False)
    return fresh


def _flat(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    base = node.get("extends")
    return {**(_flat(defs[base], defs) if base else {}), **node["properties"]}


def schema() -> str:
    """The text of values.schema.json."""
    source = yaml.safe_load(SOURCE.read_text())
    defs = source["$defs"]
    fresh = expanded(source, defs)
    for base in ("pod", "service"):  # only ever extended
        del fresh["$defs"][base]
    fresh = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$comment": "Written by `make generate`.", **fresh}
    return json.dumps(fresh, indent=1, ensure_ascii=False) + "\n"


def stop() -> str:
    """The text of files/stop.yaml."""
    defaults = RuntimeSettings()
    return (
        "# Written by `make generate` from otto_runtime.server: what a stop may take, in seconds.\n"
        f"settings: {{drain_delay: {defaults.drain_delay}, stop_grace: {defaults.stop_grace}}}\n"
        "# what its stages take whatever the settings are\n"
        f"fixed: {stop_seconds(defaults) - defaults.drain_delay - defaults.stop_grace}\n"
        "# for closing what is open, beyond the stages\n"
        f"closing: {CLOSING_SECONDS}\n"
    )


def main() -> int:
    """Runs the command; the exit code is 1 when --check found a difference."""
    parser = argparse.ArgumentParser(description="Write the generated files of the chart.")
    parser.add_argument("--check", action="store_true", help="compare with what is committed and write nothing")
    arguments = parser.parse_args()
    for path, text in ((SCHEMA, schema()), (STOP, stop()), (DASHBOARD, dashboard())):
        if not arguments.check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            print(f"{path.relative_to(CHART.parents[1])} is not what the code says: run `make generate`", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
