"""The fixed part of the contract, held against the tables in fixed_part.md: nobody bends it by accident."""

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import Default

from ottoscaler.v1 import (  # noqa: F401  importing registers the descriptors
    log_streaming_service_pb2,
    otto_handler_log_service_pb2,
    ottoscaler_service_pb2,
    pipeline_service_pb2,
)

PACKAGE = "ottoscaler.v1"
OURS_FROM = 100
TYPES = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_FLOAT: "float",
}


def tables() -> dict[str, list[list[str]]]:
    """The tables of fixed_part.md by the first word of their header, each a list of rows of cells."""
    found: dict[str, list[list[str]]] = {}
    rows: list[list[str]] = []
    for line in (Path(__file__).parent / "fixed_part.md").read_text().splitlines():
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in {"service", "message", "enum"}:
            rows = found.setdefault(cells[0], [])
        elif not cells[0].startswith("---"):
            rows.append(cells)
    return found


RPCS = tables()["service"]
MESSAGES = tables()["message"]
ENUMS = [(name.strip(), row[1]) for row in tables()["enum"] for name in row[0].split(",")]


def shown(field: FieldDescriptor) -> str:
    """A field as the table writes it: number, name, type."""
    if field.message_type and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        kind = f"map<{TYPES[key.type]},{TYPES[value.type]}>"
    else:
        named = field.message_type or field.enum_type
        kind = named.full_name.removeprefix(f"{PACKAGE}.") if named else TYPES[field.type]
        kind = f"repeated {kind}" if field.is_repeated else kind
    return f"{field.number} {field.name} {kind}"


def written(row: list[str]) -> list[str]:
    """The fields of a row of the table, in the same form: the table puts `repeated` before the type."""
    return [re.sub(r"^(\d+) (\S+) (repeated )?(\S+)$", r"\1 \2 \3\4", field.strip()) for field in row[1].split(";")]


def test_the_tables_are_whole() -> None:
    """As many services, messages and enums as the contract has; a parser that reads nothing would prove nothing."""
    assert (len(RPCS), len(MESSAGES), len(ENUMS)) == (8, 20, 8)
    assert sum(len(written(row)) for row in MESSAGES) == 118


@pytest.mark.parametrize("row", MESSAGES, ids=lambda row: row[0])
def test_message(row: list[str]) -> None:
    """Every field has its number, name and type; ours begin at 100; nothing else is below."""
    message: Descriptor = Default().FindMessageTypeByName(f"{PACKAGE}.{row[0]}")
    assert sorted(shown(f) for f in message.fields if f.number < OURS_FROM) == sorted(written(row))


@pytest.mark.parametrize(("name", "values"), ENUMS, ids=[name for name, _ in ENUMS])
def test_enum(name: str, values: str) -> None:
    """Every value has its name and number, and there is no other."""
    enum: EnumDescriptor = Default().FindEnumTypeByName(f"{PACKAGE}.{name}")
    assert [f"{v.name}={v.number}" for v in enum.values] == [v.strip() for v in values.split(",")]


@pytest.mark.parametrize("row", RPCS, ids=lambda row: f"{row[0]}.{row[1]}")
def test_rpc(row: list[str]) -> None:
    """Every RPC takes and gives what it always did, streaming where it always did."""
    service: ServiceDescriptor = Default().FindServiceByName(f"{PACKAGE}.{row[0]}")
    method = service.methods_by_name[row[1]]
    request = ("stream " if method.client_streaming else "") + method.input_type.name
    response = ("stream " if method.server_streaming else "") + method.output_type.name
    assert [request, response] == row[2:]
