"""The volatile ranges of one file: ordered, never overlapping, never merged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

from pyroaring import BitMap

from vfs_volatile.abi.ioctls import PRIORITY_MASK, PRIORITY_SHIFT, VRANGE_PARTIAL
from vfs_volatile.core.pages import PageSpan, last_page, next_page, run_end

if TYPE_CHECKING:
    from vfs_volatile.core.address_space import AddressSpace
    from vfs_volatile.core.anonymous import AnonymousSpace

Space: TypeAlias = "AddressSpace | AnonymousSpace"
"""What ranges are of: a file, or anonymous memory as one process has it."""


AT_ONCE = 1000
"""Ranges that are worked on in one go: some milliseconds. More are taken in steps, and between them
others get their turn."""

Order = tuple[int, int, int, int]
"""(priority, age, first page, whose): the lowest is purged first."""


class VolatileRange:
    """A run of pages that one mark made volatile, or what later unmarks left of it."""

    __slots__ = ("age", "behavior", "end", "first", "space", "voted")

    def __init__(
        self,
        space: Space,
        span: PageSpan,
        behavior: int,
        age: int,
        *,
        voted: bool = False,
    ) -> None:
        self.space = space
        self.first, self.end = span
        self.behavior = behavior
        self.age = age
        """Number of the mark, unique in the mount and growing: the oldest goes first."""
        self.voted = voted
        """Do votes of processes alone make it volatile, and no fvrange mark?"""

    def part(self, span: PageSpan, *, voted: bool | None = None) -> VolatileRange:
        """A range like this one, of ``span`` alone."""
        voted = self.voted if voted is None else voted
        return VolatileRange(self.space, span, self.behavior, self.age, voted=voted)

    @property
    def span(self) -> PageSpan:
        return PageSpan(self.first, self.end)

    @property
    def partial(self) -> bool:
        """May the purger take single pages of it (VRANGE_PARTIAL), or only all (VRANGE_FULL)?"""
        return bool(self.behavior & VRANGE_PARTIAL)

    @property
    def order(self) -> Order:
        """Its place in the order of purging: priority, then age of the mark.

        Of one mark there may be several ranges: what unmarks left of it, and copies of fork(2).
        """
        priority = (self.behavior & PRIORITY_MASK) >> PRIORITY_SHIFT
        return (priority, self.age, self.first, self.space.ino)


class RangeMap:
    """Volatile ranges by first page.

    No call costs more for there being many: the set of first pages is compressed, so a search in
    it stays within a few cache lines, where a sorted list of a million misses at each step.
    """

    __slots__ = ("_by_first", "_firsts", "covered", "voted")

    def __init__(self) -> None:
        # INVARIANT: key == value.first; values are non-empty and do not overlap.
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
        before = last_page(self._firsts, page)
        if before is not None and self._by_first[before].end > page:
            page = before
        for first in self._firsts.iter_equal_or_larger(page):
            yield self._by_first[first]

    def overlapping(self, span: PageSpan) -> Iterator[VolatileRange]:
        """The ranges that share a page with ``span``, in order. Do not change meanwhile."""
        if not self._by_first:
            return
        for found in self.from_page(span.first):
            if found.first >= span.end:
                return
            yield found

    def of_votes(self, span: PageSpan) -> Iterator[VolatileRange]:
        """Those that share a page with ``span`` and that votes alone made, in order, without going
        through the others. Do not change meanwhile.
        """
        page = next_page(self.voted, span.first)
        while page is not None and page < span.end:
            entry = next(self.from_page(page))
            yield entry
            page = next_page(self.voted, entry.end)

    def gaps(self, span: PageSpan) -> Iterator[PageSpan]:
        """The maximal runs of ``span`` that no range covers. Do not change meanwhile."""
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
        return int(self._firsts.rank(span.end - 1) - self._firsts.rank(span.first))

    def step_end(self, span: PageSpan) -> int:
        """The page up to which ``span`` meets AT_ONCE ranges or so; its end if no more do."""
        index = self._firsts.rank(span.first) + AT_ONCE if span else len(self)
        return min(span.end, self._firsts[index]) if index < len(self) else span.end

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
        del self._by_first[old.first]
        self._firsts.remove(old.first)
        self.covered.remove_range(old.first, old.end)
        if old.voted:
            self.voted.remove_range(old.first, old.end)

    def add_all(self, new: list[VolatileRange]) -> None:
        """Add ranges that overlap none and not each other, and are marks."""
        firsts = [entry.first for entry in new]
        self._by_first.update(zip(firsts, new, strict=True))
        self._firsts.update(firsts)
        for entry in new:
            self.covered.add_range(entry.first, entry.end)

    def exactly(self, spans: list[PageSpan]) -> list[VolatileRange] | None:
        """The ranges that ``spans`` are, one by one; None if one of them is none."""
        found = []
        for first, end in spans:
            entry = self._by_first.get(first)
            if entry is None or entry.end != end:
                return None
            found.append(entry)
        return found

    def remove_all(self, old: list[VolatileRange]) -> None:
        """Remove ranges that are here."""
        for entry in old:
            del self._by_first[entry.first]
            self.covered.remove_range(entry.first, entry.end)
            if self.voted:
                self.voted.remove_range(entry.first, entry.end)
        self._firsts -= BitMap([entry.first for entry in old])

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
