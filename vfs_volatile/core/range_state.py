"""Which pages of one file are volatile, which are purged, and which purges are under way.

What is, and may be asked; :mod:`~vfs_volatile.core.volatility` is what changes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyroaring import BitMap

from vfs_volatile.abi.ioctls import STATE_PURGED, STATE_VOLATILE
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import (
    LAST_PAGE,
    PageSpan,
    any_in,
    last_page,
    next_page,
    page_set,
    run_end,
    run_first,
    within,
)
from vfs_volatile.core.ranges import RangeMap, VolatileRange

if TYPE_CHECKING:
    from vfs_volatile.core.address_space import AddressSpace


class Drain:
    """A purge under way: its data is dropped here, the kernel's copy perhaps not yet."""

    __slots__ = ("dropped", "pages", "purged", "refused", "space", "started")

    def __init__(self, space: AddressSpace) -> None:
        self.space = space
        self.pages = BitMap()
        """Pages whose write-back would be stale."""
        self.dropped = 0
        """Pages of memory that it freed."""
        self.purged = BitMap()
        """Pages that it made purged: those, and holes that the kernel wrote back meanwhile."""
        self.refused: OSError | MemoryError | None = None
        """Why it ended before it had dropped all: the system would not free a page."""
        self.started = False
        """Is the kernel being told?"""


class RangeState:
    """The volatile ranges of one file and the purged pages in them.

    It does not refer to whose they are, so that nothing of a deleted file waits for Python's
    garbage collector, which comes seldom (daemon/server.py); ranges do, and end before it.
    """

    __slots__ = (
        "_memory", "_resident", "counted", "direct", "drains", "idle", "lost", "pages", "purged",
        "ranges",
    )  # fmt: skip

    def __init__(self, memory: Memory, resident: BitMap) -> None:
        # -- dependencies --
        self._memory = memory
        self._resident = resident
        """The pages with data; its owner tells when it changes: added(), dropped()."""
        # -- mutable --
        self.direct = False
        """Do processes store without us? Then a range may hold pages that nobody has seen."""
        # INVARIANT: ends at or before the page that holds the end of file.
        self.ranges = RangeMap()
        # INVARIANT: if direct, the first pages of the ranges that are not in the purge queue.
        self.idle = BitMap()
        """Ranges that held nothing when they were looked at last."""
        self.pages = 0
        """How many pages the ranges hold together."""
        # INVARIANT: the number of ranges.
        self.counted = 0
        """So many does memory count of them."""
        # INVARIANT: every purged page is volatile. It is not resident either, unless touching it
        # reads zeros: then it may hold what was written since, which does not make it intact.
        self.purged = BitMap()
        # Pages that an unmark by xattr found purged and nobody has rewritten or truncated.
        # INVARIANT: below the end of file.
        self.lost = BitMap()
        # INVARIANT: every draining page is volatile.
        self.drains: list[Drain] = []

    def reads_zero(self, entry: VolatileRange) -> bool:
        """Do its purged pages read as zeros, or is touching them an error?"""
        return self._memory.reads_zero(entry.behavior)

    def first_denied(self, span: PageSpan) -> int | None:
        """The first page of ``span`` whose touch is an error."""
        if not self.purged or not any_in(self.purged, span):
            return None
        for entry in self.ranges.overlapping(span):
            if not self.reads_zero(entry):
                piece = span.clip(entry)
                page = next_page(self.purged, piece.first)
                if page is not None and page < piece.end:
                    return page
        # An unmark that ran out of memory has ended a range, and could not tell of its pages.
        return next(iter(within(self.purged, span) - self.ranges.covered), None)

    def reads_zero_throughout(self) -> bool:
        """Does no range make touching a page an error?"""
        return all(map(self.reads_zero, self.ranges))

    def denied(self, page: int) -> bool:
        """Is touching ``page`` an error?"""
        return self.first_denied(PageSpan(page, page + 1)) is not None

    def purged_reading_zero(self, span: PageSpan) -> BitMap:
        """The purged pages of ``span`` whose touch is no error."""
        pages = BitMap()
        if self.purged and any_in(self.purged, span):
            for entry in self.ranges.overlapping(span):
                if self.reads_zero(entry):
                    pages |= self.purged & page_set(span.clip(entry))
        return pages

    def marked(self, span: PageSpan) -> BitMap:
        """The pages of ``span`` that an fvrange mark covers."""
        return self.marked_of(page_set(span))

    def marked_of(self, pages: BitMap) -> BitMap:
        """Those of ``pages`` that an fvrange mark covers."""
        return (pages & self.ranges.covered) - self.ranges.voted

    def still_to_lose(self, pages: BitMap) -> BitMap:
        """Those of ``pages`` that are volatile and not purged."""
        return (pages & self.ranges.covered) - self.purged

    def run_from(self, page: int) -> tuple[PageSpan, int, int] | None:
        """The first run that ends after ``page``, its behavior and state: one range, one state."""
        for entry in self.ranges.from_page(page):
            span = self._run_in(entry.span, max(page, entry.first))
            state = STATE_PURGED if span.first in self.purged else STATE_VOLATILE
            return span, entry.behavior, state
        return None

    def draining(self, span: PageSpan) -> bool:
        """Is a purge under way on one of these pages?"""
        return bool(self.drains) and any(any_in(drain.pages, span) for drain in self.drains)

    def check(self, file_pages: BitMap) -> None:
        """Raise AssertionError if an invariant does not hold."""
        self.ranges.check()
        volatile = BitMap()
        for entry in self.ranges:
            volatile |= page_set(entry.span)
            has_resident = any_in(self._resident, entry)
            queued = entry in self._memory.queue
            if self.direct:
                assert queued == (entry.first not in self.idle), "neither queued nor idle"
                assert queued or not has_resident, "what holds something is not queued"
            else:
                assert queued == has_resident, "queue and residency differ"
            if not self.reads_zero(entry):
                denied = self.purged & page_set(entry.span)
                assert denied.isdisjoint(self._resident), "a purged page holds data"
        assert self.pages == len(volatile), "miscounted"
        assert self.counted == len(self.ranges), "ranges miscounted"
        assert self.idle <= BitMap(entry.first for entry in self.ranges), "idle, but no range"
        assert volatile <= file_pages, "volatile beyond the end of file"
        assert self.lost <= file_pages, "lost beyond the end of file"
        assert self.purged <= volatile, "purged but not volatile"
        for drain in self.drains:
            assert drain.pages <= volatile, "draining but not volatile"

    # ---- helpers ----

    def _run_in(self, span: PageSpan, page: int) -> PageSpan:
        """The maximal run of pages around ``page``, within ``span``, in one state."""
        if page in self.purged:
            run = PageSpan(run_first(self.purged, page), run_end(self.purged, page))
        else:
            before, after = last_page(self.purged, page), next_page(self.purged, page)
            run = PageSpan(
                0 if before is None else before + 1, LAST_PAGE if after is None else after
            )
        return run.clip(span)
