"""The commands, as ``--help`` tells of them, as the sections of a man page."""

from __future__ import annotations

import inspect
from typing import Any

import typer

from tools.manpages import roff

Command = Any
"""Of Typer's own copy of click, which has no public name for it."""


def sections(app: typer.Typer) -> list[str]:
    """NAME to COMMANDS of the whole command line."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name=app.info.name)
    name = str(app.info.name)
    return [
        ".SH NAME",
        f"{roff.literal(name)} \\- volatile ranges on files, in memory (FUSE)",
        ".SH SYNOPSIS",
        f"{roff.bold(name)} \\fICOMMAND\\fR [\\fIARGUMENT\\fR]...",
        ".SH DESCRIPTION",
        *_help(command),
        *_options(command, context),
        *_examples(command),
        ".SH COMMANDS",
        *_commands(command, context),
    ]


def _commands(group: Command, above: typer.Context) -> list[str]:
    body = []
    for name, command in group.commands.items():
        context = typer.Context(command, info_name=name, parent=above)
        if hasattr(command, "commands"):
            body += _commands(command, context)
            continue
        usage = " ".join(command.collect_usage_pieces(context)).replace("{", "").replace("}", "")
        body += [
            f'.SS "{roff.plain(context.command_path)} {roff.plain(usage)}"',
            *_help(command),
            *_options(command, context),
            *_examples(command),
        ]
    return body


def _help(command: Command) -> list[str]:
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    return [line for text in paragraphs for line in (".PP", *roff.lines(roff.plain(text)))]


def _options(command: Command, context: typer.Context) -> list[str]:
    body = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and parameter.name != "help":
            names, text = record
            body += roff.tagged(roff.bold(names.removesuffix(" <str>")), roff.plain(text))
    return body


def _examples(command: Command) -> list[str]:
    """The epilog: a mark against wrapping, a line ``Examples:``, and the examples."""
    shown = (command.epilog or "").removeprefix("\b\n").split("\n")[1:]
    return roff.example(inspect.cleandoc("\n".join(shown))) if shown else []
