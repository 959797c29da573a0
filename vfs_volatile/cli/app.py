"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from vfs_volatile.cli import mount, ranges, status
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
    add_completion=False,
)


@app.callback(invoke_without_command=True)
def _no_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        raise UsageError("no command given; see vfs-volatile --help")


def demo(
    modules: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Compile N modules. [default: as many as found]"),
    ] = None,
) -> int:
    """Run the main job, end to end, on a temporary mount. Exit code 0 only if all of it held."""
    from vfs_volatile.cli.demo import run  # here: rich is slow to load

    return run(modules)


for commands in (mount, ranges, status):
    commands.register(app)
app.command(epilog=examples("demo", "demo --modules 200"))(demo)
