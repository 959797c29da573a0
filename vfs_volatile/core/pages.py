"""Sets of pages, spans of bytes as pages, and the store that page data lives in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from pyroaring import BitMap

from vfs_volatile.units import PAGE_SIZE, pages_for

LAST_PAGE = 1 << 32
"""One past the highest page of any file: page numbers are 32 bits, as in ext4."""
_NEAR = 4
"""How far asking page by page is faster than counting."""
MAX_BYTES = LAST_PAGE * PAGE_SIZE
"""No file is larger (EFBIG): 16 TiB with pages of 4 KiB."""


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


class Extent(NamedTuple):
    """Bytes of an open file of the daemon's, until something is stored or dropped."""

    fd: int
    offset: int
    length: int


class PageStore(Protocol):
    """Where an address_space keeps the data of its resident pages. Absent bytes read as zeros."""

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``."""

    def extent(self, offset: int, length: int) -> Extent | None:
        """Where these bytes can be read as part of a file; None if they lie in no one part."""

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Store ``data``. Raises OSError when memory or descriptors run out."""

    def zero(self, offset: int, length: int) -> None:
        """Make bytes zero, their pages may stay. Raises OSError."""

    def allocate(self, span: PageSpan) -> None:
        """Hold zeroed memory for absent pages. Raises OSError."""

    def drop(self, span: PageSpan) -> None:
        """Free the memory of pages."""

    def truncate(self, size: int) -> None:
        """Free everything from byte ``size`` on, also within its page."""

    def close(self) -> None:
        """Free everything."""


class DirectStore(PageStore, Protocol):
    """A store that processes reach without us: pages come to it, and it grows, unseen.

    It knows the size of its file, never shrinks or loses a page unseen, and ``drop`` takes nothing
    but what it is told to.
    """

    def size(self) -> int:
        """Bytes of the file."""

    def held(self) -> int:
        """Pages that the file holds in memory."""

    def next_data(self, page: int) -> int | None:
        """The first page from ``page`` on that holds memory, below the end of file."""

    def next_hole(self, page: int) -> int:
        """The first page from ``page`` on, which holds memory, that holds none."""


def pages_touched(start: int, end: int) -> PageSpan:
    """The pages that bytes ``[start, end)`` meet."""
    return PageSpan(start // PAGE_SIZE, pages_for(end))


def pages_covered(start: int, end: int, size: int) -> PageSpan:
    """The pages that bytes ``[start, end)`` cover whole, in a file of ``size`` bytes.

    The last page of the file counts as whole when the bytes reach the end of the file.
    """
    return PageSpan(pages_for(start), pages_for(end) if end >= size else end // PAGE_SIZE)


def page_set(span: PageSpan) -> BitMap:
    """A new set of the pages of ``span``."""
    pages = BitMap()
    if span:
        pages.add_range(span.first, span.end)
    return pages


def within(pages: BitMap, span: PageSpan) -> BitMap:
    """A new set of those of ``pages`` that lie in ``span``."""
    if not pages:
        return BitMap()
    return pages & page_set(span.clip(PageSpan(0, pages.max() + 1)))


def count(pages: BitMap, span: PageSpan) -> int:
    """How many of ``pages`` lie in ``span``."""
    if span.end - span.first == 1:
        return int(span.first in pages)  # many times faster than counting
    return pages.range_cardinality(span.first, span.end) if span else 0


def next_page(pages: BitMap, page: int) -> int | None:
    """The first of ``pages`` at or after ``page``."""
    try:
        return pages.next_set_bit(page) if page < LAST_PAGE else None
    except ValueError:
        return None


def last_page(pages: BitMap, page: int) -> int | None:
    """The last of ``pages`` at or before ``page``."""
    for near in range(page, max(-1, page - _NEAR), -1):
        if near in pages:
            return near
    rank = pages.rank(page)
    return pages[rank - 1] if rank else None


def run_end(pages: BitMap, first: int) -> int:
    """The end of the run of consecutive ``pages`` that starts at ``first``; O(log run)."""
    step = 1
    while first + step < LAST_PAGE and pages.contains_range(first, first + step):
        step *= 2
    inside, beyond = first, min(first + step, LAST_PAGE) + 1
    while beyond - inside > 1:
        middle = (inside + beyond) // 2
        if pages.contains_range(first, middle):
            inside = middle
        else:
            beyond = middle
    return inside


def run_first(pages: BitMap, last: int) -> int:
    """The start of the run of consecutive ``pages`` that ends with ``last``, one of them."""
    step = 1
    while step <= last and pages.contains_range(last - step, last):
        step *= 2
    inside, beyond = last, max(last - step, -1)
    while inside - beyond > 1:
        middle = (inside + beyond) // 2
        if pages.contains_range(middle, last):
            inside = middle
        else:
            beyond = middle
    return inside


def runs(pages: BitMap) -> Iterator[PageSpan]:
    """The maximal runs of consecutive ``pages``, in order. Do not change them meanwhile."""
    first = next_page(pages, 0)
    while first is not None:
        end = run_end(pages, first)
        yield PageSpan(first, end)
        first = next_page(pages, end)


def present(store: DirectStore, span: PageSpan) -> Iterator[PageSpan]:
    """The runs of pages of ``span`` that hold memory at this moment, in order."""
    page: int | None = span.first
    while page is not None and (page := store.next_data(page)) is not None and page < span.end:
        end = min(store.next_hole(page), span.end)
        yield PageSpan(page, end)
        page = end
