"""The address_space of an inode: its pages, its volatile ranges, its purged pages.

This is the heart of the file system: every rule about them lives here. Nothing here waits. A purge
is in two steps, since the kernel has a page cache of its own: ``begin_purge`` drops the data,
the caller makes the kernel drop its copy, ``end_purge`` closes the :class:`Drain` between. What
the kernel writes back meanwhile is older than the purge and is discarded.

Rule numbers refer to the list "Semantics of ranges" in ``docs/semantics.md``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pyroaring import BitMap

from vfs_volatile.abi.ioctls import (
    STATE_PURGED,
    STATE_VOLATILE,
    VRANGE_SIGBUS,
    VRANGE_ZERO,
)
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import (
    LAST_PAGE,
    MAX_BYTES,
    PageStore,
    count,
    next_page,
    page_set,
    pages_covered,
    pages_touched,
    run_end,
    runs,
)
from vfs_volatile.core.ranges import PageSpan, RangeMap, VolatileRange
from vfs_volatile.errors import SyscallError
from vfs_volatile.units import PAGE_SIZE, pages_for

ByteSpan = tuple[int, int]
"""(start, length) in bytes."""


def _require_size(start: int, end: int) -> int:
    """``end``, if a file may hold bytes ``[start, end)``. Raises SyscallError(EFBIG)."""
    if end > MAX_BYTES or end < start:
        raise SyscallError(errno.EFBIG)
    return end


class Drain:
    """A purge under way: its data is dropped here, the kernel's copy perhaps not yet."""

    __slots__ = ("pages", "space")

    def __init__(self, space: AddressSpace) -> None:
        self.space = space
        self.pages = BitMap()
        """Pages whose write-back would be stale."""


class Run(NamedTuple):
    """What NEXT answers: volatile bytes of one range that are all purged or all not."""

    start: int
    length: int
    behavior: int
    state: int


class AddressSpace:
    """The pages of one file and what may be done to them."""

    __slots__ = (
        "_drains", "ino", "lost", "memory", "purged", "ranges", "resident", "size", "store",
    )  # fmt: skip

    def __init__(self, ino: int, memory: Memory, store: PageStore) -> None:
        # -- dependencies --
        self.ino = ino
        self.memory = memory
        self.store = store
        # -- mutable --
        self.size = 0
        """Bytes of the file."""
        # Pages that the store holds. May reach beyond the end of file (FALLOC_FL_KEEP_SIZE).
        self.resident = BitMap()
        # INVARIANT: ends at or before the page that holds the end of file.
        self.ranges = RangeMap()
        # INVARIANT: every purged page is volatile. It is not resident either, unless touching it
        # reads zeros: then it may hold what was written since, which does not make it intact.
        self.purged = BitMap()
        # Pages that an unmark by xattr found purged and nobody has rewritten or truncated.
        # INVARIANT: below the end of file.
        self.lost = BitMap()
        # INVARIANT: every draining page is volatile.
        self._drains: list[Drain] = []

    # ---- data ----

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from ``offset``, short only at the end of file.

        Raises SyscallError(ENODATA) if any page is purged and its touch is an error, even if
        earlier pages are fine: the kernel takes a short answer for the end of file, and asks
        page by page after an error (rule 4).
        """
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        if self._first_denied(pages_touched(offset, offset + length)) is not None:
            raise SyscallError(errno.ENODATA)
        return self.store.read(offset, length)

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Store ``data`` for a write(2); the bytes stored, fewer if a later page fails.

        A purged page that is covered whole becomes intact, one covered in part fails unless it
        reads as zeros, and stays purged then (rules 4, 5). Raises SyscallError ENODATA, ENOSPC
        or EFBIG when nothing could be stored.
        """
        end = _require_size(offset + 1, min(offset + len(data), MAX_BYTES))
        end = self._writable_end(offset, end)
        end = self._affordable_end(offset, end)
        self._store(offset, memoryview(data)[: end - offset])
        self.size = max(self.size, end)
        self._make_resident(pages_touched(offset, end))
        self._make_intact(pages_covered(offset, end, self.size))
        return end - offset

    def write_back(self, offset: int, data: bytes | memoryview) -> None:
        """Store what the kernel writes back from a mapping, page by page; it never grows the file.

        Such a page may be older than its purge: it is discarded while the purge drains, and always
        where touching the page is an error (rules 5, 11). It carries bytes nobody rewrote,
        so it makes no page intact and no loss forgotten. Raises SyscallError(ENOSPC).
        """
        end = min(offset + len(data), self.size)
        if end <= offset:
            return
        touched = pages_touched(offset, end)
        keep = page_set(touched)
        if self._drains or self.purged:
            keep -= self._discard_stale(touched)
        view = memoryview(data)
        for run in runs(keep):
            start = max(offset, run.first * PAGE_SIZE)
            stop = min(end, run.end * PAGE_SIZE)
            self.memory.reserve(self._absent(run), dirty=True)
            self._store(start, view[start - offset : stop - offset])
            self._make_resident(run)

    def truncate(self, size: int) -> None:
        """Set the size; pages beyond it go, with all their state (rule 7).

        Raises SyscallError(EFBIG).
        """
        _require_size(0, size)
        if size <= self.size:
            beyond = PageSpan(pages_for(size), LAST_PAGE)
            self._drop(beyond)
            self._forget_purged(beyond)
            self._end_volatility(beyond)
            self.lost.remove_range(*beyond)
            self.store.truncate(size)
        self.size = size

    def punch_hole(self, offset: int, length: int) -> None:
        """Make bytes zero and free whole pages; those are intact, volatility stays (rule 7)."""
        end = min(offset + length, MAX_BYTES)
        if end <= offset:
            return
        covered = pages_covered(offset, end, self.size)
        if covered:
            self._drop(covered)
            self._forget_purged(covered)
            self.lost.remove_range(*covered)
        for page in self._edges(pages_touched(offset, end), covered):
            if page in self.resident:
                start = max(offset, page * PAGE_SIZE)
                self.store.zero(start, min(end, (page + 1) * PAGE_SIZE) - start)

    def allocate(self, offset: int, length: int, *, keep_size: bool) -> None:
        """Hold memory for every page met; purged pages stay purged.

        Raises SyscallError: ENOSPC, EFBIG.
        """
        _require_size(0, offset + length)
        span = pages_touched(offset, offset + length)
        missing = page_set(span) - self.resident - self.purged
        self.memory.reserve(len(missing))
        for run in runs(missing):
            try:
                self.store.allocate(run)
            except OSError as error:
                self.store.drop(run)  # what is not resident must hold nothing
                raise SyscallError(errno.ENOSPC) from error
            self._make_resident(run)
        if not keep_size:
            self.size = max(self.size, offset + length)

    def zero_range(self, offset: int, length: int, *, keep_size: bool) -> None:
        """Make bytes zero and hold memory for them (rule 7). Raises SyscallError: ENOSPC, EFBIG."""
        _require_size(0, offset + length)
        self.memory.reserve(self._absent(pages_touched(offset, offset + length)))
        self.punch_hole(offset, length)
        self.allocate(offset, length, keep_size=keep_size)

    def seek(self, offset: int, whence: int) -> int:
        """The next data (SEEK_DATA) or hole (SEEK_HOLE) from ``offset``; purged pages are holes.

        Raises SyscallError(ENXIO) at or beyond the end of file, and for data where none follows.
        """
        if not 0 <= offset < self.size:
            raise SyscallError(errno.ENXIO)
        page = offset // PAGE_SIZE
        data = self.resident - self.purged if self.purged else self.resident
        if whence == os.SEEK_HOLE:
            return min(max(offset, run_end(data, page) * PAGE_SIZE), self.size)
        found = next_page(data, page)
        if found is None or found * PAGE_SIZE >= self.size:
            raise SyscallError(errno.ENXIO)
        return max(offset, found * PAGE_SIZE)

    # ---- volatility ----

    def mark(self, start: int, length: int, behavior: int) -> int:
        """Make the pages wholly inside volatile; the bytes among them already purged.

        Pages that are volatile already keep their age, behavior and state (rule 2). A ``length``
        of 0 reaches to the end of file.
        """
        start, end = self.clip(start, length)
        span = pages_covered(start, end, self.size) if start < end else PageSpan(0, 0)
        gaps = list(self.ranges.gaps(span))
        if gaps:
            age = self.memory.next_age()
            for gap in gaps:
                self._add_range(VolatileRange(self, gap.first, gap.end, behavior, age))
                self.memory.volatile += gap.end - gap.first
        return self._purged_bytes(start, end)

    def unmark(self, start: int, length: int, *, record_lost: bool = False) -> int:
        """End volatility of every page met; the bytes of exactly this range that were purged.

        Purged pages become zero-filled and clean (rule 3). Nothing there may be draining, and the
        kernel's copy of pages in :meth:`zeroed_by_unmark` must be gone: see ``fs/purges.py``.
        """
        start, end = self.clip(start, length)
        if start >= end:
            return 0
        span = pages_touched(start, end)
        assert not self.draining(span), "unmark while a purge drains"
        found = self._purged_bytes(start, end)
        if found:
            purged = self.purged & page_set(span)
            if record_lost:
                self.lost |= purged
            for run in runs(purged & self.resident):
                self._drop(run)
            self._forget_purged(span)
        self._end_volatility(span)
        return found

    def next_run(self, start: int) -> Run:
        """The first run that ends after byte ``start``. Raises SyscallError(ENXIO) if none does."""
        page = start // PAGE_SIZE
        for found in self.ranges.from_page(page) if start < self.size else ():
            span = self._run_in(found.span, max(page, found.first))
            return Run(*self._bytes(span), found.behavior, self._state(span.first))
        raise SyscallError(errno.ENXIO)

    def volatile_spans(self) -> Iterator[ByteSpan]:
        """The volatile ranges, unmerged."""
        return (self._bytes(found.span) for found in self.ranges)

    def purged_spans(self) -> Iterator[ByteSpan]:
        """The runs of pages that are purged and still volatile."""
        return (self._bytes(run) for run in runs(self.purged))

    def lost_spans(self) -> Iterator[ByteSpan]:
        """The runs of pages that an unmark by xattr found purged, still unacknowledged."""
        return (self._bytes(run) for run in runs(self.lost))

    # ---- purging ----

    def span_of(self, start: int, length: int) -> PageSpan:
        """The pages wholly inside bytes ``start``, ``length``: what a forced purge may take."""
        start, end = self.clip(start, length)
        return pages_covered(start, end, self.size) if start < end else PageSpan(0, 0)

    def zeroed_by_unmark(self, start: int, length: int) -> BitMap:
        """Purged pages that an unmark would turn to zeros while the kernel may hold other bytes."""
        start, end = self.clip(start, length)
        pages = BitMap()
        if self.purged and start < end:
            span = pages_touched(start, end)
            for found in self.ranges.overlapping(span):
                if self._reads_zero(found):
                    pages |= self.purged & page_set(found.span.clip(span))
        return pages

    def begin_purge(self, spans: Iterable[PageSpan], newest: int) -> Drain:
        """Drop the data of the pages in ``spans`` that a mark no younger than ``newest`` covers.

        From here on they are purged; a page with nothing stored only if the kernel still
        writes one back (rule 11). ``newest``: the age of the youngest mark there was when
        the purge was decided; a mark made since belongs to the next purge.
        """
        drain = Drain(self)
        for span in spans:
            for found in list(self.ranges.overlapping(span)):
                if found.age <= newest:
                    self._purge(found.span.clip(span), drain)
        if drain.pages:
            self._drains.append(drain)
        return drain

    def end_purge(self, drain: Drain) -> None:
        """The kernel holds nothing older than the purge any more."""
        if drain in self._drains:
            self._drains.remove(drain)

    def purged_bytes(self, start: int, length: int) -> int:
        """How many bytes of the range are purged now."""
        return self._purged_bytes(*self.clip(start, length))

    def draining(self, span: PageSpan) -> bool:
        """Is a purge under way on one of these pages?"""
        return any(count(drain.pages, span) for drain in self._drains)

    def close(self) -> None:
        """Give everything back: the inode is gone."""
        self.truncate(0)
        self.store.close()

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold (for tests; linear time)."""
        self.ranges.check()
        volatile = BitMap()
        for found in self.ranges:
            volatile |= page_set(found.span)
            has_resident = count(self.resident, found.span) > 0
            assert (found in self.memory.queue) == has_resident, "queue and residency differ"
            if not self._reads_zero(found):
                denied = self.purged & page_set(found.span)
                assert denied.isdisjoint(self.resident), "a purged page holds data"
        file_pages = page_set(PageSpan(0, pages_for(self.size)))
        assert volatile <= file_pages, "volatile beyond the end of file"
        assert self.lost <= file_pages, "lost beyond the end of file"
        assert self.purged <= volatile, "purged but not volatile"
        for drain in self._drains:
            assert drain.pages <= volatile, "draining but not volatile"

    # ---- helpers: who may touch what ----

    def _reads_zero(self, found: VolatileRange) -> bool:
        """Do its purged pages read as zeros, or is touching them an error?"""
        if found.behavior & (VRANGE_ZERO | VRANGE_SIGBUS):
            return bool(found.behavior & VRANGE_ZERO)
        return self.memory.zero_by_default

    def _first_denied(self, span: PageSpan) -> int | None:
        """The first page of ``span`` whose touch is an error."""
        if not self.purged or not count(self.purged, span):
            return None
        for found in self.ranges.overlapping(span):
            if not self._reads_zero(found):
                piece = found.span.clip(span)
                page = next_page(self.purged, piece.first)
                if page is not None and page < piece.end:
                    return page
        return None

    def _denied(self, page: int) -> bool:
        return self._first_denied(PageSpan(page, page + 1)) is not None

    def _writable_end(self, start: int, end: int) -> int:
        """Where a write of ``[start, end)`` must stop for a purged page that it covers in part."""
        touched = pages_touched(start, end)
        covered = pages_covered(start, end, max(self.size, end))
        for page in self._edges(touched, covered):
            if self._denied(page):
                if page * PAGE_SIZE <= start:
                    raise SyscallError(errno.ENODATA)
                return page * PAGE_SIZE
        return end

    def _affordable_end(self, start: int, end: int) -> int:
        """Where a write of ``[start, end)`` must stop for want of room."""
        touched = pages_touched(start, end)
        room = self.memory.room
        if self._absent(touched) <= room:
            return end
        for page in range(*touched):
            room -= page not in self.resident
            if room < 0:
                end = page * PAGE_SIZE
                break
        if end <= start:
            raise SyscallError(errno.ENOSPC)
        return end

    @staticmethod
    def _edges(touched: PageSpan, covered: PageSpan) -> list[int]:
        """The pages touched but not covered: at most the first and the last."""
        if not covered:
            return list(range(*touched))
        return [*range(touched.first, covered.first), *range(covered.end, touched.end)]

    # ---- helpers: changes, each keeping counts and queue right ----

    def _absent(self, span: PageSpan) -> int:
        return span.end - span.first - count(self.resident, span)

    def _store(self, offset: int, data: memoryview) -> None:
        try:
            self.store.write(offset, data)
        except OSError as error:
            # Part of it may have been stored: a page that is not resident must hold nothing.
            for run in runs(page_set(pages_touched(offset, offset + len(data))) - self.resident):
                self.store.drop(run)
            raise SyscallError(errno.ENOSPC) from error

    def _make_resident(self, span: PageSpan) -> None:
        added = self._absent(span)
        if added:
            self.resident.add_range(*span)
            self.memory.charge(added)
            for found in self.ranges.overlapping(span):
                self.memory.enqueue(found)

    def _drop(self, span: PageSpan) -> None:
        dropped = count(self.resident, span)
        if dropped:
            self.store.drop(span)
            self.resident.remove_range(*span)
            self.memory.uncharge(dropped)
            for found in self.ranges.overlapping(span):
                if not count(self.resident, found.span):
                    self.memory.queue.discard(found)

    def _make_intact(self, span: PageSpan) -> None:
        """Pages rewritten as a whole: neither purged, lost, nor stale if written back."""
        if not span:
            return
        if self.purged:
            self._forget_purged(span)
        if self.lost:
            self.lost.remove_range(*span)
        for drain in self._drains:
            drain.pages.remove_range(*span)

    def _forget_purged(self, span: PageSpan) -> None:
        forgotten = count(self.purged, span)
        if forgotten:
            self.purged.remove_range(*span)
            self.memory.purged -= forgotten

    def _add_range(self, new: VolatileRange) -> None:
        self.ranges.add(new)
        if count(self.resident, new.span):
            self.memory.enqueue(new)

    def _end_volatility(self, span: PageSpan) -> None:
        """Cut ``span`` out of the ranges; what is left of them keeps its age and behavior."""
        for old in list(self.ranges.overlapping(span)):
            self.memory.queue.discard(old)
            self.ranges.remove(old)
            cut = old.span.clip(span)
            self.memory.volatile -= cut.end - cut.first
            for left in (PageSpan(old.first, cut.first), PageSpan(cut.end, old.end)):
                if left:
                    self._add_range(VolatileRange(self, *left, old.behavior, old.age))
        for drain in self._drains:
            drain.pages.remove_range(*span)

    def _purge(self, piece: PageSpan, drain: Drain) -> None:
        """Purge the pages of ``piece``, all of one range."""
        self._set_purged(self.resident & page_set(piece))
        self._drop(piece)
        drain.pages.add_range(*piece)

    def _set_purged(self, pages: BitMap) -> None:
        new = len(pages - self.purged)
        self.purged |= pages
        self.memory.purged += new
        self.memory.purged_ever += new

    def _discard_stale(self, touched: PageSpan) -> BitMap:
        """The pages whose write-back must be discarded; those that drain become purged."""
        stale = BitMap()
        for drain in self._drains:
            hit = drain.pages & page_set(touched)
            self._set_purged(hit)
            for run in runs(hit & self.resident):
                self._drop(run)
            stale |= hit
        page = self._first_denied(touched)
        while page is not None:
            stale.add(page)
            page = self._first_denied(PageSpan(page + 1, touched.end))
        return stale

    # ---- helpers: bytes and pages ----

    def clip(self, start: int, length: int) -> ByteSpan:
        """(start, end) in bytes within the file; length 0 reaches to its end."""
        return start, min(start + length, self.size) if length else self.size

    def _bytes(self, span: PageSpan) -> ByteSpan:
        start = span.first * PAGE_SIZE
        return start, min(span.end * PAGE_SIZE, self.size) - start

    def _purged_bytes(self, start: int, end: int) -> int:
        """How many of the bytes ``[start, end)`` lie in purged pages."""
        if start >= end or not self.purged:
            return 0
        span = pages_touched(start, end)
        found = count(self.purged, span) * PAGE_SIZE
        if span.first in self.purged:
            found -= start - span.first * PAGE_SIZE
        if span.end - 1 in self.purged:
            found -= span.end * PAGE_SIZE - end
        return found

    def _state(self, page: int) -> int:
        return STATE_PURGED if page in self.purged else STATE_VOLATILE

    def _run_in(self, span: PageSpan, page: int) -> PageSpan:
        """The maximal run of pages around ``page``, within ``span``, in one state."""
        if not count(self.purged, span):
            return span
        inside = page_set(span)
        purged = self.purged & inside
        same = purged if page in purged else inside - purged
        below = inside - same
        before = below.rank(page)
        first = below[before - 1] + 1 if before else span.first
        return PageSpan(first, run_end(same, page))
