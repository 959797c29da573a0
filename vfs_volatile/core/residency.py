"""Which pages of a file are resident: what its store holds, and is charged for."""

from __future__ import annotations

import contextlib
import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from pyroaring import BitMap

from vfs_volatile.core.byte_spans import ByteSpan, clip, pages_covered, pages_touched
from vfs_volatile.core.held import present
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.mending import change
from vfs_volatile.core.pages import (
    LAST_PAGE,
    MAX_BYTES,
    DirectStore,
    PageSpan,
    PageStore,
    count,
    in_chunk,
    next_page,
    page_set,
    runs,
    within,
)
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.errors import REFUSALS, SyscallError
from vfs_volatile.units import PAGE_SIZE, pages_for

if TYPE_CHECKING:
    from vfs_volatile.core.volatility import Volatility


class Residency(ABC):
    """The pages of one file, as far as memory goes."""

    __slots__ = (
        "_size", "charged", "direct", "ino", "keeps_pages", "memory", "resident", "store",
    )  # fmt: skip

    volatility: Volatility

    def __init__(self, ino: int, memory: Memory, store: PageStore) -> None:
        # -- dependencies --
        self.ino = ino
        self.memory = memory
        self.store = store
        # -- mutable --
        self.direct: DirectStore | None = None
        """The store, if processes reach it without us. Then pages come and the file grows unseen;
        everything that depends on a page looks at it first, and nothing else is dropped."""
        self.keeps_pages = False
        """If direct: is a page that holds nothing an error to whoever has it mapped? Then what is
        made zero holds memory."""
        self._size = 0
        # Pages that the store holds; if direct, those that were seen last. May reach beyond the end
        # of file (FALLOC_FL_KEEP_SIZE).
        self.resident = BitMap()
        # INVARIANT: what memory counts for it.
        self.charged = 0

    @property
    def size(self) -> int:
        """Bytes of the file; of what lies beyond the largest we keep, processes alone know."""
        if self.direct is not None:
            self._size = min(self.direct.size(), MAX_BYTES)
        return self._size

    @property
    def last_size(self) -> int:
        """:attr:`size` when it was asked for last: without asking again."""
        return self._size

    @property
    def held(self) -> int:
        """Pages of memory that it holds."""
        return len(self.resident) if self.direct is None else self.direct.held()

    # ---- files that processes reach without us ----

    @change
    def go_direct(self, store: DirectStore) -> None:
        """Keep the file in ``store``, which is empty, and let processes reach it; for good.

        Raises OSError, and nothing has changed then.
        """
        assert not self.resident
        if self._size:
            store.truncate(self._size)  # may be refused
        self.store.close()
        self.store = self.direct = store
        self.volatility.go_direct()

    @change
    def look(self, span: PageSpan) -> None:
        """See which pages of ``span`` are resident by now, if processes store without us."""
        if self.direct is None or not span:
            return
        if not self._absent(span) and self.direct.held_in(span) == span.end - span.first:
            return  # nothing has changed
        seen = BitMap()
        for run in present(self.direct, span):
            seen.add_range(*run)
        known = within(self.resident, span)
        gone = known - seen
        if gone:  # by madvise(2) MADV_REMOVE
            self._take_out(gone)
        for run in runs(seen - known):
            self._make_resident(run)
        self.volatility.dropped(span)

    @change
    def look_for_refilled(self) -> None:
        """Queue volatile ranges that were empty and have been filled without us."""
        if self.direct is not None:
            self.volatility.refilled(self.direct)

    @property
    def reads_zero(self) -> bool:
        """Do all its purged pages read as zeros, now and after a mark that says nothing of it?"""
        marked = len(self.volatility.ranges) > 0
        by_default = marked or self.memory.zero_by_default
        return by_default and self.volatility.reads_zero_throughout()

    def require_honoured(self, behavior: int) -> None:
        """Raise SyscallError(EOPNOTSUPP) if touching a purged page cannot be the error asked for:
        the kernel reads a hole as zeros without asking us.
        """
        if self.direct is not None and not self.memory.reads_zero(behavior):
            raise SyscallError(errno.EOPNOTSUPP)

    # ---- bytes and pages ----

    def span_of(self, start: int, length: int) -> PageSpan:
        """The pages wholly inside the range: what a mark or a purge of it takes."""
        size = self.size
        end = start + length if length and start + length < size else size
        return pages_covered(start, end, size) if start < end else PageSpan(0, 0)

    def touched(self, start: int, length: int) -> PageSpan:
        """The pages that the range meets: what an unmark of it takes."""
        start, end = clip(start, length, self.size)
        return pages_touched(start, end) if start < end else PageSpan(0, 0)

    def pieces(self, start: int, length: int) -> Iterator[ByteSpan]:
        """The range in pieces that meet AT_ONCE volatile ranges or so.

        Each is cut as the ranges are when it is asked for; pages are never cut.
        """
        end = start + length if length else None
        while True:
            length = 0 if end is None else end - start
            span = self.touched(start, length)
            cut = self.volatility.ranges.step_end(span)
            if cut >= span.end:
                yield start, length
                return
            yield start, cut * PAGE_SIZE - start
            start = cut * PAGE_SIZE

    @abstractmethod
    def mend(self, newest: int) -> None:
        """As in :mod:`~vfs_volatile.core.mending`: the address_space as a whole."""

    def _mend_residency(self, end: int, purged: BitMap) -> None:
        """Let counts and store of a file of ``end`` pages follow from what is resident; ``purged``
        are to hold nothing. Nobody was told that what the store holds beside is there, or has gone.
        """
        if self.direct is not None:
            seen = BitMap()
            for run in present(self.direct, PageSpan(0, LAST_PAGE)):
                seen.add_range(*run)
            self.resident -= self.resident - seen
            self.resident |= seen
        else:
            self.resident -= self.resident - (page_set(PageSpan(0, end)) - purged)
            with contextlib.suppress(OSError):  # refused: at worst it holds what is not counted
                self.store.truncate(self._size)
                for gap in runs(page_set(PageSpan(0, end)) - self.resident):
                    self.store.drop(gap)
        self._recount()

    def _recount(self) -> None:
        self._charge(len(self.resident) - self.charged)

    def _charge(self, more: int) -> None:
        self.memory.charge(self, more, direct=self.direct is not None)

    # ---- helpers: pages come and go ----

    def _absent(self, span: PageSpan) -> int:
        return span.end - span.first - count(self.resident, span)

    def _make_resident(self, span: PageSpan) -> None:
        added = self._absent(span)
        if added:
            self.resident.add_range(*span)
            self._charge(added)
            self.volatility.added(span)

    def _drop(self, span: PageSpan) -> None:
        """Drop resident pages. Raises OSError."""
        for part in self._parts_to_drop(span):
            self._drop_part(part)
        if self.direct is not None:
            self.volatility.dropped(span)

    def _drop_part(self, part: PageSpan) -> None:
        """Drop the pages of one of :meth:`_parts_to_drop`. Raises OSError; all are there then."""
        self._free(part, partial(self.store.drop, part))

    def _parts_to_drop(self, span: PageSpan) -> Iterable[PageSpan]:
        """The parts of ``span`` with resident pages, each dropped at once."""
        if self.direct is None:
            return self._held_parts(span)
        # Not more than was seen: what came since is nobody's to drop unreported.
        return list(runs(within(self.resident, span)))

    def _held_parts(self, span: PageSpan) -> Iterator[PageSpan]:
        """The parts of ``span`` with resident pages, each within a chunk."""
        if span.end - span.first == 1 and span.first in self.resident:
            yield span
            return
        page = next_page(self.resident, span.first)
        while page is not None and page < span.end:
            part = in_chunk(page, span.end)
            yield part
            page = next_page(self.resident, part.end)

    def _free(self, span: PageSpan, free: Callable[[], None]) -> None:
        """Let ``free`` take ``span`` out of the store.

        They are not resident before it does: should memory run out after it, the store holds too
        much and not too little. If it raises OSError or MemoryError, nothing has changed.
        """
        gone = within(self.resident, span)
        try:
            if gone:
                self.resident.remove_range(span.first, span.end)  # ten times faster than a set
                self._charge(-len(gone))
            free()
        except REFUSALS:
            self.resident |= gone  # this needs no memory
            self._recount()
            raise
        if gone:
            self.volatility.dropped(span)

    def _take_out(self, pages: BitMap) -> None:
        """``pages`` are resident no longer."""
        self.resident -= pages
        self._recount()

    def _take_out_all(self) -> None:
        """No page is resident any longer."""
        self.resident.clear()
        self._recount()

    def keep_pages(self, pages: BitMap) -> None:
        """As :meth:`keeping`, at once."""
        for _ in self.keeping(pages):
            pass

    def keeping(self, pages: BitMap) -> Iterator[None]:
        """Hold memory for pages just made zero, if whoever has them mapped needs that; in steps of
        AT_ONCE runs. What is purged between two of them stays so. Nothing is raised.
        """
        if not self.keeps_pages:
            return
        try:
            left = within(pages, PageSpan(0, pages_for(self.size)))
            while some := list(islice(runs(left - self.volatility.purged), AT_ONCE)):
                for run in some:
                    with contextlib.suppress(OSError):
                        self.store.allocate(run)
                    self.look(run)
                left.remove_range(0, some[-1].end)
                if left:
                    yield
        except REFUSALS:  # touching them is SIGBUS, as on tmpfs
            pass

    def _grow(self, size: int) -> None:
        """Let the file be ``size`` bytes if it is smaller. Raises OSError."""
        if size > self.size:
            if self.direct is not None:
                self.direct.truncate(size)
            self._size = size

    def _shrink(self, size: int) -> None:
        """Undo :meth:`_grow`: nobody has stored anything beyond ``size`` since."""
        if size < self.size and self.direct is not None:
            self.direct.truncate(size)
        self._size = size
