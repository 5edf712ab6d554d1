"""Renders every setting into README.md, between its markers, and names and defaults for ottoctl; with --check, only compares.

The text of a setting lives in one place, its field in a service's settings class; the README can't drift from it.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from otto_runtime.settings import describe

README = Path(__file__).resolve().parents[1] / "README.md"
NAMES = README.parent / "libs/ottoctl/src/ottoctl/doctor/settings.txt"
BEGIN, END = "<!-- settings: begin (make generate) -->", "<!-- settings: end -->"
SECTIONS = (
    ("Every service", "otto_runtime.settings:RuntimeSettings", "OTTO"),
    ("Kubernetes", "otto_kubekit.settings:KubeSettings", "OTTO_KUBE"),
    ("Standalone", "otto_standalone.settings:Settings", "OTTO_STANDALONE"),
    ("Scaler", "otto_scaler.settings:Settings", "OTTO_SCALER"),
    ("Pipeline-executor", "otto_executor.settings:Settings", "OTTO_EXECUTOR"),
    ("Log-relay", "otto_relay.settings:Settings", "OTTO_RELAY"),
)


def tables() -> Iterator[str]:
    """The lines between the markers."""
    for title, where, prefix in SECTIONS:
        module, _, name = where.partition(":")
        yield from ("", f"### {title}", "", "| variable | default | meaning |", "| --- | --- | --- |")
        for setting in describe(getattr(importlib.import_module(module), name), prefix):
            default = f"`{setting.default}`" if setting.default else ""
            yield f"| `{setting.variable}` | {default} | {setting.description.replace('|', chr(92) + '|')} |"
    yield ""


def names() -> Iterator[str]:
    """All settings with their defaults, in order. ottoctl may import no service, so it gets them as a file."""
    for _, where, prefix in SECTIONS:
        module, _, name = where.partition(":")
        yield from (
            f"{setting.variable}\t{setting.default}".rstrip()
            for setting in describe(getattr(importlib.import_module(module), name), prefix)
        )


def main() -> int:
    """Runs the command; the exit code is 1 when --check found a difference."""
    parser = argparse.ArgumentParser(description="Render the settings tables of README.md.")
    parser.add_argument("--check", action="store_true", help="compare with what is committed and write nothing")
    arguments = parser.parse_args()
    text = README.read_text()
    if (text.count(BEGIN), text.count(END)) != (1, 1) or text.index(BEGIN) > text.index(END):
        print(f"README.md has to hold the lines {BEGIN} and {END} once, in this order", file=sys.stderr)
        return 1
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    fresh = before + BEGIN + "\n".join(["", *tables()]) + "\n" + END + after
    listed = "".join(f"{name}\n" for name in sorted(names()))
    if arguments.check:
        if fresh != text or listed != (NAMES.read_text() if NAMES.exists() else ""):
            print(
                "README.md's settings, or those that ottoctl doctor knows, are not what the code says: run `make generate`", file=sys.stderr
            )
            return 1
        return 0
    README.write_text(fresh)
    NAMES.write_text(listed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
