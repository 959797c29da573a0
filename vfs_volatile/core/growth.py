"""How many ranges a call may make: more than there may be, and it fails before it changes anything.

To end a range in its middle makes two of it, so it may fail as well, as munmap(2) does; to end a
whole range never does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan, merged
from vfs_volatile.core.volatility import Volatility

_CUT = 2
"""Ranges that a span may make by cutting those of votes at its ends."""

Parts = Iterable[tuple[Volatility, PageSpan]]


def require_to_mark(memory: Memory, number: int, parts: Parts) -> None:
    """Raise SyscallError(ENOMEM) unless ``parts``, so many, may be marked.

    As soon as they might make too many: how many they make would take long to tell. ``parts`` are
    not looked at while there are few.
    """
    if 2 * memory.ranges + (1 + _CUT) * number > memory.most_ranges:
        gaps = cuts = 0
        for volatility, span in _merged(parts):
            gaps += 1 + volatility.ranges.number_in(span)
            cuts += _CUT * bool(volatility.ranges.voted)
        memory.require_ranges(gaps + cuts)


def require_to_unmark(memory: Memory, number: int, parts: Parts) -> None:
    """Raise SyscallError(ENOMEM) unless ``parts``, so many, may be unmarked; as above."""
    if memory.ranges + number > memory.most_ranges:
        split = sum(volatility.ranges.splits(span) for volatility, span in _merged(parts))
        if split:
            memory.require_ranges(split)


def _merged(parts: Parts) -> Iterator[tuple[Volatility, PageSpan]]:
    met: dict[Volatility, list[PageSpan]] = {}
    for volatility, span in parts:
        met.setdefault(volatility, []).append(span)
    for volatility, spans in met.items():
        for span in merged(spans):
            yield volatility, span
