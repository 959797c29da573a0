"""The command line ``vfs-volatile``: one module for each group of commands.

Whatever its user can cause ends in exactly one line on stderr, ``vfs-volatile: cause; mend``, and
exit code 1 (it failed) or 2 (the command line is wrong).
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence

import typer

from vfs_volatile.cli.app import app, command_names
from vfs_volatile.cli.output import ReaderGoneError, complain, guarded
from vfs_volatile.errors import UserError

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as a shell reports it."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that ``arguments`` (None: those of this process) give; its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    with guarded():
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="surrogateescape")  # file names are bytes: as such
        return _run(_from_mount(given))


def _run(arguments: Sequence[str]) -> int:
    try:
        code = app(args=arguments, prog_name="vfs-volatile", standalone_mode=False)
        sys.stdout.flush()
    except ReaderGoneError:
        return 1
    except UserError as error:
        return _fail(str(error), error.exit_code)
    except typer.TyperException as error:  # a usage error that Typer found
        return _fail(_with_mend(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return code or 0


def _from_mount(arguments: Sequence[str]) -> Sequence[str]:
    """The command for ``SOURCE DIR -o OPTIONS``, as mount(8) has mount.fuse3(8) call us."""
    match arguments:
        case [source, directory, "-o", options] if not source.startswith("-"):
            if source not in command_names():
                return ["mount", "-o", f"fsname={source},{options}", "--", directory]
    return arguments


def _with_mend(error: typer.TyperException) -> str:
    """The message of Typer, with a mend if it has none."""
    message = error.format_message().rstrip(".").replace(": Value error, ", ": ")  # pydantic's
    if ";" in message or message.endswith("?"):  # "Did you mean ...?"
        return message
    context: typer.Context | None = getattr(error, "ctx", None)
    command = context.command_path if context else "vfs-volatile"
    return f"{message}; see {command} --help"


def _fail(text: str, code: int) -> int:
    """Say ``text`` on one line of stderr; gives back ``code``."""
    line = _CONTROL.sub(lambda control: repr(control[0])[1:-1], text)
    complain(f"vfs-volatile: {line}")
    return code
