"""events: what happens on a mount, as it happens."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vfs_volatile.cli.arguments import examples
from vfs_volatile.cli.feed import Batch, Feed, MountGoneError
from vfs_volatile.cli.output import Reader
from vfs_volatile.cli.places import explained, locate_mount
from vfs_volatile.cli.wording import event_line

_PAUSE_SECONDS = 0.2
"""Between two looks. Each is two requests of a tenth of a millisecond."""


def events(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A mount.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Begin with all that the mount still remembers.")
    ] = False,
) -> None:
    """Print marks, unmarks, purges and blocks of a mount as they happen, one a line.

    A block is a range that should have been purged, and says who forbade it. Of several ranges in
    one call the span from the first to the last is shown. A reader that is too slow is told how
    many events it has missed. Ends when the mount goes away: with exit code 0 if it was unmounted.
    """
    place = locate_mount(directory)
    with explained(directory):
        feed = Feed(place.mountpoint)
        try:
            if not everything:
                feed.skip_to_end()
            _follow(feed, as_json)
        except MountGoneError:
            return


def _follow(feed: Feed, as_json: bool) -> None:
    """Print what comes, until the mount or the reader of our output has gone."""
    reader = Reader()
    while True:
        batch = feed.read()
        _print(batch, as_json)
        if batch.complete:
            reader.wait(_PAUSE_SECONDS)


def _print(batch: Batch, as_json: bool) -> None:
    lines = [json.dumps(event) if as_json else event_line(event) for event in batch.events]
    if batch.missed:
        missed = {"event": "missed", "count": batch.missed}
        lines.insert(0, json.dumps(missed) if as_json else f"missed {batch.missed} events")
    if lines:
        print("\n".join(lines), flush=True)


def register(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command(
        epilog=examples(
            "events /mnt/cache                  # Ctrl-C ends it",
            "events /mnt/cache --all | grep block",
            "events /mnt/cache --json | jq -r 'select(.event == \"purge\").path'",
        )
    )(events)
