"""What was purged lately, and why: one record for each purge, kept in one place."""

from __future__ import annotations

from collections import Counter, deque
from enum import StrEnum
from typing import NamedTuple

_KEPT = 10
_ONE_PURGE_SECONDS = 1.0
"""Purges with the same cause and a shorter pause between them are told as one."""


class Cause(StrEnum):
    """Why pages were purged."""

    BUDGET = "budget"
    """More than the budget was resident."""
    WRITER = "writer"
    """A writer needed room, faster than the budget is kept."""
    SYSTEM = "pressure-system"
    """The machine ran short of memory."""
    CGROUP = "pressure-cgroup"
    """The daemon's cgroup ran short of memory."""
    REQUEST = "request"
    """Somebody asked for it."""


class Purged(NamedTuple):
    """One purge. Times are seconds since the epoch."""

    began: float
    ended: float
    cause: Cause
    pages: int
    """Pages of memory that it freed."""


class History:
    """The last purges, and the pages that each cause has freed."""

    def __init__(self) -> None:
        self.freed: Counter[Cause] = Counter(dict.fromkeys(Cause, 0))
        """Pages."""
        self.recent: deque[Purged] = deque(maxlen=_KEPT)
        """Oldest first."""
        self.pressure_events = 0
        """How often the kernel told of a shortage of memory."""
        self.pressure_elsewhere = 0
        """Of these, how often the machine had plenty: somebody had reached a limit of their own."""

    def record(self, cause: Cause, pages: int, now: float) -> None:
        """``pages`` were freed ``now`` for ``cause``; 0 is no purge."""
        if not pages:
            return
        self.freed[cause] += pages
        began = now
        if self.recent:
            last = self.recent[-1]
            if last.cause is cause and now - last.ended < _ONE_PURGE_SECONDS:
                self.recent.pop()
                began, pages = last.began, last.pages + pages
        self.recent.append(Purged(began, now, cause, pages))
