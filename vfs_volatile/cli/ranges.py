"""mark, unmark, purge: the volatile ranges of a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from vfs_volatile.abi import xattrs
from vfs_volatile.abi.ioctls import (
    PRIORITY_MAX,
    VRANGE_FULL,
    VRANGE_PARTIAL,
    VRANGE_SIGBUS,
    VRANGE_VOLATILE,
    VRANGE_ZERO,
    vrange_priority,
)
from vfs_volatile.cli.arguments import File, Length, Start, examples, size, span
from vfs_volatile.cli.places import Place, explained, locate, locate_file
from vfs_volatile.cli.status import read_stats
from vfs_volatile.client.calls import fvrange, fvrange_purge
from vfs_volatile.client.unmark import unmark_runs
from vfs_volatile.errors import UsageError, UserError
from vfs_volatile.units import format_size

SOMETHING_PURGED = 3
"""Exit code of unmark when data was lost."""


def mark(
    file: File,
    start: Start = None,
    length: Length = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Purge page by page, not the range as a whole.")
    ] = False,
    zero: Annotated[
        bool, typer.Option("--zero", help="Touching a purged page reads zeros.")
    ] = False,
    sigbus: Annotated[
        bool, typer.Option("--sigbus", help="Touching a purged page is an error.")
    ] = False,
    priority: Annotated[
        int, typer.Option(min=0, max=PRIORITY_MAX, metavar="N", help="0 is purged first, 7 last.")
    ] = 0,
) -> None:
    """Mark FILE, or a range of it, as volatile. It may be purged from now on.

    Only pages wholly inside the range are marked. What is volatile already stays as it is.
    """
    if zero and sigbus:
        raise UsageError("--zero and --sigbus contradict each other; give one of them")
    behavior = VRANGE_PARTIAL if partial else VRANGE_FULL
    behavior |= VRANGE_ZERO if zero else 0
    behavior |= VRANGE_SIGBUS if sigbus else 0
    where = span(start, length)
    with _opened_for_writing(locate_file(file)) as fd:
        fvrange(fd, *where, VRANGE_VOLATILE, behavior | vrange_priority(priority))


def unmark(file: File, start: Start = None, length: Length = None) -> int:
    """Keep FILE, or a range of it, and print what was purged.

    Prints the purged ranges, one START+LENGTH a line, in whole pages; they hold zeros now.
    Exit code 0: all intact. 3: something was purged.
    """
    where = span(start, length)
    purged = False
    with _opened_for_writing(locate_file(file)) as fd:
        for lost in unmark_runs(fd, *where):
            print(f"{lost.start}+{lost.length}")
            purged = True
    return SOMETHING_PURGED if purged else 0


def purge(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A file, or a mount.")],
    start: Start = None,
    length: Length = None,
    at_least: Annotated[
        int | None,
        typer.Option("--bytes", metavar="SIZE", parser=size, help="A mount: at least so much."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All that is volatile. [default for a file]")
    ] = False,
) -> None:
    """Purge volatile pages now, whatever the budget.

    Of a file, or a range of it: prints how many bytes of it are purged now.
    Of a mount, in its order of purging: as much as --bytes or --all says; prints how much went.
    """
    if sum((start is not None, at_least is not None, everything)) > 1:
        raise UsageError("START LENGTH, --bytes and --all exclude each other; give one of them")
    where = span(start, length)
    place = locate(path)
    if place.kind == "file":
        if at_least is not None:
            raise UsageError("--bytes is for a mount; give START LENGTH, or nothing for the file")
        with _opened_for_writing(place) as fd:
            _print_bytes(fvrange_purge(fd, *where))
        return
    if place.kind == "other":
        raise UserError(f"{path} is no file and no mount; give a file or {place.mountpoint}")
    if start is not None or not (everything or at_least is not None):
        raise UsageError(f"{path} is a mount; give --bytes SIZE or --all")
    with explained(path):
        _print_bytes(_purge_mount(place, "all" if at_least is None else str(at_least)))


def _purge_mount(place: Place, amount: str) -> int:
    """Purge ``amount`` (bytes, or ``all``); the bytes purged meanwhile, the purger's included."""
    before: int = read_stats(place)["purged_ever"]
    os.setxattr(place.path, xattrs.MOUNT_PURGE, amount.encode())
    after: int = read_stats(place)["purged_ever"]
    return after - before


def _print_bytes(count: int) -> None:
    print(f"{count} bytes ({format_size(count)})")


@contextmanager
def _opened_for_writing(place: Place) -> Iterator[int]:
    """A descriptor of the file that may change its ranges."""
    with explained(place.path):
        fd = os.open(place.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command(
        epilog=examples(
            "mark /mnt/cache/tiles                   # the whole file",
            "mark /mnt/cache/tiles 0 64M --partial   # its first 64 MiB, page by page",
            "mark /mnt/cache/index --priority 7      # purged after everything else",
        )
    )(mark)
    app.command(
        epilog=examples(
            "unmark /mnt/cache/tiles && echo intact",
            "unmark /mnt/cache/tiles 64M 4K",
        )
    )(unmark)
    app.command(
        epilog=examples(
            "purge /mnt/cache/tiles           # what of this file is volatile",
            "purge /mnt/cache/tiles 0 1M",
            "purge /mnt/cache --bytes 100M    # a mount: what it would purge first",
            "purge /mnt/cache --all",
        )
    )(purge)
