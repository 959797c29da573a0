"""A PageStore for tests of the core: the plainest there can be, and it can run out of memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

from vfs_volatile.core.pages import Data, Extent, PageSpan, in_memory
from vfs_volatile.errors import REFUSALS
from vfs_volatile.units import PAGE_SIZE


class FakeStore:
    """A dict of pages. Set ``credit`` or ``frees`` to let it fail after so much more.

    What frees memory is done at once, or not at all.
    """

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.credit: int | None = None
        """Bytes that may still be stored; None: as many as you like."""
        self.frees: int | None = None
        """How many calls that free memory are not refused; None: none is."""

    def read(self, offset: int, length: int) -> bytes:
        return b"".join(
            bytes(self.pages.get(page, bytes(PAGE_SIZE))[start:stop])
            for page, start, stop in _pieces(offset, length)
        )

    def extent(self, offset: int, length: int) -> Extent | None:
        return None

    def write(self, offset: int, data: Data) -> int:
        data = memoryview(in_memory(data))
        done = 0
        for page, start, stop in _pieces(offset, len(data)):
            piece, data = data[: stop - start], data[stop - start :]
            stored = self._pay(len(piece))
            if stored:
                held = self.pages.setdefault(page, bytearray(PAGE_SIZE))
                held[start : start + stored] = piece[:stored]
            done += stored
            if stored < len(piece):
                break
        if data and not done:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return done

    def zero(self, offset: int, length: int) -> None:
        self._free()
        left: dict[int, bytearray] = {}
        for page, data in self.pages.items():
            start = max(offset - page * PAGE_SIZE, 0)
            stop = min(offset + length - page * PAGE_SIZE, PAGE_SIZE)
            if stop - start < PAGE_SIZE:
                left[page] = data
            if 0 < stop - start < PAGE_SIZE:
                left[page] = data[:start] + bytes(stop - start) + data[stop:]
        self.pages = left

    def allocate(self, span: PageSpan) -> None:
        for page in range(*span):
            if self._pay(PAGE_SIZE) < PAGE_SIZE:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            assert page not in self.pages, "allocate is for absent pages"
            self.pages[page] = bytearray(PAGE_SIZE)

    def drop(self, span: PageSpan) -> None:
        self._free()
        first, end = span
        self.pages = {at: data for at, data in self.pages.items() if not first <= at < end}

    def truncate(self, size: int) -> None:
        self._free()
        page, start = divmod(size, PAGE_SIZE)
        left = {at: data for at, data in self.pages.items() if at * PAGE_SIZE < size}
        if page in left:
            left[page] = left[page][:start] + bytes(PAGE_SIZE - start)
        self.pages = left

    def close(self) -> None:
        self.pages.clear()

    def _free(self) -> None:
        if self.frees == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self.frees is not None:
            self.frees -= 1

    def _pay(self, length: int) -> int:
        """How many of ``length`` bytes may be stored."""
        if self.credit is None:
            return length
        paid = min(length, self.credit)
        self.credit -= paid
        return paid


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int, int]]:
    """Bytes cut at the borders of pages, as (page, start, stop) within each."""
    end = offset + length
    while offset < end:
        page, start = divmod(offset, PAGE_SIZE)
        stop = min(PAGE_SIZE, start + end - offset)
        yield page, start, stop
        offset += stop - start


class FakeDirectStore(FakeStore):
    """The same for a file that processes reach without us."""

    def __init__(self) -> None:
        super().__init__()
        self.length = 0
        self.clean: set[int] = set()
        """Holes that were only read through a mapping."""
        self.before_drop: Callable[[], None] | None = None
        """What a process does, once, just before pages are dropped."""

    def size(self) -> int:
        return self.length

    def allocate(self, span: PageSpan) -> None:
        for page in range(*span):
            self.clean.discard(page)
            if page not in self.pages:
                super().allocate(PageSpan(page, page + 1))

    def drop_clean(self) -> None:
        """What drop_caches does."""
        for page in self.clean:
            self.pages.pop(page, None)
        self.clean.clear()

    def held_in(self, span: PageSpan) -> int:
        return sum(span.first <= page < span.end for page in self.pages)

    def next_data(self, page: int) -> int | None:
        below = -(-self.length // PAGE_SIZE)
        return min((at for at in self.pages if page <= at < below), default=None)

    def write(self, offset: int, data: Data) -> int:
        stored = super().write(offset, data)
        self.length = max(self.length, offset + stored)
        return stored

    def drop(self, span: PageSpan) -> None:
        meanwhile, self.before_drop = self.before_drop, None
        if meanwhile is not None:
            meanwhile()
        super().drop(span)

    def truncate(self, size: int) -> None:
        before, self.length = self.length, size
        try:
            super().truncate(size)
        except REFUSALS:
            self.length = before
            raise

    def held(self) -> int:
        return len(self.pages)
