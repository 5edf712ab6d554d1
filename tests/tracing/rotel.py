"""rotel, a real OTLP collector: a process of its own, of which a test reads what it received."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest

from ..ports import free_port

START_SECONDS = 120.0
PATIENCE = 240.0
_VALUE = re.compile(r"(\w+)\((.*)\)")
_FIELDS = {
    "Trace ID": "trace",
    "Parent ID": "parent",
    "ID": "id",
    "Name": "name",
    "Kind": "kind",
    "Status code": "status",
    "Status message": "words",
    "Start time": "start",
    "End time": "end",
}
PACKAGE = find_spec("rotel")
needed = pytest.mark.skipif(PACKAGE is None, reason="rotel has no wheel for this machine")


@dataclass
class Received:
    """A span, as the collector got it."""

    resource: dict[str, str]
    scope: str = ""
    trace: str = ""
    id: str = ""
    parent: str = ""
    name: str = ""
    kind: str = ""
    status: str = ""
    words: str = ""
    start: str = "0"
    end: str = "0"
    attributes: dict[str, str] = field(default_factory=dict)
    links: list[tuple[str, str]] = field(default_factory=list)
    """Trace and span."""

    @property
    def took(self) -> float:
        """Seconds."""
        return (int(self.end) - int(self.start)) / 1e9


class Rotel:
    """The running collector."""

    def __init__(self, address: str, http: str, output: Path) -> None:
        self.address = address
        """Where it listens for OTLP over gRPC, as `http://host:port`."""
        self.http = http
        """The same over HTTP."""
        self._output = output

    def spans(self) -> list[Received]:
        """All it has received so far, in that order."""
        return list(_spans(self._output.read_text(errors="replace")))

    async def until(self, found: Callable[[list[Received]], bool], what: str = "") -> list[Received]:
        """What it has received, once that is as wanted."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not found(spans := self.spans()):
                    await asyncio.sleep(0.2)
        except TimeoutError:
            names = sorted(f"{span.scope}: {span.name}" for span in self.spans())
            raise AssertionError(f"{what or 'what was waited for'} did not come; there are {names}") from None
        return spans


def _spans(text: str) -> list[Received]:
    """Reads what `--debug-log traces --debug-log-verbosity detailed` prints."""
    found: list[Received] = []
    resource: dict[str, str] = {}
    scope, attributes, link = "", resource, ("", "")
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if line.startswith("ResourceSpans #"):
            resource = attributes = {}
        elif line.startswith("InstrumentationScope "):
            scope = line.split()[1]
        elif line.startswith("Span #"):
            found.append(Received(resource, scope))
            attributes = found[-1].attributes
        elif line.startswith("SpanLink #"):
            link = ("", "")
            attributes = {}
        elif line.startswith("     -> Trace ID:"):
            link = (value, "")
        elif line.startswith("     -> ID:"):
            found[-1].links.append((link[0], value))
        elif line.startswith("     -> "):
            name, _, value = line.removeprefix("     -> ").partition(": ")
            kind = _VALUE.fullmatch(value)
            attributes[name] = kind[2] if kind else value
        elif found and name in _FIELDS and not line.startswith(("Resource", "Scope")):
            setattr(found[-1], _FIELDS[name], value.strip('"'))
    return found


@asynccontextmanager
async def rotel(directory: Path, host: str = "127.0.0.1", ports: tuple[int, int] = (0, 0)) -> AsyncIterator[Rotel]:
    """A collector that takes everything and passes nothing on; killed at the end. Ports of 0 are free ones."""
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    agent = Path(PACKAGE.origin).with_name("rotel-agent")
    grpc_port, http_port = (port or free_port() for port in ports)
    output = directory / f"rotel-{grpc_port}.txt"
    arguments = [
        *("--otlp-grpc-endpoint", f"{host}:{grpc_port}", "--otlp-http-endpoint", f"{host}:{http_port}"),
        *("--exporter", "blackhole", "--debug-log", "traces", "--debug-log-verbosity", "detailed"),
        *("--pid-file", str(directory / "rotel.pid")),
    ]
    with output.open("ab") as file:
        process = await asyncio.create_subprocess_exec(str(agent), "start", *arguments, stdout=file, stderr=file)
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await _listens(host, grpc_port):
                assert process.returncode is None, output.read_text()
                await asyncio.sleep(0.05)
        yield Rotel(f"http://{host}:{grpc_port}", f"http://{host}:{http_port}", output)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _listens(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
