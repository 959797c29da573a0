"""Spans of bytes of a file, and the pages that they meet."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import or_

from pyroaring import BitMap

from vfs_volatile.core.pages import PageSpan, Spanning
from vfs_volatile.units import PAGE_SIZE, pages_for

ByteSpan = tuple[int, int]
"""(start, length) in bytes."""


def pages_touched(start: int, end: int) -> PageSpan:
    """The pages that bytes ``[start, end)`` meet."""
    return PageSpan(start // PAGE_SIZE, pages_for(end))


def pages_covered(start: int, end: int, size: int) -> PageSpan:
    """The pages that bytes ``[start, end)`` cover whole, in a file of ``size`` bytes.

    The last page of the file counts as whole when the bytes reach the end of the file.
    """
    return PageSpan(pages_for(start), pages_for(end) if end >= size else end // PAGE_SIZE)


def whole_pages(starts: Sequence[int], ends: Sequence[int]) -> tuple[list[int], list[int]] | None:
    """Pages ``[first, end)`` of many spans of bytes; None unless all of them are of whole pages.

    Such a span meets the pages that it covers. Without a call for each: they may be hundreds.
    """
    if (reduce(or_, starts, 0) | reduce(or_, ends, 0)) % PAGE_SIZE:
        return None
    return [start // PAGE_SIZE for start in starts], [end // PAGE_SIZE for end in ends]


def clip(start: int, length: int, size: int) -> ByteSpan:
    """(start, end) of bytes within a file of ``size``; length 0 reaches to its end."""
    return start, start + length if length and start + length < size else size


def bytes_of(pages: BitMap, span: ByteSpan, number: int) -> int:
    """How many bytes of ``span``, (start, end), lie in ``number`` of ``pages`` that it meets."""
    if not number:
        return 0
    start, end = span
    first, last = start // PAGE_SIZE, (end - 1) // PAGE_SIZE
    found = number * PAGE_SIZE
    if first in pages:
        found -= start - first * PAGE_SIZE
    if last in pages:
        found -= (last + 1) * PAGE_SIZE - end
    return found


def in_bytes(span: PageSpan) -> ByteSpan:
    """The bytes of ``span``, as (start, length)."""
    return span.first * PAGE_SIZE, (span.end - span.first) * PAGE_SIZE


def bytes_in_file(spans: Iterable[Spanning], size: int) -> Iterator[ByteSpan]:
    """The bytes of each of ``spans`` in a file of ``size`` bytes, as (start, length)."""
    for span in spans:
        start, end = span.first * PAGE_SIZE, span.end * PAGE_SIZE
        yield start, min(end, size) - start


class Met:
    """Pages of one file that were met, as runs that do not touch each other."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []

    def add(self, span: PageSpan) -> list[PageSpan]:
        """Those of ``span`` that were not met yet."""
        if not span:
            return []
        firsts, ends = self._firsts, self._ends
        low, high = bisect_left(ends, span.first), bisect_right(firsts, span.end)
        if low == high:
            firsts.insert(low, span.first)
            ends.insert(low, span.end)
            return [span]
        gaps = zip((span.first, *ends[low:high]), (*firsts[low:high], span.end), strict=True)
        new = [gap for gap in map(PageSpan._make, gaps) if gap]
        firsts[low:high] = [min(span.first, firsts[low])]
        ends[low:high] = [max(span.end, ends[high - 1])]
        return new

    def spans(self) -> list[PageSpan]:
        """All that were met, in order."""
        return list(map(PageSpan, self._firsts, self._ends))
