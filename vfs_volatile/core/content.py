"""The content of a file: what read(2), write(2) and their kin do to its pages.

Rule numbers refer to the list "Semantics of ranges" in ``docs/semantics.md``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING

from pyroaring import BitMap

from vfs_volatile.core.allocation import Allocation, require_size
from vfs_volatile.core.byte_spans import pages_covered, pages_touched
from vfs_volatile.core.held import Search, held_end
from vfs_volatile.core.mending import change
from vfs_volatile.core.pages import (
    LAST_PAGE,
    MAX_BYTES,
    Data,
    Extent,
    PageSpan,
    in_memory,
    next_page,
    page_set,
    run_end,
    runs,
)
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.errors import REFUSALS, SyscallError
from vfs_volatile.units import PAGE_SIZE, pages_for

if TYPE_CHECKING:
    from vfs_volatile.core.votes import Votes


class Content(Allocation):
    """The bytes of one file."""

    __slots__ = ()

    _votes: Votes | None

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from ``offset``, short only at the end of file.

        Raises SyscallError(ENODATA) if any page is purged and its touch is an error, even if
        earlier pages are fine: the kernel takes a short answer for the end of file, and asks
        page by page after an error (rule 4).
        """
        length = self._readable(offset, length)
        return self.store.read(offset, length) if length else b""

    def locate(self, offset: int, length: int) -> Extent | None:
        """Where the bytes lie that :meth:`read` would copy; None if in no one part of a file.

        Raises SyscallError as it does.
        """
        length = self._readable(offset, length)
        found = self.store.extent(offset, length) if length else None
        if found is None:
            return None
        fd, at, _, before, after = found
        if self.volatility.purged:  # who knows what is around it?
            return Extent(fd, at, length)
        return Extent(fd, at, length, before, min(after, self.size - offset - length))

    def write(self, offset: int, data: Data) -> int:
        """Store ``data`` for a write(2); the bytes stored, fewer if a later page fails.

        A purged page that is covered whole becomes intact, one covered in part fails unless it
        reads as zeros, and stays purged then (rules 4, 5). Raises SyscallError ENODATA, ENOSPC
        or EFBIG, and OSError if the system has no memory, when nothing could be stored.
        """
        memory = self.memory
        if memory.in_doubt is not None:
            memory.mend()
        newest = memory.newest_age
        try:
            return self._write(offset, data)
        except MemoryError:
            memory.in_doubt, memory.newest_before = self, newest
            raise

    def _write(self, offset: int, data: Data) -> int:
        end = require_size(offset + 1, min(offset + len(data), MAX_BYTES))
        if self.volatility.purged:
            end = self._writable_end(offset, end)
        touched = pages_touched(offset, end)
        absent = self._absent(touched)
        if absent and absent > self.memory.room:
            end = self._affordable_end(offset, end)
        whole = end - offset == len(data)
        stored = self._store(offset, data if whole else in_memory(data)[: end - offset])
        if stored != len(data):
            end = offset + stored
            touched = pages_touched(offset, end)
        if absent:
            self._make_resident(touched)
        self._grow(end)
        covered = pages_covered(offset, end, self.size)
        self.volatility.rewritten(covered)
        if self._votes:
            self._votes.rewritten(covered)
        return end - offset

    @change
    def write_back(self, offset: int, data: Data) -> None:
        """Store what the kernel writes back from a mapping, page by page; it never grows the file.

        Such a page may be older than its purge: it is discarded while the purge drains, and always
        where touching the page is an error (rules 5, 11). It carries bytes nobody rewrote,
        so it makes no page intact and no loss forgotten. Raises SyscallError(ENOSPC), and OSError
        if the system has no memory for the rest.
        """
        end = min(offset + len(data), self.size)
        if end <= offset:
            return
        touched = pages_touched(offset, end)
        keep = page_set(touched) - self._discard_stale(touched)
        view = memoryview(in_memory(data))
        for run in runs(keep):
            start = max(offset, run.first * PAGE_SIZE)
            stop = min(end, run.end * PAGE_SIZE)
            self.memory.reserve(self._absent(run), dirty=True)
            while start < stop:
                stored = self._store(start, view[start - offset : stop - offset])
                self._make_resident(pages_touched(start, start + stored))
                start += stored

    @change
    def truncate(self, size: int) -> None:
        """Set the size; pages beyond it go, with all their state (rule 7).

        Raises SyscallError(EFBIG) and OSError; nothing has changed then.
        """
        require_size(0, size)
        if size > self.size:
            self._grow(size)
            return
        keep = pages_for(size)
        beyond = PageSpan(keep, LAST_PAGE)  # goes whether or not it was seen: no need to look
        self._free(beyond, partial(self._cut, size))
        self.volatility.truncate(keep)
        if self._votes:
            self._votes.truncate(keep)

    def _cut(self, size: int) -> None:
        before = self._size
        self._size = size  # before the data go: what has been read as data is never a hole
        try:
            self.store.truncate(size)
        except REFUSALS:
            self._size = before
            raise

    def truncating(self, size: int) -> Iterator[None]:
        """As :meth:`truncate`, in steps of AT_ONCE ranges and 256 MiB, each a cut of its own."""
        require_size(0, size)
        while size < self.size and (step := self._last_step()) > pages_for(size):
            self.truncate(step * PAGE_SIZE)
            yield
        self.truncate(size)

    def _last_step(self) -> int:
        return max(self.volatility.ranges.last_step(), self.last_portion())

    def seeking(self, offset: int, whence: int) -> Generator[None, None, int]:
        """The next data (SEEK_DATA) or hole (SEEK_HOLE) from ``offset``; purged pages are holes.

        In steps of AT_ONCE purged runs that hold data. Raises SyscallError(ENXIO) at or beyond the
        end of file, and for data where none follows.
        """
        if not 0 <= offset < self.size:
            raise SyscallError(errno.ENXIO)
        page = offset // PAGE_SIZE
        if whence == os.SEEK_HOLE:
            return min(max(offset, self._next_hole(page) * PAGE_SIZE), self.size)
        found = yield from self._next_data(page)
        if found is None or found * PAGE_SIZE >= self.size:
            raise SyscallError(errno.ENXIO)
        return max(offset, found * PAGE_SIZE)

    # ---- helpers: how far a read or a write goes ----

    def _readable(self, offset: int, length: int) -> int:
        """How much of ``length`` bytes the file has. Raises SyscallError(ENODATA)."""
        length = min(length, self.size - offset)
        if length <= 0:
            return 0
        if self.volatility.purged:  # asked first: most files hold none, and a read is short
            touched = pages_touched(offset, offset + length)
            if self.volatility.first_denied(touched) is not None:
                raise SyscallError(errno.ENODATA)
        return length

    def _writable_end(self, start: int, end: int) -> int:
        """Where a write of ``[start, end)`` must stop for a purged page that it covers in part."""
        touched = pages_touched(start, end)
        covered = pages_covered(start, end, max(self.size, end))
        for page in self._edges(touched, covered):
            if self.volatility.denied(page):
                if page * PAGE_SIZE <= start:
                    raise SyscallError(errno.ENODATA)
                return page * PAGE_SIZE
        return end

    def _affordable_end(self, start: int, end: int) -> int:
        """Where a write of ``[start, end)``, for which there is no room, must stop."""
        room = self.memory.room
        for page in range(*pages_touched(start, end)):
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

    def _store(self, offset: int, data: Data) -> int:
        """Store for a write; the bytes stored, fewer if the system refuses memory for the rest.

        Raises OSError if it does so for the first page.
        """
        stored = self.store.write(offset, data)
        if stored == len(data):
            return stored
        # Memory comes in pages: let it end at one, and hold nothing in a page that is not resident.
        end = (offset + stored) // PAGE_SIZE * PAGE_SIZE
        touched = pages_touched(max(end, offset), offset + stored)
        for run in runs(page_set(touched) - self.resident):
            self.store.drop(run)
        if end <= offset:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return end - offset

    # ---- helpers: what is where ----

    def _next_data(self, page: int) -> Generator[None, None, int | None]:
        """The first page from ``page`` on that is resident and not purged."""
        purged, end = self.volatility.purged, pages_for(self.size)
        next_held = self._search()
        found = next_held(page, end)
        passed = 0
        while found < end and found in purged:
            found = next_held(run_end(purged, found), end)
            passed += 1
            if passed % AT_ONCE == 0:
                yield
        return found if found < end else None

    def _search(self) -> Callable[[int, int], int]:
        """Tells the first page from the first number on that holds memory; the other, an end, if
        none does before. To be asked place after place.
        """
        if self.direct is None:
            return self._next_resident
        search = Search(self.direct)
        return lambda page, end: search.first_held(PageSpan(min(page, end), end))

    def _next_resident(self, page: int, end: int) -> int:
        found = next_page(self.resident, page)
        return end if found is None else min(found, end)

    def _next_hole(self, page: int) -> int:
        """The first page from ``page`` on that is not resident, or purged."""
        purged = next_page(self.volatility.purged, page)
        if self.direct is None:
            end = run_end(self.resident, page)
            return end if purged is None else min(end, purged)
        end = pages_for(self.size) if purged is None else purged
        return held_end(self.direct, PageSpan(page, end))

    def _discard_stale(self, touched: PageSpan) -> BitMap:
        """The pages whose write-back must be discarded; those that drain become purged."""
        stale = BitMap()
        for drain in self.volatility.drains:
            hit = drain.pages & page_set(touched)
            self.volatility.set_purged(hit)
            drain.purged |= hit
            for run in runs(hit & self.resident):
                self._drop(run)
            stale |= hit
        page = self.volatility.first_denied(touched)
        while page is not None:
            stale.add(page)
            page = self.volatility.first_denied(PageSpan(page + 1, touched.end))
        return stale
