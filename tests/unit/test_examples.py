"""The examples that the help texts end with: every line is a command that parses."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.main import get_command

from vfs_volatile.cli.app import app

ROOT: Any = get_command(app)


def epilogs(command: object, name: str) -> Iterator[tuple[str, str]]:
    """(command, epilog) of a command and of all below it."""
    yield name, str(getattr(command, "epilog", "") or "")
    for part, below in getattr(command, "commands", {}).items():
        yield from epilogs(below, f"{name} {part}")


def examples() -> list[tuple[str, str]]:
    """(command whose help it ends, line)."""
    return [
        (name, line.strip())
        for name, epilog in epilogs(ROOT, "vfs-volatile")
        for line in epilog.splitlines()
        if line.startswith("  ")
    ]


def commands_in(line: str) -> Iterator[list[str]]:
    """The words after each ``vfs-volatile`` that a shell would run for ``line``."""
    words = shlex.split(line, comments=True)
    if words[0] == "vfs-volatile":
        end = next((at for at, word in enumerate(words) if word in ("|", "&&", ">>", ">")), None)
        yield words[1:end]
    else:
        for part in line.split("$(")[1:]:
            yield shlex.split(part.partition(")")[0])[1:]


def parse(words: list[str]) -> None:
    """Parse as the program does, and run nothing. Raises what the program would say."""
    command, name = ROOT, "vfs-volatile"
    while hasattr(command, "commands"):
        context = command.make_context(name, words)
        name, command, words = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
    command.make_context(name, words)


@pytest.mark.parametrize(("command", "line"), examples())
def test_an_example_parses_and_is_of_its_command(command: str, line: str) -> None:
    found = list(commands_in(line))
    assert found, "no command of ours in it"
    for words in found:
        parse(list(words))
    assert any(
        ["vfs-volatile", *words][: len(command.split())] == command.split() for words in found
    )


def test_every_command_that_does_something_has_some() -> None:
    lists_only = {"vfs-volatile scenarios", "vfs-volatile scenarios list"}
    without = {name for name, epilog in epilogs(ROOT, "vfs-volatile") if not epilog}
    assert without <= lists_only


def test_a_line_that_does_not_parse_is_noticed() -> None:
    with pytest.raises(typer.TyperException, match="No such option"):
        parse(["status", "/mnt/cache", "--jsn"])
