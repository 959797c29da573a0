"""top: a live view of a mount."""

from __future__ import annotations

import io
import os
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from vfs_volatile.cli.arguments import examples
from vfs_volatile.cli.feed import Feed, MountGoneError
from vfs_volatile.cli.output import Reader
from vfs_volatile.cli.places import explained, locate_mount

if TYPE_CHECKING:
    from vfs_volatile.cli.top_sample import Sampler

_LEAST_SECONDS = 0.1


def top(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A mount.")],
    interval: Annotated[
        float, typer.Option(min=_LEAST_SECONDS, metavar="SECONDS", help="Between two looks.")
    ] = 1.0,
) -> None:
    """Watch a mount: its memory, what is purged, and what is not purged and why.

    Keys: q ends it, p (or space) pauses, s orders the files by what may go, is resident, or is
    purged. Where stdout is no terminal a line is printed at each look. Ends when the mount goes
    away.
    """
    place = locate_mount(directory)
    with explained(directory):
        from vfs_volatile.cli.top_sample import Sampler

        try:
            sampler = Sampler(Feed(place.mountpoint))
            if sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"):
                _live(sampler, place.mountpoint, interval)
            else:
                _lines(sampler, interval)
        except MountGoneError:
            print(f"{directory} is not mounted any more")


def _lines(sampler: Sampler, interval: float) -> None:
    """A line at each look, and one for each new block, until the reader has gone."""
    from vfs_volatile.cli.top_sample import ORDERS, line
    from vfs_volatile.cli.wording import event_line

    reader = Reader()
    while True:
        sample = sampler.take(ORDERS[0])
        lines = [line(sample), *map(event_line, sample.blocks)]
        print("\n".join(lines), flush=True)
        reader.wait(interval)


def _live(sampler: Sampler, path: str, interval: float) -> None:
    """Draw until ``q``."""
    from rich.console import Console  # here: rich is slow to load

    from vfs_volatile.cli import top_view
    from vfs_volatile.cli.screen import Screen

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="replace"
        )  # a terminal that lacks a sign still shows the rest
    console = Console(highlight=False)
    state = top_view.State(path)
    with Screen(console) as screen:
        while True:
            due = time.monotonic() + interval
            sample = sampler.take(state.order)
            screen.show(top_view.draw(sample, state, *console.size))
            while state.paused or time.monotonic() < due:
                match screen.wait(due if not state.paused else time.monotonic() + 3600):
                    case "q" | "Q" | "\x04":
                        return
                    case "p" | "P" | " ":
                        state.paused = not state.paused
                    case "s" | "S":
                        state.next_order()
                        break
                    case None if not state.paused:
                        break
                screen.show(top_view.draw(sample, state, *console.size))


def register(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command(
        epilog=examples(
            "top /mnt/cache",
            "top /mnt/cache --interval 10 >> cache.log    # a line every ten seconds",
        )
    )(top)
