"""The commands, put together."""

from __future__ import annotations

import typer

from vfs_volatile.cli import compiling, demo, events, mount, ranges, scenarios, status, top
from vfs_volatile.cli.arguments import examples
from vfs_volatile.errors import UsageError

app = typer.Typer(
    name="vfs-volatile",
    help="Volatile ranges on files: mark data as droppable, see it purged under a memory budget.",
    epilog=examples(
        "mount /mnt/cache --budget 256M    # mkdir -p /mnt/cache first",
        "mark /mnt/cache/thumbnails        # may be purged from now on",
        "status /mnt/cache/thumbnails      # what of it is volatile, what is gone",
        "unmark /mnt/cache/thumbnails      # keep it; prints what was purged",
        "umount /mnt/cache",
    ),
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _no_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        raise UsageError("no command given; see vfs-volatile --help")


for commands in (mount, ranges, status, events, top, demo, scenarios, compiling):
    commands.register(app)


def command_names() -> set[str]:
    """The words that may come first on the command line."""
    return set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
