"""What ``top`` shows: a mount at one moment, and what changed since the moment before."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from vfs_volatile.cli.feed import Event, Feed
from vfs_volatile.cli.wording import clock
from vfs_volatile.units import format_size

ORDERS = ("volatile", "resident", "purged")
"""What files can be ordered by."""

_HISTORY = 120
"""Samples that are kept to be drawn."""
_EVENTS = 500
"""Events read at a time; of more only the last count here."""
_PURGES = 100
_RATES = ("purged_ever", "unmarked_purged", "marks", "unmarks")
"""The counters of which it is told how fast they grow."""


@dataclass(frozen=True)
class Sample:
    """A mount at one moment. Sizes are bytes."""

    time: float
    """Seconds since the epoch."""
    stats: dict[str, Any]
    rates: dict[str, float]
    """By counter: its growth in a second; 0 until it was read twice."""
    files: list[dict[str, Any]]
    blocked: list[dict[str, Any]]
    purges: list[Event]
    """Newest first."""
    blocks: list[Event]
    """New since the sample before."""
    purging: list[float] = field(default_factory=list)
    """Bytes a second that were purged, oldest first."""

    @property
    def droppable(self) -> int:
        """Resident bytes that may be purged, at most: there may be holes among the volatile."""
        return int(min(self.stats["resident"], self.stats["volatile"] - self.stats["purged"]))


def line(sample: Sample) -> str:
    """``sample`` as one line of plain text."""
    stats, rates = sample.stats, sample.rates
    return (
        f"{clock(sample.time)}  resident {format_size(stats['resident'])}"
        f" of {format_size(stats['budget'])}, {format_size(sample.droppable)} may go,"
        f" {format_size(stats['purged'])} purged;"
        f" {rate(rates['purged_ever'])} purged, {rate(rates['unmarked_purged'])} found purged,"
        f" {rates['marks']:.0f} marks/s, {rates['unmarks']:.0f} unmarks/s,"
        f" {len(sample.blocked)} files blocked"
    )


def rate(bytes_per_second: float) -> str:
    return f"{format_size(round(bytes_per_second))}/s"


class Sampler:
    """Takes samples of a mount; the requests of one take a millisecond or two."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._before: tuple[float, dict[str, Any]] | None = None
        self._purges: deque[Event] = deque(maxlen=_PURGES)
        self._purging: deque[float] = deque(maxlen=_HISTORY)
        self._read_events()  # who begins to watch sees the last purges, but no old block as new

    def take(self, order: str) -> Sample:
        """The mount now, its files ordered by ``order``. Raises as Feed does."""
        blocks = self._read_events()
        stats, now = self._feed.stats(), time.monotonic()
        rates = dict.fromkeys(_RATES, 0.0)
        if self._before is not None:
            then, earlier = self._before
            rates = {name: (stats[name] - earlier[name]) / (now - then) for name in _RATES}
            self._purging.append(rates["purged_ever"])
        self._before = now, stats
        return Sample(
            time.time(),
            stats,
            rates,
            self._feed.files(order),
            self._feed.blocked(),
            list(reversed(self._purges)),
            blocks,
            list(self._purging),
        )

    def _read_events(self) -> list[Event]:
        """Take in what happened; the blocks of it."""
        self._feed.skip_to_end(but=_EVENTS)
        blocks = []
        complete = False
        while not complete:
            _, events, complete = self._feed.read()
            self._purges.extend(event for event in events if event["event"] == "purge")
            blocks += [event for event in events if event["event"] == "block"]
        return blocks
