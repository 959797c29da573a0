"""Sets of pages, and the store that page data lives in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from pyroaring import BitMap

from vfs_volatile.units import PAGE_SIZE

LAST_PAGE = 1 << 32
"""One past the highest page of any file: page numbers are 32 bits, as in ext4."""
_NEAR = 4
"""How far asking page by page is faster than counting."""
_FAR = 1 << 24
"""So many pages are looked through at once. What a set says of all of them takes it a step for each
65,536: too much to be asked for each page."""
_FARTHER = 16
CHUNK_PAGES = 4096
"""What a store zeroes, drops or allocates within a multiple of so many pages it does at once."""
MAX_BYTES = LAST_PAGE * PAGE_SIZE
"""No file is larger (EFBIG): 16 TiB with pages of 4 KiB."""


class Spanning(Protocol):
    """Pages ``[first, end)``, or what is of them."""

    @property
    def first(self) -> int: ...
    @property
    def end(self) -> int: ...


class PageSpan(NamedTuple):
    """Pages ``[first, end)`` of a file."""

    first: int
    end: int

    def __bool__(self) -> bool:
        return self.first < self.end

    def clip(self, other: Spanning) -> PageSpan:
        """The part of this span that lies in ``other`` (empty and false if there is none)."""
        first, end = other.first, other.end
        if first < self.first:
            first = self.first
        if end > self.end:
            end = self.end
        return PageSpan(first, end)

    def overlaps(self, other: PageSpan) -> bool:
        return self.first < other.end and other.first < self.end


class Extent(NamedTuple):
    """Bytes of an open file of the daemon's, until something is stored or dropped."""

    fd: int
    offset: int
    length: int
    before: int = 0
    after: int = 0
    """So many bytes before it and after it belong to the same file, in the same order, and may be
    read as well."""


class Lent(Protocol):
    """Bytes to be stored that are not in memory yet: taken once, by one of the two."""

    def __len__(self) -> int: ...

    def fetch(self) -> memoryview:
        """Have them in memory, for as long as they are lent. Raises OSError."""

    def move(self, fd: int, offset: int) -> int:
        """Store them in an open file of the daemon's; how many, as write(2). Raises OSError."""


Data = bytes | memoryview | Lent
"""Bytes to be stored."""


def in_memory(data: Data) -> bytes | memoryview:
    """Bytes to be stored, fetched if they are lent. Raises OSError."""
    return data if isinstance(data, bytes | memoryview) else data.fetch()


class PageStore(Protocol):
    """Where an address_space keeps the data of its resident pages. Absent bytes read as zeros.

    A call raises OSError or MemoryError when the system refuses what it needs. Nothing has changed
    then, if it was about one chunk (CHUNK_PAGES); of several the first may be done.
    """

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``."""

    def extent(self, offset: int, length: int) -> Extent | None:
        """Where these bytes can be read as part of a file; None if they lie in no one part."""

    def write(self, offset: int, data: Data) -> int:
        """Store ``data``; the bytes stored, fewer if the system refuses memory for the rest."""

    def zero(self, offset: int, length: int) -> None:
        """Make bytes zero and free the pages wholly inside."""

    def allocate(self, span: PageSpan) -> None:
        """Hold zeroed memory for absent pages."""

    def drop(self, span: PageSpan) -> None:
        """Free the memory of pages."""

    def truncate(self, size: int) -> None:
        """Free everything from byte ``size`` on, also within its page: all, or nothing."""

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

    def held_in(self, span: PageSpan) -> int:
        """How many pages of ``span``, which is not empty, hold memory: touched, or allocated."""

    def next_data(self, page: int) -> int | None:
        """The first page from ``page`` on that was touched, below the end of file."""

    def allocate(self, span: PageSpan) -> None:
        """Hold zeroed memory for absent pages; those that are there stay from now on."""


def in_chunk(page: int, end: int) -> PageSpan:
    """The pages from ``page`` to the end of its chunk, or to ``end`` if that comes first."""
    return PageSpan(page, min(end, (page // CHUNK_PAGES + 1) * CHUNK_PAGES))


def page_set(span: PageSpan) -> BitMap:
    """A new set of the pages of ``span``."""
    pages = BitMap()
    if span:
        pages.add_range(span.first, span.end)
    return pages


def merged(spans: Iterable[PageSpan]) -> list[PageSpan]:
    """The same pages in spans that neither meet nor touch, in order."""
    found: list[PageSpan] = []
    for span in sorted(spans):
        if found and span.first <= found[-1].end:
            found[-1] = PageSpan(found[-1].first, max(found[-1].end, span.end))
        elif span:
            found.append(span)
    return found


def pages_of(spans: Iterable[Spanning]) -> BitMap:
    """A new set of the pages of all ``spans``: hundreds may be of the whole file."""
    pages = BitMap()
    for first, end in merged(PageSpan(span.first, span.end) for span in spans):
        pages.add_range(first, end)
    return pages


def add_runs(pages: BitMap, firsts: Sequence[int], ends: Sequence[int]) -> None:
    """Add each ``[first, end)`` to ``pages``, without a step of the interpreter for each."""
    if _are_pages(firsts, ends):
        pages.update(firsts)
    else:
        for_each(pages.add_range, firsts, ends)


def remove_runs(pages: BitMap, firsts: Sequence[int], ends: Sequence[int]) -> None:
    """Remove each ``[first, end)`` from ``pages``."""
    if _are_pages(firsts, ends):
        pages -= BitMap(firsts)
    else:
        for_each(pages.remove_range, firsts, ends)


def _are_pages(firsts: Sequence[int], ends: Sequence[int]) -> bool:
    """Are these runs, of which none is empty, of a page each? Then a set of them takes no time."""
    return sum(ends) - sum(firsts) == len(firsts)


def for_each(change: Callable[..., object], *columns: Iterable[int]) -> None:
    """Call ``change`` for each row of ``columns``, without a step of the interpreter for each."""
    deque(map(change, *columns), maxlen=0)


def within(pages: BitMap, span: PageSpan) -> BitMap:
    """A new set of those of ``pages`` that lie in ``span``."""
    if span.end - span.first == 1:  # as most ranges of many
        return BitMap((span.first,)) if span.first in pages else BitMap()
    if not pages:
        return BitMap()
    if span.end - span.first > _FAR:
        span = span.clip(PageSpan(0, pages.max() + 1))
    return pages & page_set(span)


def count(pages: BitMap, span: Spanning) -> int:
    """How many of ``pages`` lie in ``span``."""
    first, end = span.first, span.end
    if end - first == 1:
        return int(first in pages)  # many times faster than counting
    return pages.range_cardinality(first, end) if first < end else 0


def any_in(pages: BitMap, span: Spanning) -> bool:
    """Does one of ``pages`` lie in ``span``? Takes no longer for very many."""
    if span.end - span.first <= _FAR:
        return count(pages, span) > 0
    page = next_page(pages, span.first)
    return page is not None and page < span.end


def next_page(pages: BitMap, page: int) -> int | None:
    """The first of ``pages`` at or after ``page``."""
    # Sought first: asked for one where there is none, pyroaring 1.2 forgets to free an iterator.
    first, step = page, _FAR
    while pages and first < LAST_PAGE:
        end = min(first + step, LAST_PAGE)
        if pages.range_cardinality(first, end):
            found: int = pages.next_set_bit(first)
            return found
        first, step = end, step * _FARTHER
    return None


def last_page(pages: BitMap, page: int, *, few: bool = False) -> int | None:
    """The last of ``pages`` at or before ``page``. ``few``: they are no more than a thousand or so,
    and to pass them all takes no longer than to search.
    """
    for near in range(page, max(-1, page - _NEAR), -1):
        if near in pages:
            return near
    if few:
        rank = pages.rank(page)
        return pages[rank - 1] if rank else None
    end = page + 1
    back = reach(lambda a, b: not pages.range_cardinality(end - b, end - a), 0, end)
    return page - back if back < end else None


def run_end(pages: BitMap, first: int) -> int:
    """The end of the run of consecutive ``pages`` that starts at ``first``; O(log run)."""
    return reach(pages.contains_range, first, LAST_PAGE)


def run_first(pages: BitMap, last: int) -> int:
    """The start of the run of consecutive ``pages`` that ends with ``last``, one of them."""
    end = last + 1
    return end - reach(lambda a, b: pages.contains_range(end - b, end - a), 0, end)


def runs(pages: BitMap) -> Iterator[PageSpan]:
    """The maximal runs of consecutive ``pages``, in order. Do not change them meanwhile."""
    first = next_page(pages, 0)
    while first is not None:
        end = run_end(pages, first)
        yield PageSpan(first, end)
        first = next_page(pages, end)


def without(span: PageSpan, pages: BitMap) -> Iterator[PageSpan]:
    """The runs of ``span`` that have none of ``pages``. Do not change these meanwhile.

    No set is made of them: one that lacks a page of each 65,536 takes 8 KiB for each of these.
    """
    first = span.first
    while first < span.end:
        page = next_page(pages, first)
        end = span.end if page is None else min(page, span.end)
        if first < end:
            yield PageSpan(first, end)
        first = span.end if page is None else run_end(pages, page)


def reach(holds: Callable[[int, int], bool], first: int, end: int) -> int:
    """Up to which page, at most ``end``, something is true of all pages from ``first`` on.

    ``holds``: is it true of all pages ``[a, b)``? It is asked of no page more than three times or
    so, and of none much further on than the answer is.
    """
    step = 1
    while first < end and holds(first, upto := min(first + step, end)):
        first, step = upto, 2 * step
    while step > 1:  # it ends within so many pages
        step //= 2
        if first + step <= end and holds(first, first + step):
            first += step
    return first
