"""Answers: tables that keep what has to be typed again, streams for programs, words for one and many."""

import io
import json
import sys

import pytest
import yaml
from typer.testing import CliRunner

from ottoctl.cli import app
from ottoctl.commands.workers import NAMES_SHOWN, named
from ottoctl.context import wrong_address
from ottoctl.render import Output, counted, emit, table
from ottoctl.terminal import harmless
from ottoctl.watching import is_dumb


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_cuts_no_id(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """However narrow the terminal is; only the last cell, which tells why, is cut, to its line."""
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", str(width))
    identity = "a-pipeline-with-a-name-20261124-231344-449a54"
    table(("id", "state", ""), [[identity, "failed", "because " * 40], ["b", "running", ""]])
    lines = [harmless(line) for line in out.getvalue().splitlines()]
    assert len(lines) == 3
    assert f"{identity} failed  because" in lines[1]
    assert all(len(line.rstrip()) <= max(width, len(identity) + 40) for line in lines)


def test_a_stream_is_lines_of_json_or_documents_of_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    """Each can be read as many."""
    things = [{"a": "b"}, {"a": "- c: [\n"}]
    for thing in things:
        emit(thing, Output.YAML)
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == things
    for thing in things:
        emit(thing, Output.JSON)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == things


@pytest.mark.parametrize(("number", "words"), [(0, "0 stages"), (1, "1 stage"), (2, "2 stages")])
def test_one_is_not_many(number: int, words: str) -> None:
    """Nouns follow their number."""
    assert counted(number, "stage") == words


def test_of_many_workers_only_some_are_named() -> None:
    """And how to see all."""
    assert named(["a", "b"], "t") == ["a", "b"]
    many = named([f"w{n}" for n in range(99)], "a task")
    assert len(many) == NAMES_SHOWN
    assert many[-1] == "… and 90 more: ottoctl status 'a task'"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:9090", ""),
        ("build.example.com:9090", ""),
        ("[::1]:9090", ""),
        ("dns:///build.example.com:9090", ""),
        ("unix:/run/otto.sock", ""),
        ("127.0.0.1", "names no port"),
        ("[::1]", "names no port"),
        ("::1", "names no port"),
        ("http://127.0.0.1:9090", "is a URL"),
        ("host:http", "has no port from 1 to 65535"),
        ("host:70000", "has no port from 1 to 65535"),
        ("", "names no port"),
    ],
)
def test_an_address_has_a_host_and_a_port(address: str, words: str) -> None:
    """GRPC would try :443 for one without, and resolve a URL as a name."""
    found = wrong_address(address)
    assert words in found
    assert bool(found) == bool(words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pipeline", "run", "--type", "simple", "--sha", "x"], "--sha names a commit of nothing"),
        (["--address", "127.0.0.1", "status"], "names no port"),
        (["--address", "http://127.0.0.1:1", "pipeline", "list"], "is a URL"),
    ],
    ids=["sha", "port", "url"],
)
def test_wrong_usage_is_2(arguments: list[str], words: str) -> None:
    """Before anything is dialled."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize("kind", ["dumb", "", "unknown"])
def test_a_terminal_that_can_t_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """TERM says so."""
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", kind)
    assert is_dumb()
    monkeypatch.setenv("TERM", "xterm")
    assert not is_dumb()
