"""`--help` of every command has examples, and every example is one that ottoctl takes."""

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from ottoctl.cli import app
from ottoctl.examples import EXAMPLES

ROOT: Any = typer.main.get_command(app)


def commands(command: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command and group, by its words."""
    yield " ".join(path), command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


@pytest.mark.parametrize(("words", "command"), list(commands()), ids=lambda v: (v or "ottoctl") if isinstance(v, str) else "")
def test_every_command_has_help_with_examples(words: str, command: Any) -> None:
    """Each command says what it does and shows how; the lines of the examples stay lines."""
    shown = command.get_help(typer.Context(command, info_name=f"ottoctl {words}".strip()))
    assert len((command.help or command.short_help or "").split()) >= 2
    assert EXAMPLES[words]
    for line in EXAMPLES[words]:
        assert f"\n    {line}\n" in shown + "\n", shown
        assert line.startswith("ottoctl ")


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_every_example_is_taken(line: str) -> None:
    """Its options and arguments are read as they will be: a wrong one raises."""
    context = ROOT.make_context("ottoctl", shlex.split(line)[1:])
    with context:
        words: list[str] = []
        command = ROOT
        while getattr(command, "commands", None):
            name, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
            words.append(name)
            context = command.make_context(name, arguments, parent=context)
    assert " ".join(words) in EXAMPLES


def test_the_table_has_no_example_of_a_command_that_is_gone() -> None:
    """Examples and commands are the same set."""
    assert set(EXAMPLES) == {words for words, _ in commands()}
