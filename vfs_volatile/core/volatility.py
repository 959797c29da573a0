"""What becomes of the volatile ranges and purged pages of one file, in pages; no data, no bytes.

The rules are those of :mod:`~vfs_volatile.core.address_space`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, islice
from operator import lt
from typing import TYPE_CHECKING

from pyroaring import BitMap

from vfs_volatile.core.cutting import Cutting
from vfs_volatile.core.pages import (
    LAST_PAGE,
    DirectStore,
    PageSpan,
    any_in,
    count,
    last_page,
    next_page,
    page_set,
)
from vfs_volatile.core.ranges import VolatileRange

if TYPE_CHECKING:
    from vfs_volatile.core.ranges import Space


class Volatility(Cutting):
    """The volatile ranges of one file and the purged pages in them, as they change.

    Each change keeps the counts and the purge queue of the mount right.
    """

    __slots__ = ()

    def mark(
        self,
        space: Space,
        span: PageSpan,
        behavior: int,
        *,
        voted: bool = False,
        age: int | None = None,
        most: int | None = None,
    ) -> int:
        """Make the pages of ``span`` volatile that are not; the page reached. ``space``: its owner.

        That is its end, unless there are more than ``most`` gaps, or ranges of votes. ``age``: of
        the mark that this is a step of, if it has one. What votes alone made volatile keeps its age
        and behavior, and needs no votes any more if this mark is none. Raises SyscallError(ENOMEM),
        and nothing has changed then.
        """
        gaps = self.ranges.gaps(span, most)
        self._memory.require_ranges(len(gaps))
        if gaps and age is None:
            age = self._memory.next_age()
        for gap in gaps:
            assert age is not None
            self._add(VolatileRange.make(space, gap, behavior, age, voted=voted))
            self._count(gap.end - gap.first)
        done = span if len(gaps) != most else PageSpan(span.first, gaps[-1].end)
        return done.end if voted else self._mark_voted(done, most)

    def _mark_voted(self, span: PageSpan, most: int | None) -> int:
        """Let what votes alone made volatile in ``span`` need none; the page reached."""
        if not self.ranges.voted:
            return span.end
        entries = list(islice(self.ranges.of_votes(span), most))
        for entry in entries:
            taken = span.clip(entry)
            self._replace(entry, taken, entry.part(taken, voted=False))
        self._count(0)
        return span.end if len(entries) != most else min(span.end, entries[-1].end)

    def mark_new(
        self, space: Space, firsts: Sequence[int], ends: Sequence[int], behavior: int
    ) -> bool:
        """As :meth:`mark` for each ``[first, end)``, which are in order and do not overlap.

        False, and nothing has changed, if one of them is volatile already or empty.
        """
        if not firsts or not all(map(lt, firsts, ends)):
            return False
        hull = PageSpan(firsts[0], ends[-1])
        if next(self.ranges.overlapping(hull), None) is not None:
            return False
        memory, resident = self._memory, self._resident
        age = memory.newest_age + 1
        new = VolatileRange.make_all(space, firsts, ends, behavior, age)
        pages = sum(ends) - sum(firsts)
        memory.newest_age += len(new)
        self.ranges.add_all(firsts, ends, new)
        self._count(pages)
        if not self.direct and count(resident, hull) < hull.end - hull.first:
            new = list(compress(new, map(resident.range_cardinality, firsts, ends)))
        memory.enqueue_all(new)
        return True

    def unmark_whole(self, firsts: list[int], ends: list[int]) -> bool:
        """As :meth:`unmark` for each ``[first, end)``, none of which has a purged page.

        False, and nothing has changed, if one of them is not exactly a range.
        """
        if self.drains or not firsts:
            return False
        old = self.ranges.exactly(firsts, ends)
        if old is None:
            return False
        self._end_all(old, firsts, ends)
        return True

    def unmark(self, *spans: PageSpan) -> None:
        """Cut ``spans`` out of the ranges, and forget the purged pages there.

        That comes last: no lack of memory comes after the first of them.
        """
        self.cut(*spans)
        self.forget_purged(*spans)

    def truncate(self, first: int) -> None:
        """Forget everything about the pages from ``first`` on."""
        beyond = PageSpan(first, LAST_PAGE)
        self.unmark(beyond)
        self.lost.remove_range(*beyond)

    def rewritten(self, span: PageSpan) -> None:
        """These pages were stored whole: neither purged, nor lost, nor stale if written back."""
        if self.purged or self.lost:
            self.zeroed(span)
        if self.drains:
            self._leave_drains(span)

    def zeroed(self, span: PageSpan) -> None:
        """These pages were made zero on purpose: neither purged nor lost."""
        if span:
            self.forget_purged(span)
            self.lost.remove_range(*span)

    def added(self, span: PageSpan) -> None:
        """Pages of ``span`` became resident."""
        for entry in self.ranges.overlapping(span):
            self._enqueue(entry)

    def dropped(self, span: PageSpan) -> None:
        """Pages of ``span`` are no longer resident, if they were; if direct, this was seen now."""
        for entry in self.ranges.overlapping(span):
            whole = span.first <= entry.first and entry.end <= span.end
            if self.direct and not whole:
                continue  # of the rest nobody knows
            if any_in(self._resident, entry) if whole else self._holds_any(entry, span.first):
                continue
            self._memory.queue.discard(entry)
            if self.direct:
                self.idle.add(entry.first)

    def _holds_any(self, entry: VolatileRange, near: int) -> bool:
        """Is a page of ``entry`` resident? Sought from page ``near`` on first: what is dropped in
        parts is dropped upwards, and to pass all that has gone each time would take long.
        """
        near = min(max(near, entry.first), entry.end)
        after, before = PageSpan(near, entry.end), PageSpan(entry.first, near)
        return any_in(self._resident, after) or any_in(self._resident, before)

    def go_direct(self) -> None:
        """From now on processes store without us: any range may hold something."""
        self.direct = True
        for entry in self.ranges:
            self._enqueue(entry)

    def refilled(self, store: DirectStore) -> None:
        """Queue the idle ranges that hold something by now."""
        page = next_page(self.idle, 0)
        while page is not None and (data := store.next_data(page)) is not None:
            first = last_page(self.idle, data)
            assert first is not None  # page itself, if no other
            entry = self.ranges.at(first)
            if data < entry.end:
                self._enqueue(entry)
            page = next_page(self.idle, data)

    def said(self, span: PageSpan, purged: BitMap) -> None:
        """What is resident in ``span`` may have changed, and just ``purged`` of it is purged.

        Of anonymous memory, which only its process sees.
        """
        possible = BitMap()
        for entry in self.ranges.overlapping(span):
            piece = page_set(span.clip(entry))
            possible |= piece if self.reads_zero(entry) else piece - self._resident
            if any_in(self._resident, entry):
                self._memory.enqueue(entry)
            else:
                self._memory.queue.discard(entry)
        healed = (self.purged & page_set(span)) - purged
        left = self._memory.purged - len(healed)
        self.purged -= healed
        self._memory.purged = left
        self.set_purged(purged & possible)

    def inherit(self, space: Space, parent: Volatility) -> None:
        """fork(2): copies for ``space``, its owner, of the parent's marks, as old as they are.

        Nothing is here yet.
        """
        new = [
            VolatileRange.make(space, entry.span, entry.behavior, entry.age)
            for entry in parent.ranges
        ]
        self.ranges.add_all([entry.first for entry in new], [entry.end for entry in new], new)
        self._count(parent.pages)
        self._memory.enqueue_all([entry for entry in new if any_in(self._resident, entry)])
        purged = self._memory.purged + len(parent.purged)
        self.purged |= parent.purged
        self._memory.purged = purged

    def mend_ranges(self, end: int, newest: int) -> BitMap:
        """Let all about the ranges follow from them again, up to page ``end``, after a change that
        ran out of memory; the purged pages that no range covers any more.

        Ranges younger than ``newest`` are ended.
        """
        self.ranges.mend(end, newest)
        self.lost.remove_range(end, LAST_PAGE)
        self.forget_purged(PageSpan(end, LAST_PAGE))
        for drain in self.drains:
            drain.pages &= self.ranges.covered
        return self.purged - self.ranges.covered

    def mend_order(self, space: Space) -> None:
        """The same for counts and the purge queue, when what is resident is known. ``space``: its
        owner.
        """
        self._count(len(self.ranges.covered) - self.pages)
        self.idle.clear()
        queue = self._memory.queue

        def holds(entry: VolatileRange) -> bool:
            return self.direct or any_in(self._resident, entry)

        queued = queue.mend(space, lambda entry: self.ranges.has(entry) and holds(entry))
        for entry in self.ranges:
            if entry.first not in queued and holds(entry):
                queue.add(entry)
        self._memory.signal_pressure()
