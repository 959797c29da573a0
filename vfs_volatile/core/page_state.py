"""What is told of the pages of a file: which are volatile, purged, lost, or draining."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from operator import add, le
from typing import NamedTuple

from pyroaring import BitMap

from vfs_volatile.core.byte_spans import (
    ByteSpan,
    bytes_in_file,
    bytes_of,
    clip,
    pages_touched,
    whole_pages,
)
from vfs_volatile.core.content import Content
from vfs_volatile.core.pages import PageSpan, count, runs
from vfs_volatile.errors import SyscallError
from vfs_volatile.units import PAGE_SIZE


class Run(NamedTuple):
    """What NEXT answers: volatile bytes of one range that are all purged or all not."""

    start: int
    length: int
    behavior: int
    state: int


class PageState(Content):
    """The state of the pages of one file, for whoever asks, in bytes."""

    __slots__ = ()

    def acknowledge_lost(self) -> None:
        """Whoever wanted to know what was lost knows it."""
        self.volatility.lost.clear()

    def next_run(self, start: int) -> Run:
        """The first run that ends after byte ``start``. Raises SyscallError(ENXIO) if none does."""
        found = self.volatility.run_from(start // PAGE_SIZE) if start < self.size else None
        if found is None:
            raise SyscallError(errno.ENXIO)
        span, behavior, state = found
        ((at, length),) = bytes_in_file([span], self.size)
        return Run(at, length, behavior, state)

    def volatile_spans(self) -> Iterator[ByteSpan]:
        """The volatile ranges, unmerged."""
        return bytes_in_file(self.volatility.ranges, self.size)

    def purged_spans(self) -> Iterator[ByteSpan]:
        """The runs of pages that are purged and still volatile."""
        return bytes_in_file(runs(self.volatility.purged), self.size)

    def lost_spans(self) -> Iterator[ByteSpan]:
        """The runs of pages that an unmark by xattr found purged, still unacknowledged."""
        return bytes_in_file(runs(self.volatility.lost), self.size)

    def purged_bytes(self, start: int, length: int) -> int:
        """How many bytes of the range are purged."""
        purged = self.volatility.purged
        if not purged:
            return 0
        start, end = clip(start, length, self.size)
        if start >= end:
            return 0
        return bytes_of(purged, (start, end), count(purged, pages_touched(start, end)))

    def purged_in_each(self, spans: Sequence[ByteSpan]) -> list[int]:
        """:meth:`purged_bytes` of each; however they overlap, no page is counted twice for it."""
        purged, size = self.volatility.purged, self.size
        if not purged:
            return [0] * len(spans)
        clipped = [clip(*span, size) for span in spans]
        clipped = [span if span[0] < span[1] else (0, 0) for span in clipped]
        met = [pages_touched(*span) for span in clipped]
        borders = sorted({page for span in met for page in span})
        between = (count(purged, PageSpan(*each)) for each in pairwise(borders))
        before = dict(zip(borders, accumulate(between, initial=0), strict=True))
        return [
            bytes_of(purged, span, before[pages.end] - before[pages.first])
            for span, pages in zip(clipped, met, strict=True)
        ]

    def _purged_in(self, starts: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """:meth:`purged_bytes` of many, which are in order."""
        hull = starts[-1] + lengths[-1] - starts[0]
        if not self.volatility.purged or not self.purged_bytes(starts[0], hull):
            return [0] * len(starts)
        return list(map(self.purged_bytes, starts, lengths))

    def zeroed_by_unmark(self, start: int, length: int) -> BitMap:
        """Purged pages that an unmark would turn to zeros while the kernel may hold other bytes."""
        if self.direct is not None:
            return BitMap()  # the kernel has no copy
        return self.volatility.purged_reading_zero(self.touched(start, length))

    def draining(self, span: PageSpan) -> bool:
        """Is a purge under way on one of these pages?"""
        return self.volatility.draining(span)

    def _pages_of_many(
        self,
        starts: Sequence[int],
        lengths: Sequence[int],
        pages_of: Callable[[int, int], PageSpan],
    ) -> tuple[list[int], list[int]]:
        """First pages, and ends, of spans if each begins where the one before ends or behind that;
        else none.
        """
        ends = list(map(add, starts, lengths))
        if not ends or not all(lengths) or not all(map(le, ends, starts[1:])):
            return [], []
        size = self.size
        found = whole_pages(starts, ends) if ends[-1] <= size else None
        if found is None:
            ends = [max(start, min(end, size)) for start, end in zip(starts, ends, strict=True)]
            firsts, ends = map(list, zip(*map(pages_of, starts, ends), strict=True))
            found = firsts, ends
        return found
