"""How ranges of one file are cut and end: few one by one, very many together.

The rules are those of :mod:`~vfs_volatile.core.address_space`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

from pyroaring import BitMap

from vfs_volatile.core.pages import PageSpan, add_runs, any_in
from vfs_volatile.core.purged import PurgedPages
from vfs_volatile.core.ranges import VolatileRange

_FEW_RANGES = 16
"""So many are ended one by one."""


class Cutting(PurgedPages):
    """The ranges of one file, as they are cut.

    Each change keeps the counts and the purge queue of the mount right.
    """

    __slots__ = ()

    def cut(self, *spans: PageSpan) -> None:
        """Cut ``spans`` out of the ranges; what is left of these keeps its age and behavior.

        ``spans`` do not overlap, and are in order.
        """
        old: list[VolatileRange] = []
        at_edges: list[VolatileRange] = []
        for span in spans:
            if not any_in(self.ranges.covered, span):
                continue
            met = self.ranges.all_overlapping(span)
            for entry in met if len(met) == 1 else (met[0], met[-1]):
                whole = span.first <= entry.first and entry.end <= span.end
                if not whole and not (at_edges and at_edges[-1] is entry):
                    at_edges.append(entry)
            old += met[1:] if old and old[-1] is met[0] else met
        if len(old) <= _FEW_RANGES and len(spans) == 1:
            for entry in old:
                cut = spans[0].clip(entry)
                self._replace(entry, cut, None)
                self._count(cut.first - cut.end)
        elif old:
            self._cut_all(old, _without(at_edges, spans))
        for span in spans if self.drains else ():
            self._leave_drains(span)

    def _cut_all(self, old: list[VolatileRange], left: list[VolatileRange]) -> None:
        """End ``old``, of which ``left`` is left."""
        self._end_all(old, [each.first for each in old], [each.end for each in old])
        if not left:
            return
        firsts, ends = [each.first for each in left], [each.end for each in left]
        self.ranges.add_all(firsts, ends, left)
        for each in left if any(each.voted for each in left) else ():
            if each.voted:
                self.ranges.voted.add_range(each.first, each.end)
        self._count(sum(ends) - sum(firsts))
        if not self.direct:
            left = list(compress(left, map(self._resident.range_cardinality, firsts, ends)))
        self._memory.enqueue_all(left)

    # ---- helpers ----

    def _count(self, pages: int) -> None:
        """The ranges hold so many pages more. All counts change, or none does."""
        memory, ranges = self._memory, len(self.ranges)
        mine, all_volatile = self.pages + pages, memory.volatile + pages
        all_ranges = memory.ranges + ranges - self.counted
        self.pages, memory.volatile = mine, all_volatile
        self.counted, memory.ranges = ranges, all_ranges

    def _add(self, new: VolatileRange) -> None:
        self.ranges.add(new)
        if self.direct or any_in(self._resident, new):
            self._memory.enqueue(new)

    def _enqueue(self, entry: VolatileRange) -> None:
        self.idle.discard(entry.first)
        self._memory.enqueue(entry)

    def _replace(self, old: VolatileRange, part: PageSpan, new: VolatileRange | None) -> None:
        """Put ``new`` in the place of ``part`` of ``old``."""
        self._memory.queue.discard(old)
        self.idle.discard(old.first)
        self.ranges.remove(old)
        if old.first < part.first:
            self._add(old.part(PageSpan(old.first, part.first)))
        if part.end < old.end:
            self._add(old.part(PageSpan(part.end, old.end)))
        if new is not None:
            self._add(new)

    def _end_all(self, old: list[VolatileRange], firsts: list[int], ends: list[int]) -> None:
        """End ranges ``[first, end)``."""
        pages = sum(ends) - sum(firsts)
        self.ranges.remove_all(firsts, ends)
        self._count(-pages)
        if not self.direct:
            ended = BitMap()
            add_runs(ended, firsts, ends)
            # To count in all that is resident takes some microseconds each; here it is often none.
            resident = self._resident & ended
            old = list(compress(old, map(resident.range_cardinality, firsts, ends)))
        self._memory.queue.discard_all(old)
        if self.idle:
            self.idle -= BitMap(firsts)

    def _leave_drains(self, span: PageSpan) -> None:
        for drain in self.drains:
            if span:
                drain.pages.remove_range(*span)


def _without(ranges: list[VolatileRange], spans: Sequence[PageSpan]) -> list[VolatileRange]:
    """What is left of ``ranges`` without ``spans``; both in order, and none overlaps another."""
    left: list[VolatileRange] = []
    at = 0
    for entry in ranges:
        page = entry.first
        while at < len(spans) and spans[at].end <= page:
            at += 1
        while at < len(spans) and spans[at].first < entry.end:
            if page < spans[at].first:
                left.append(entry.part(PageSpan(page, spans[at].first)))
            page = spans[at].end
            if page >= entry.end:
                break
            at += 1
        if page < entry.end:
            left.append(entry.part(PageSpan(page, entry.end)))
    return left
