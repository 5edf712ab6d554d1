"""Malformed and hostile requests for every method there is, each made from a seed and its number alone, and what may be answered to it.

The methods come from the descriptors and the statuses from the comments in protos/, so that a new method is covered as soon as it exists.
"""

import importlib
import math
import pkgutil
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message

import ottoscaler.v1

PROTOS = Path(__file__).parents[2] / "protos" / "ottoscaler" / "v1"
STATES = frozenset({"CANCELLED"})
"""Words in the comments that are states of a run or a worker, though there are statuses of these names."""
LIKE = {
    "OttoscalerService/ExecutePipeline": "PipelineService/ExecutePipeline",
    "LogStreamingService/StreamBuildLogs": "LogStreamingService/StreamWorkerLogs",
    "LogStreamingService/TailLogs": "LogStreamingService/StreamWorkerLogs",
}
"""Methods whose comment says that they behave as another one."""
FOLLOWING = frozenset(
    {
        "LogStreamingService/StreamWorkerLogs",
        "LogStreamingService/StreamBuildLogs",
        "LogStreamingService/TailLogs",
        "PipelineService/WatchPipeline",
    }
)
"""Methods that have nothing to say while nothing happens, unless they are asked not to follow."""


@dataclass(frozen=True)
class Method:
    """One method of a service."""

    service: str
    name: str
    takes: type[Message]
    gives: type[Message]
    streams_in: bool
    streams_out: bool
    statuses: frozenset[grpc.StatusCode]
    """What its comment names, and OK."""

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"

    def __str__(self) -> str:
        return f"{self.service.rpartition('.')[2]}/{self.name}"


def methods() -> list[Method]:
    """Every method of every service of the contract."""
    found = []
    statuses = documented_statuses()
    for module in sorted(info.name for info in pkgutil.iter_modules(ottoscaler.v1.__path__)):
        if not module.endswith("_pb2"):
            continue
        services = importlib.import_module(f"ottoscaler.v1.{module}").DESCRIPTOR.services_by_name
        found += [_method(method, statuses) for service in services.values() for method in service.methods]
    return found


def _method(method: MethodDescriptor, statuses: dict[str, frozenset[grpc.StatusCode]]) -> Method:
    short = f"{method.containing_service.name}/{method.name}"
    return Method(
        method.containing_service.full_name,
        method.name,
        message_factory.GetMessageClass(method.input_type),
        message_factory.GetMessageClass(method.output_type),
        method.client_streaming,
        method.server_streaming,
        statuses[LIKE.get(short, short)],
    )


def documented_statuses() -> dict[str, frozenset[grpc.StatusCode]]:
    """By "Service/Method", the statuses that the comment above the method in its proto file names."""
    found: dict[str, frozenset[grpc.StatusCode]] = {}
    for file in sorted(PROTOS.glob("*.proto")):
        service, comment = "", ""
        for line in map(str.strip, file.read_text("utf-8").splitlines()):
            if line.startswith("service "):
                service = line.split()[1]
            elif line.startswith("rpc "):
                name = re.split(r"[ (]", line)[1]
                words = set(re.findall(r"\b[A-Z_]+\b", comment)) & set(grpc.StatusCode.__members__) - STATES
                named = {grpc.StatusCode[word] for word in words}
                found[f"{service}/{name}"] = frozenset(named | {grpc.StatusCode.OK})
            comment = f"{comment} {line}" if line.startswith("//") else ""
    return found


TAME: dict[str, tuple[str, ...]] = {
    "pipeline_id": tuple(f"run-{number}" for number in range(12)),
    "new_pipeline_id": ("run-1", "again-1", "again-2", ""),
    "stage_id": ("build", "test", "승인", "deploy now"),
    "depends_on": ("build", "test", "승인", "checkout"),
    "task_id": tuple(f"task-{number}" for number in range(12)),
    "worker_id": ("sender-1", "sender-2", "sender-3"),
    "status_filter": ("", "running", "failed"),
    "repository": ("", "", "", "/nonexistent.git", "file:///nonexistent.git"),
    "commit_sha": ("", "HEAD", "main"),
    "command": ("true",),
    "args": ("--", "a"),
    "image": ("", "node:20"),
    "config": ("true", "1", "512Mi", '["a"]', '{"TOKEN": "secret/key"}'),
    "working_directory": ("", "a/b"),
    "cpu": ("", "500m"),
    "memory": ("", "64Mi"),
    "workspace": ("", "shared-1"),
    "traceparent": ("", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    "retryable_failures": ("timeout", "exit:1", "OOM"),
    "levels": ("INFO", "error"),
    "sources": ("stdout", "stderr"),
    "source": ("stdout", "stderr"),
    "user": ("kim", "lee"),
    "timestamp": ("2026-01-01T00:00:00.000Z", ""),
    "page_token": ("",),
    "priority_class_name": ("",),
    "service_account_name": ("",),
}
"""Values that mean something, by the name of their field."""
SELDOM = {"extra_containers", "artifact_paths"}
"""Fields that the process backend refuses: with them nothing else of a request would be looked at."""
KEYS = (
    "NODE_ENV", "a key", "", "키", "OTTO_X", "TRACEPARENT", "x" * 300, "a\0b", "otto.run_if", "otto.cpu", "otto.memory", "otto.secrets",
    "otto.approvers", "otto.workspace", "otto.artifacts", "otto.working_dir", "otto.command", "otto.image", "otto.ignore_errors", "otto.",
    "otto.runif", "otto.nothing.at.all", "otto.on_disconnect", "otto.fail_fast", "OTTO.CPU",
)  # fmt: skip
HOSTILE = (
    "", " ", "\0", "a\0b", "\n", "\r\n\r\n", "\x1b[31m", "\x7f", "\x85", "x" * 10_240, "한" * 3_000, "😀" * 400, "e\u0301" * 50,
    "\u202eabc", "\ufffe\uffff", "\ud7ff\ue000", "\U0010ffff", "\\ud800", "ﷺ" * 20, "\u200b", "क्षि", "العربية", "İi̇ıI", "ß", "NaN",
    "-1", "1e999",
    "%s%n", "{}", "[", "[[[[[[", "null", "../../../..", "/", "//", ".", "..", "~", "-", "--help", "'", '"', "`", "<b>", "true",
    "9" * 40, "0x10",
    "\t", "a" * 253, "a" * 254, "a" * 1024, "a" * 1025, "otto.cpu", "checkout", "AAAA", "bm90IGEgdG9rZW4", "=" * 8, "eyJhIjoxfQ==",
)  # fmt: skip
"""None of them does harm as a program, an argument or a script of a worker."""
INTEGERS = (0, 1, -1, 2, 3, 5, 100, 501, 1000, 1001, 86_400, 604_801, 2**31 - 1, -(2**31))
LONGS = (*INTEGERS, 2**53, 2**63 - 1, -(2**63), 253_402_300_799, 253_402_300_800)
FLOATS = (0.0, 1.0, 0.5, -1.0, 1.5, 101.0, math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324)


@dataclass(frozen=True)
class Case:
    """One call: what is sent, and what may come back."""

    number: int
    method: Method
    kind: str
    sent: tuple[bytes, ...]
    readable: bool
    """Whether all of it is what the method takes."""

    @property
    def may_be_silent(self) -> bool:
        """Whether an answer may take as long as it takes until something happens."""
        if not self.readable or str(self.method) not in FOLLOWING:
            return False
        return not _says(self.method.takes.FromString(self.sent[0]), "no_follow")

    def __str__(self) -> str:
        shown = " | ".join(data[:200].hex() + ("…" if len(data) > 200 else "") for data in self.sent)
        return f"case {self.number}: {self.method} {self.kind} {shown}"


class Maker:
    """Makes cases: the same from the same seed, known names and number."""

    def __init__(self, seed: int, found: list[Method], known: dict[str, tuple[str, ...]]) -> None:
        """`known` are names that the service knows, by the fields that hold them."""
        self._seed = seed
        self._methods = found
        self._tame = {name: (*TAME.get(name, ()), *known.get(name, ())) for name in TAME.keys() | known.keys()}

    def case(self, number: int) -> Case:
        random = Random(f"{self._seed} {number}")
        # whatever has long streams costs more than it finds
        method = random.choices(self._methods, [1 if m.streams_in or m.streams_out else 3 for m in self._methods])[0]
        kind = random.choice(tuple(_KINDS)) if random.random() < 0.5 else "hostile values"
        sent: list[bytes] = []
        readable = True
        # the service ends a stream at the first message that it can't read
        while readable and len(sent) < (random.randint(1, 3) if method.streams_in else 1):
            sent.append(self._data(random, method.takes, kind))
            readable = _read(method.takes, sent[-1]) is not None
        return Case(number, method, kind, tuple(sent), readable)

    def _data(self, random: Random, takes: type[Message], kind: str) -> bytes:
        message = takes()
        hostility = random.choice((0.0, 0.03, 0.03, 0.2, 1.0))
        self._fill(random, message, hostility, random.choice((0.3, 0.6, 1.0)), 0)
        if hostility < 0.1:
            _make_acyclic(message)
        sound = message.SerializeToString()
        if kind == "hostile values":
            return sound
        data = _KINDS[kind](random, sound)
        read = _read(takes, data)
        # a repository that came about by chance might name a host
        return sound if read is not None and not set(_repositories(read)) <= set(TAME["repository"]) else data

    def _fill(self, random: Random, message: Message, hostility: float, share: float, depth: int) -> None:
        fields: Iterable[Any] = message.DESCRIPTOR.fields
        for field in fields:
            if random.random() > (hostility if field.name in SELDOM else max(share, 0.9) if field.name in TAME else share) or depth > 6:
                continue
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                self._fill_map(random, message, field, hostility)
            elif field.is_repeated:
                values = getattr(message, field.name)
                for _ in range(random.choice((1, 1, 2, 3, 20 if hostility == 1.0 else 2))):
                    if field.message_type is not None:
                        self._fill(random, values.add(), hostility, share, depth + 1)
                    else:
                        values.append(self._value(random, field, hostility))
            elif field.message_type is not None:
                getattr(message, field.name).SetInParent()
                self._fill(random, getattr(message, field.name), hostility, share, depth + 1)
            else:
                setattr(message, field.name, self._value(random, field, hostility))

    def _fill_map(self, random: Random, message: Message, field: FieldDescriptor, hostility: float) -> None:
        assert field.message_type is not None
        value = field.message_type.fields_by_name["value"]
        for _ in range(random.choice((1, 2, 5))):
            key = random.choice((*KEYS, *HOSTILE)) if random.random() < hostility else f"KEY_{random.randint(0, 9)}"
            text = self._value(random, value, hostility, field.name)
            getattr(message, field.name)[key] = text

    def _value(self, random: Random, field: FieldDescriptor, hostility: float, name: str = "") -> Any:
        hostile = random.random() < hostility
        name = name or field.name
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING:
                if name == "repository" or not hostile:
                    return random.choice(self._tame.get(name, ("x", "y")))
                return random.choice(HOSTILE)
            case FieldDescriptor.CPPTYPE_BOOL:
                return random.random() < 0.5
            case FieldDescriptor.CPPTYPE_ENUM:
                return random.choice((-1, 7, 99, 101, 2**31 - 1, -(2**31))) if hostile else random.choice(_numbers(field))
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return random.choice(FLOATS) if hostile else 1.0
            case FieldDescriptor.CPPTYPE_INT64 | FieldDescriptor.CPPTYPE_UINT64:
                return random.choice(LONGS) if hostile else random.randint(0, 3)
            case _:
                return random.choice(INTEGERS) if hostile else random.randint(0, 3)


def _numbers(field: FieldDescriptor) -> list[int]:
    assert field.enum_type is not None
    return [value.number for value in field.enum_type.values]


def _read(takes: type[Message], data: bytes) -> Message | None:
    try:
        return takes.FromString(data)
    except DecodeError:
        return None


def _says(message: Message, name: str) -> bool:
    """Whether a field of that name is true, in it or in what it holds."""
    for field, value in message.ListFields():
        if field.name == name and value is True:
            return True
        if isinstance(value, Message) and _says(value, name):
            return True
    return False


def _repositories(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        if field.name == "repository":
            yield value
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for inner in value if field.is_repeated else (value,):
                yield from _repositories(inner)


def _make_acyclic(message: Message) -> None:
    """Gives the stages of a pipeline, if it is one, ids of their own and no dependency on a later one."""
    stages = getattr(getattr(message, "pipeline", message), "stages", ())
    for number, stage in enumerate(stages):
        if stage.stage_id in TAME["stage_id"]:
            stage.stage_id = TAME["stage_id"][number % 4] + " " * (number // 4)
            known = {before.stage_id for before in stages[:number]}
            stage.depends_on[:] = [name for name in stage.depends_on if name in known]


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*found, number))


def _noise(random: Random, _: bytes) -> bytes:
    return random.randbytes(random.choice((0, 1, 2, 3, 10, 100, 2000)))


def _truncated(random: Random, sound: bytes) -> bytes:
    return sound[: random.randint(0, len(sound))]


def _flipped(random: Random, sound: bytes) -> bytes:
    data = bytearray(sound)
    for _ in range(random.choice((1, 1, 2, 8)) if data else 0):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(data)


def _shuffled(random: Random, sound: bytes) -> bytes:
    cut, other = sorted((random.randint(0, len(sound)), random.randint(0, len(sound))))
    return random.choice(
        (sound[other:] + sound[cut:other] + sound[:cut], sound + sound, sound[:cut] + sound[cut:other] * 3 + sound[other:])
    )


def _bad_text(random: Random, sound: bytes) -> bytes:
    bad = random.choice((b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xe2\x82"))
    return sound + _varint(random.randint(1, 12) << 3 | 2) + _varint(len(bad)) + bad


def _long_number(random: Random, sound: bytes) -> bytes:
    number = random.choice((b"\xff" * 9 + b"\x01", b"\xff" * 9 + b"\x7f", b"\xff" * 11, b"\x80" * 40, b"\xff" * 4 + b"\x0f"))
    return sound + _varint(random.randint(0, 12) << 3) + number


def _long_length(random: Random, sound: bytes) -> bytes:
    return sound + _varint(random.randint(1, 12) << 3 | 2) + _varint(random.choice((1 << 20, 1 << 31, 1 << 32, (1 << 63) - 1))) + b"x"


def _nested(random: Random, __: bytes) -> bytes:
    field, depth = random.choice((1, 3, 4, 7, 100, 105)), random.choice((10, 99, 101, 2000))
    if random.random() < 0.5:
        return _varint(field << 3 | 3) * depth + (_varint(field << 3 | 4) * depth if random.random() < 0.5 else b"")
    data = b""
    for _ in range(min(depth, 300)):
        data = _varint(field << 3 | 2) + _varint(len(data)) + data
    return data


def _odd_fields(random: Random, sound: bytes) -> bytes:
    field = random.choice((0, 1, 2, 99, 100, 19_000, 536_870_911, 1 << 29))
    tail = random.choice((b"", b"\0", b"\x01x", struct.pack("<q", -1), struct.pack("<f", math.nan)))
    return sound + _varint(field << 3 | random.randint(0, 7)) + tail


_KINDS: dict[str, Callable[[Random, bytes], bytes]] = {
    "noise": _noise,
    "truncated": _truncated,
    "flipped": _flipped,
    "shuffled": _shuffled,
    "text that is no UTF-8": _bad_text,
    "long number": _long_number,
    "long length": _long_length,
    "nested": _nested,
    "odd fields": _odd_fields,
}


@cache
def _machine() -> str:
    return "|".join(re.escape(str(path)) for path in {Path(__file__).parents[2], Path.home()} if len(str(path)) > 1)


def leak(text: str, state: Path) -> str:
    """What in a text that a client got tells of our insides: source code, exceptions, objects, paths of this machine;
    with what is around it. "" if nothing does.
    """
    found = re.search(
        r"Traceback|File \"|object at 0x|\bline \d+, in |[A-Za-z]\w*(?:Error|Exception)\b|site-packages"
        r"|NoneType|invalid literal for|index out of range|positional argument|object of type|codec can't|\[Errno|has no attribute"
        r"|line \d+ column \d+|[Vv]alue out of range"
        rf"|{_machine()}|{re.escape(str(state))}",
        text,
    )
    return text[max(0, found.start() - 100) : found.end() + 100] if found else ""
