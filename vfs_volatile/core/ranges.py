"""The volatile ranges of one file: ordered, never overlapping, never merged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from sortedcontainers import SortedDict

from vfs_volatile.abi.ioctls import PRIORITY_MASK, PRIORITY_SHIFT, VRANGE_PARTIAL

if TYPE_CHECKING:
    from vfs_volatile.core.address_space import AddressSpace


class PageSpan(NamedTuple):
    """Pages ``[first, end)`` of a file."""

    first: int
    end: int

    def __bool__(self) -> bool:
        return self.first < self.end

    def clip(self, other: PageSpan) -> PageSpan:
        """The part of this span that lies in ``other`` (empty and false if there is none)."""
        return PageSpan(max(self.first, other.first), min(self.end, other.end))

    def overlaps(self, other: PageSpan) -> bool:
        return self.first < other.end and other.first < self.end


class VolatileRange:
    """A run of pages that one mark made volatile, or what later unmarks left of it."""

    __slots__ = ("age", "behavior", "end", "first", "space")

    def __init__(self, space: AddressSpace, first: int, end: int, behavior: int, age: int) -> None:
        self.space = space
        self.first = first
        self.end = end
        self.behavior = behavior
        self.age = age
        """Number of the mark, unique in the mount and growing: the oldest goes first."""

    @property
    def span(self) -> PageSpan:
        return PageSpan(self.first, self.end)

    @property
    def partial(self) -> bool:
        """May the purger take single pages of it (VRANGE_PARTIAL), or only all (VRANGE_FULL)?"""
        return bool(self.behavior & VRANGE_PARTIAL)

    @property
    def order(self) -> tuple[int, int, int]:
        """Its place in the order of purging: priority, then age of the mark."""
        return ((self.behavior & PRIORITY_MASK) >> PRIORITY_SHIFT, self.age, self.first)


class RangeMap:
    """Volatile ranges by first page. Every call costs O(log ranges) and what it touches."""

    __slots__ = ("_by_first",)

    def __init__(self) -> None:
        # INVARIANT: key == value.first; values are non-empty and do not overlap.
        self._by_first: SortedDict[int, VolatileRange] = SortedDict()

    def __len__(self) -> int:
        return len(self._by_first)

    def __iter__(self) -> Iterator[VolatileRange]:
        return iter(self._by_first.values())

    def from_page(self, page: int) -> Iterator[VolatileRange]:
        """The range that holds ``page``, if one does, and all after it. Do not change meanwhile."""
        index = self._by_first.bisect_right(page) - 1
        if index >= 0 and self._by_first.peekitem(index)[1].end > page:
            page = self._by_first.keys()[index]
        for first in self._by_first.irange(page):
            yield self._by_first[first]

    def overlapping(self, span: PageSpan) -> Iterator[VolatileRange]:
        """The ranges that share a page with ``span``, in order. Do not change meanwhile."""
        if not self._by_first:
            return
        for found in self.from_page(span.first):
            if found.first >= span.end:
                return
            yield found

    def gaps(self, span: PageSpan) -> Iterator[PageSpan]:
        """The maximal runs of ``span`` that no range covers. Do not change meanwhile."""
        page = span.first
        for found in self.overlapping(span):
            if found.first > page:
                yield PageSpan(page, found.first)
            page = found.end
        if page < span.end:
            yield PageSpan(page, span.end)

    def add(self, new: VolatileRange) -> None:
        """Add a range that overlaps none."""
        self._by_first[new.first] = new

    def remove(self, old: VolatileRange) -> None:
        """Remove a range that is here. Raises KeyError if it is not."""
        del self._by_first[old.first]

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        end = 0
        for first, found in self._by_first.items():
            assert first == found.first >= end, "ranges overlap or are filed under a wrong page"
            assert found.first < found.end, "empty range"
            end = found.end
