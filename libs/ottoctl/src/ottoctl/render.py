"""Answers as a table for people, or as JSON or YAML for programs."""

import enum
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ottoctl.terminal import harmless

if TYPE_CHECKING:
    from google.protobuf.message import Message


LEAST_SAID = 24
"""Columns of a table's last cell that are shown in any case, even if the terminal breaks the line."""


class Output(enum.StrEnum):
    """The forms of `--output`."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def as_data(message: "Message") -> Any:
    """A message with the field names of the contract; zero values of scalars are there too."""
    from google.protobuf.json_format import MessageToDict  # a shell that completes need not wait for it

    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def dump(data: Any, output: Output) -> None:
    """Prints data as JSON or YAML."""
    if output is Output.YAML:
        import yaml

        sys.stdout.write(yaml.safe_dump(data, allow_unicode=True, sort_keys=False))
    else:
        json.dump(data, sys.stdout, ensure_ascii=False, indent=2)
        sys.stdout.write("\n")


def emit(data: Any, output: Output) -> None:
    """Prints one of many: a line of JSON, or a YAML document. Nothing is flushed."""
    if output is Output.YAML:
        import yaml

        sys.stdout.write("---\n" + yaml.safe_dump(data, allow_unicode=True, sort_keys=False))
    else:
        sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")


def counted(number: int, noun: str) -> str:
    """1 stage, 2 stages."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table: on a terminal with its last column cut to what is left of the line, in a pipe tab-separated."""
    if not sys.stdout.isatty():
        for row in [columns, *rows]:
            print("\t".join(harmless(cell) for cell in row))
        return
    import shutil

    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[harmless(cell) for cell in row] for row in rows]
    # Ids and names are there to be typed again, so they are never cut; what is said at the end gets what is left of the line.
    widths = [max(cell_len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    needed = sum(widths[:-1]) + len(widths) - 1
    widths[-1] = min(widths[-1], max(LEAST_SAID, shutil.get_terminal_size().columns - needed))
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column, width in zip(columns, widths, strict=True):
        shown.add_column(column, width=width, no_wrap=True, overflow="ellipsis")
    for row in cells:
        shown.add_row(*[Text(cell) for cell in row])
    Console(highlight=False, width=needed + widths[-1] + 1).print(shown)
