"""The volatile ranges of one file: ordered, never overlapping, never merged."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from pyroaring import BitMap

from vfs_volatile.abi.ioctls import PRIORITY_MASK, PRIORITY_SHIFT, VRANGE_PARTIAL
from vfs_volatile.core.pages import (
    PageSpan,
    add_runs,
    any_in,
    count,
    for_each,
    last_page,
    next_page,
    remove_runs,
    run_end,
    within,
)

if TYPE_CHECKING:
    from vfs_volatile.core.address_space import AddressSpace
    from vfs_volatile.core.anonymous import AnonymousSpace

Space: TypeAlias = "AddressSpace | AnonymousSpace"
"""What ranges are of: a file, or anonymous memory as one process has it."""


AT_ONCE = 1000
"""Ranges that are worked on in one go: some milliseconds. More are taken in steps, and between them
others get their turn."""
_FEW = 16
"""So many are taken one by one."""

Order = tuple[int, int, int, int]
"""(priority, age, first page, whose): the lowest is purged first."""


class VolatileRange(NamedTuple):
    """A run of pages that one mark made volatile, or what later unmarks left of it.

    Ranges sort in the order in which they are purged: by priority, then age of the mark. Of one
    mark there may be several: what unmarks left of it, and copies of fork(2).
    """

    priority: int
    age: int
    """Number of the mark, unique in the mount and growing: the oldest goes first."""
    first: int
    ino: int
    """Of ``space``."""
    end: int
    behavior: int
    voted: bool
    """Do votes of processes alone make it volatile, and no fvrange mark?"""
    space: Space

    @classmethod
    def make(
        cls, space: Space, span: PageSpan, behavior: int, age: int, *, voted: bool = False
    ) -> VolatileRange:
        """A range of pages of ``space``."""
        first, end = span
        return cls(_priority(behavior), age, first, space.ino, end, behavior, voted, space)

    @classmethod
    def make_all(
        cls, space: Space, firsts: Sequence[int], ends: Sequence[int], behavior: int, age: int
    ) -> list[VolatileRange]:
        """A range for each of many marks, the first of age ``age``; without a call for each."""
        fields = zip(
            repeat(_priority(behavior)),
            itertools.count(age),
            firsts,
            repeat(space.ino),
            ends,
            repeat(behavior),
            repeat(False),
            repeat(space),
        )
        return list(map(tuple.__new__, repeat(cls), fields))

    def part(self, span: PageSpan, *, voted: bool | None = None) -> VolatileRange:
        """A range like this one, of ``span`` alone."""
        voted = self.voted if voted is None else voted
        return self._replace(first=span.first, end=span.end, voted=voted)

    @property
    def order(self) -> Order:
        """Its place in the order of purging, which no other range shares."""
        return self[:4]

    @property
    def span(self) -> PageSpan:
        return PageSpan(self.first, self.end)

    @property
    def partial(self) -> bool:
        """May the purger take single pages of it (VRANGE_PARTIAL), or only all (VRANGE_FULL)?"""
        return bool(self.behavior & VRANGE_PARTIAL)


def _priority(behavior: int) -> int:
    return (behavior & PRIORITY_MASK) >> PRIORITY_SHIFT


class RangeMap:
    """Volatile ranges by first page.

    No call costs more for there being many: the set of first pages is compressed, so a search in
    it stays within a few cache lines, where a sorted list of a million misses at each step.
    """

    __slots__ = ("_by_first", "_firsts", "covered", "voted")

    def __init__(self) -> None:
        # INVARIANT: key == value.first; values are non-empty and do not overlap. They are the first
        # here that comes and the last that goes, so all else can be made from them: mend().
        self._by_first: dict[int, VolatileRange] = {}
        # INVARIANT: the keys of _by_first.
        self._firsts = BitMap()
        # INVARIANT: the pages of all ranges, and of those that votes alone made.
        self.covered = BitMap()
        self.voted = BitMap()

    def __len__(self) -> int:
        return len(self._by_first)

    def __iter__(self) -> Iterator[VolatileRange]:
        return map(self._by_first.__getitem__, self._firsts)

    def at(self, first: int) -> VolatileRange:
        """The range that starts at ``first``. Raises KeyError if none does."""
        return self._by_first[first]

    def from_page(self, page: int) -> Iterator[VolatileRange]:
        """The range that holds ``page``, if one does, and all after it. Do not change meanwhile."""
        before = last_page(self._firsts, page, few=len(self) <= AT_ONCE)
        if before is not None and self._by_first[before].end > page:
            page = before
        if next_page(self._firsts, page) is not None:
            for first in self._firsts.iter_equal_or_larger(page):
                yield self._by_first[first]

    def overlapping(self, span: PageSpan) -> Iterator[VolatileRange]:
        """The ranges that share a page with ``span``, in order. Do not change meanwhile."""
        if not self._by_first:
            return
        there = self._by_first.get(span.first)
        if there is not None and span.first < span.end <= there.end:  # most go as they came
            yield there
            return
        for found in self.from_page(span.first):
            if found.first >= span.end:
                return
            yield found

    def all_overlapping(self, span: PageSpan) -> list[VolatileRange]:
        """As :meth:`overlapping`; of many without a step of the interpreter for each."""
        if self.number_in(span) <= _FEW:
            return list(self.overlapping(span))
        first = next(self.overlapping(span))
        rest = within(self._firsts, PageSpan(first.first + 1, span.end))
        return [first, *map(self._by_first.__getitem__, rest)]

    def of_votes(self, span: PageSpan) -> Iterator[VolatileRange]:
        """Those that share a page with ``span`` and that votes alone made, in order, without going
        through the others. Do not change meanwhile.
        """
        page = next_page(self.voted, span.first)
        while page is not None and page < span.end:
            entry = next(self.from_page(page))
            yield entry
            page = next_page(self.voted, entry.end)

    def gaps(self, span: PageSpan, most: int | None = None) -> list[PageSpan]:
        """The maximal runs of ``span`` that no range covers; the first ``most`` of them."""
        if span and not any_in(self.covered, span):  # most are marked where nothing is
            return [span]
        return list(itertools.islice(self._gaps(span), most))

    def _gaps(self, span: PageSpan) -> Iterator[PageSpan]:
        page = span.first
        while page < span.end:
            if page in self.covered:
                page = run_end(self.covered, page)
                continue
            after = next_page(self.covered, page)
            end = span.end if after is None else min(after, span.end)
            yield PageSpan(page, end)
            page = end

    def number_in(self, span: PageSpan) -> int:
        """How many ranges share a page with ``span``, or one less."""
        if not span:
            return 0
        return count(self._firsts, PageSpan(span.first + 1, span.end))

    def splits(self, span: PageSpan) -> bool:
        """Does a range reach beyond ``span`` on both sides? To end ``span`` makes two of it."""
        entry = next(self.overlapping(span), None)
        return entry is not None and entry.first < span.first and span.end < entry.end

    def step_end(self, span: PageSpan) -> int:
        """The page up to which ``span`` meets AT_ONCE ranges or so; its end if no more do."""
        if self.number_in(span) <= AT_ONCE:  # asked first: a rank takes long in a set of far pages
            return span.end
        return int(min(span.end, self._firsts[self._firsts.rank(span.first) + AT_ONCE]))

    def last_step(self) -> int:
        """The page from which AT_ONCE ranges begin; 0 if there are no more."""
        return self._firsts[len(self) - AT_ONCE] if len(self) > AT_ONCE else 0

    def add(self, new: VolatileRange) -> None:
        """Add a range that overlaps none."""
        self._by_first[new.first] = new
        self._firsts.add(new.first)
        self.covered.add_range(new.first, new.end)
        if new.voted:
            self.voted.add_range(new.first, new.end)

    def remove(self, old: VolatileRange) -> None:
        """Remove a range that is here. Raises KeyError if it is not."""
        self.covered.remove_range(old.first, old.end)
        if old.voted:
            self.voted.remove_range(old.first, old.end)
        self._firsts.remove(old.first)
        del self._by_first[old.first]

    def add_all(self, firsts: Sequence[int], ends: Sequence[int], new: list[VolatileRange]) -> None:
        """Add ranges ``[first, end)`` that overlap none and not each other, and are marks."""
        self._by_first.update(zip(firsts, new, strict=True))
        self._firsts.update(firsts)
        add_runs(self.covered, firsts, ends)

    def has(self, entry: VolatileRange) -> bool:
        """Is just this range here?"""
        return self._by_first.get(entry.first) == entry

    def exactly(self, firsts: list[int], ends: list[int]) -> list[VolatileRange] | None:
        """The ranges that are ``[first, end)`` one by one; None if one of them is no range."""
        found = [entry for entry in map(self._by_first.get, firsts) if entry is not None]
        if len(found) != len(firsts) or [entry.end for entry in found] != ends:
            return None
        return found

    def remove_all(self, firsts: Sequence[int], ends: Sequence[int]) -> None:
        """Remove ranges that are :meth:`exactly` here."""
        remove_runs(self.covered, firsts, ends)
        if self.voted:
            remove_runs(self.voted, firsts, ends)
        self._firsts -= BitMap(firsts)
        for_each(self._by_first.pop, firsts)

    def mend(self, end: int, newest: int) -> None:
        """Let all follow from the ranges by first page, if memory ran out during a change.

        Those go that lie beyond page ``end``, or are younger than ``newest``. In place: of very
        many there may be no memory for a copy.
        """
        firsts, covered, voted, gone = BitMap(), BitMap(), BitMap(), BitMap()
        for first, entry in self._by_first.items():
            if entry.age > newest or first >= end:
                gone.add(first)
                continue
            if entry.end > end:
                entry = self._by_first[first] = entry.part(PageSpan(first, end))
            firsts.add(first)
            covered.add_range(first, entry.end)
            if entry.voted:
                voted.add_range(first, entry.end)
        self._firsts, self.covered, self.voted = firsts, covered, voted
        for_each(self._by_first.pop, gone)  # last: what is found by the sets is there

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        assert self._firsts == BitMap(self._by_first), "the set of first pages is wrong"
        pages = {entry: range(entry.first, entry.end) for entry in self}
        assert self.covered == BitMap().union(*map(BitMap, pages.values()))
        voted = [BitMap(pages[entry]) for entry in self if entry.voted]
        assert self.voted == BitMap().union(*voted)
        end = 0
        for first in self._firsts:
            found = self._by_first[first]
            assert first == found.first >= end, "ranges overlap or are filed under a wrong page"
            assert found.first < found.end, "empty range"
            end = found.end
