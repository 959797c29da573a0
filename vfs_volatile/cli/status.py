"""status, budget: what is volatile in a file, what memory a mount holds."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from vfs_volatile.abi import xattrs
from vfs_volatile.abi.ioctls import (
    PRIORITY_MASK,
    PRIORITY_SHIFT,
    STATE_PURGED,
    VRANGE_PARTIAL,
    VRANGE_SIGBUS,
    VRANGE_ZERO,
    FvrangeInfo,
)
from vfs_volatile.abi.statistics import MEANINGS
from vfs_volatile.cli.arguments import examples, size
from vfs_volatile.cli.places import Place, explained, locate, locate_mount
from vfs_volatile.cli.wording import blocker_line, blockers_line, path_of, process_name, span_of
from vfs_volatile.client.calls import fvrange_next
from vfs_volatile.errors import UserError
from vfs_volatile.units import format_size

_ROW = "{start:>16}  {length:>16}  {state:<8}  {behavior:<8}  {access:<8}  {priority:>8}"
_HEADINGS = {
    "start": "START",
    "length": "LENGTH",
    "state": "STATE",
    "behavior": "BEHAVIOR",
    "access": "ACCESS",
    "priority": "PRIORITY",
}

_BLOCKED_SHOWN = 5
"""Of what could not be purged: the last few, the others are for --json."""

_PROCESSES_SHOWN = 10
"""Of those with anonymous memory: the ones with most."""

Blocker = dict[str, Any]
"""A process that forbids a purge, see ``docs/watching.md``."""


def status(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A file, or a mount.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the volatile ranges of a file, or the memory of a mount.

    All numbers of a range are bytes. ACCESS is what touching a purged page does: zero, sigbus,
    or default (as the mount says). If somebody forbids to purge what is volatile, it is told who.
    """
    place = locate(path)
    if place.kind == "other":
        raise UserError(f"{path} is no file and no mount; give a file or {place.mountpoint}")
    with explained(path):
        if place.kind == "file":
            _show_file(place, as_json)
        else:
            _show_mount(place, as_json)


def budget(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A mount.")],
    new_size: Annotated[
        int | None,
        typer.Argument(metavar="SIZE", parser=size, help="The new budget: K, M, G or %."),
    ] = None,
) -> None:
    """Print the budget of a mount, or set it to SIZE.

    The budget is the number of resident bytes above which volatile pages are purged.
    """
    locate_mount(directory)
    with explained(directory):
        if new_size is not None:
            os.setxattr(directory, xattrs.BUDGET, str(new_size).encode())
            return
        held = int(os.getxattr(directory, xattrs.BUDGET))
    print(f"{held} bytes ({format_size(held)})")


def _show_file(place: Place, as_json: bool) -> None:
    data_path = os.getxattr(place.path, xattrs.DATA_PATH).decode()  # before we open it ourselves
    fd = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        file_size = os.fstat(fd).st_size
        blockers = _read_private(place, xattrs.BLOCKERS)
        if as_json:
            _print_file_json(place, file_size, list(fvrange_next(fd)), blockers, data_path)
        else:
            _print_file_table(file_size, fvrange_next(fd), blockers)
            print(f"data path: {data_path}")
    finally:
        os.close(fd)


def _print_file_json(
    place: Place,
    file_size: int,
    runs: list[FvrangeInfo],
    blockers: list[Blocker],
    data_path: str,
) -> None:
    report = {
        "path": place.path,
        "size": file_size,
        "volatile": sum(run.length for run in runs),
        "purged": sum(run.length for run in runs if run.state == STATE_PURGED),
        "data_path": data_path,
        "ranges": [_row(run) for run in runs],
        "blocked_by": [one for one in blockers if any(_forbids(one, run) for run in runs)],
    }
    print(json.dumps(report))


def _print_file_table(file_size: int, runs: Iterator[FvrangeInfo], blockers: list[Blocker]) -> None:
    volatile = purged = 0
    blocking = [False] * len(blockers)
    for run in runs:
        if volatile == 0:  # a run is never empty
            print(_ROW.format(**_HEADINGS))
        print(_ROW.format(**_row(run)))
        volatile += run.length
        purged += run.length if run.state == STATE_PURGED else 0
        blocking = [
            found or _forbids(one, run) for found, one in zip(blocking, blockers, strict=True)
        ]
    print(
        f"{format_size(file_size)} in all, {format_size(volatile)} volatile,"
        f" of which {format_size(purged)} purged"
    )
    for one in itertools.compress(blockers, blocking):
        print(f"not to be purged now: {span_of(one)} is {blocker_line(one)}")


def _forbids(blocker: Blocker, run: FvrangeInfo) -> bool:
    """Does ``blocker`` keep pages of ``run`` from being purged?"""
    if run.state == STATE_PURGED or "start" not in blocker:
        return False
    start, end = blocker["start"], blocker["start"] + blocker["length"]
    return bool(start < run.start + run.length and run.start < end)


def _row(run: FvrangeInfo) -> dict[str, int | str]:
    """One run in words."""
    access = "default"
    if run.behavior & VRANGE_ZERO:
        access = "zero"
    elif run.behavior & VRANGE_SIGBUS:
        access = "sigbus"
    return {
        "start": run.start,
        "length": run.length,
        "state": "purged" if run.state == STATE_PURGED else "volatile",
        "behavior": "partial" if run.behavior & VRANGE_PARTIAL else "full",
        "access": access,
        "priority": (run.behavior & PRIORITY_MASK) >> PRIORITY_SHIFT,
    }


def _show_mount(place: Place, as_json: bool) -> None:
    stats = read_stats(place)
    blocked = _read_private(place, xattrs.BLOCKED)
    anonymous = _read_private(place, xattrs.ANONYMOUS)
    if as_json:
        lists = {"blocked": blocked, "anonymous": anonymous}
        print(json.dumps({"path": place.path, **stats, **lists}))
        return
    last_purges: list[dict[str, Any]] = stats.pop("last_purges")
    for name, value in stats.items():
        label = name.replace("_", " ")
        if isinstance(value, dict):
            for key, count in value.items():
                _print_bytes(f"{label} {key}", count)
        elif name in MEANINGS and MEANINGS[name].unit == "bytes":
            _print_bytes(label, value)
        elif isinstance(value, list):
            _print_row(label, " ".join(map(str, value)) or "-")
        else:
            _print_row(label, value)
    for purge in last_purges:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(purge["began"]))
        _print_bytes(began, purge["bytes"], f" purged for {purge['cause']}")
    for entry in blocked[:_BLOCKED_SHOWN]:
        print(f"blocked: {path_of(entry)} {span_of(entry)} {blockers_line(entry['by'])}")
    for process in anonymous[:_PROCESSES_SHOWN]:
        print(_process_line(process))


def _process_line(process: dict[str, Any]) -> str:
    """What one process has of anonymous memory, and why what it marked is kept."""
    sizes = ", ".join(
        f"{format_size(process[name])} {name}" for name in ("resident", "volatile", "purged")
    )
    line = f"anonymous: {process_name(process['pid'], process['command'])} {sizes}"
    if process["by"]:
        line += f"; {format_size(process['kept'])} kept: {blockers_line(process['by'])}"
    return line


def _print_bytes(label: str, count: int, remark: str = "") -> None:
    _print_row(label, count, f" bytes  {format_size(count):>10}{remark}")


def _print_row(label: str, value: object, remark: str = "") -> None:
    print(f"{label:<26}  {value:>16}{remark}")


def _read_private(place: Place, name: str) -> list[dict[str, Any]]:
    """What this attribute lists; nothing for whom it is not meant. Raises OSError."""
    try:
        found: list[dict[str, Any]] = json.loads(os.getxattr(place.path, name))
    except PermissionError:
        return []
    return found


def read_stats(place: Place) -> dict[str, Any]:
    """The counters of a mount. Raises OSError."""
    stats: dict[str, Any] = json.loads(os.getxattr(place.path, xattrs.STATS))
    return stats


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command(
        epilog=examples(
            "status /mnt/cache/tiles     # a file: its ranges",
            "status /mnt/cache --json    # a mount: its memory and counters",
        )
    )(status)
    app.command(
        epilog=examples(
            "budget /mnt/cache         # print it",
            "budget /mnt/cache 512M    # set it",
        )
    )(budget)
