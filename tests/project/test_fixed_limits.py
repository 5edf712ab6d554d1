"""The README's table of fixed limits says what the code does."""

import importlib
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
LIMITS = {
    "`pipeline_id`": ("otto_executor.validation:MAX_PIPELINE_ID_BYTES",),
    "`stage_id`": ("otto_executor.validation:MAX_STAGE_ID_BYTES",),
    "`task_id` and other": ("otto_scaler.translate.request:MAX_ID_BYTES",),
    "`reason`": ("otto_executor.service:MAX_TEXT_BYTES",),
    "`triggered_by`": ("otto_scaler.translate.request:MAX_ANNOTATION_BYTES",),
    "the value of one environment variable": (
        "otto_options.options:MAX_VARIABLE_BYTES",
        "otto_scaler.backends.process.environment:MAX_SECRET_BYTES",
    ),
    "one argument": ("otto_executor.validation:MAX_ARGUMENT_BYTES", "otto_scaler.translate.request:MAX_ARGUMENT_BYTES"),
    "arguments and variables": ("otto_executor.validation:MAX_GIVEN_BYTES", "otto_scaler.translate.request:MAX_GIVEN_BYTES"),
    "labels": ("otto_scaler.translate.request:MAX_LABELS",),
    "`repository`": ("otto_options.repository:MAX_BYTES",),
    "CPU": ("otto_options.quantities:MIN_CORES", "otto_options.quantities:MAX_CORES"),
    "`backoff_multiplier`": ("otto_executor.translate_request:MAX_MULTIPLIER",),
    "`worker_pod_names`": ("otto_scaler.service:MAX_RELEASED",),
    "keywords": ("otto_relay.translate:_MOST_WORDS", "otto_relay.translate:_LONGEST_WORD"),
    "`worker_id`": ("otto_relay.push:_LONGEST_NAME",),
    "a pipeline file": ("ottoctl.pipeline_file:MAX_BYTES", "ottoctl.yaml_nodes:MAX_DEPTH"),
}
"""By the beginning of a row, the constants whose values stand in it."""


def rows() -> list[str]:
    """The rows of the table."""
    part = README.read_text("utf-8").partition("### Fixed limits, and why")[2].partition("\n## ")[0]
    return [line for line in part.splitlines() if line.startswith("| ")][2:]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[2:30])
def test_a_fixed_limit_is_the_code_s(row: str) -> None:
    """Each row names the values of its constants, and each constant has a row."""
    [constants] = [constants for begins, constants in LIMITS.items() if row.startswith(f"| {begins}")]
    for where in constants:
        module, _, name = where.partition(":")
        value = getattr(importlib.import_module(module), name)
        assert f"{value:,}".removesuffix(".0") in row, (where, value)


def test_every_fixed_limit_has_a_row() -> None:
    """None is missing in the table."""
    assert len(rows()) == len(LIMITS)
