"""What fallocate(2) does to the pages of a file: hold memory for them, make them zero, free them.

Rule numbers refer to the list "Semantics of ranges" in ``docs/semantics.md``.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from functools import partial

from pyroaring import BitMap

from vfs_volatile.core.byte_spans import ByteSpan, pages_covered, pages_touched
from vfs_volatile.core.held import few_pages, last_few_pages
from vfs_volatile.core.mending import change
from vfs_volatile.core.pages import MAX_BYTES, PageSpan, count, page_set, runs, within
from vfs_volatile.core.residency import Residency
from vfs_volatile.errors import REFUSALS, SyscallError
from vfs_volatile.units import PAGE_SIZE, pages_for

_ZEROS = memoryview(bytes(1 << 20))
PAGES_AT_ONCE = 1024
"""Pages that are freed or made zero in one go, of any file: if each lies alone this takes some ten
milliseconds. Of more, others get their turn between two steps, as with ranges (AT_ONCE)."""
_CUT_AT_ONCE = 1 << 16
"""Pages at the end of a file: they go in one call, in some twenty milliseconds. Of a larger file
others may see a size between."""
_FILLED_AT_ONCE = 32 << 20
"""Bytes: some ten milliseconds."""


def require_size(start: int, end: int) -> int:
    """``end``, if a file may hold bytes ``[start, end)``. Raises SyscallError(EFBIG)."""
    if end > MAX_BYTES or end < start:
        raise SyscallError(errno.EFBIG)
    return end


class Allocation(Residency):
    """The pages of one file, and whether there is memory for them."""

    __slots__ = ()

    def portions(self, start: int, length: int) -> Iterator[ByteSpan]:
        """As :meth:`pieces`, in which no more than PAGES_AT_ONCE pages or so are held."""
        for at, left in self.pieces(start, length):
            end = at + left
            while pages_for(end) - at // PAGE_SIZE > PAGES_AT_ONCE:
                span = few_pages(self.held_in, pages_touched(at, end), PAGES_AT_ONCE)
                if span.end * PAGE_SIZE >= end:
                    break
                yield at, span.end * PAGE_SIZE - at
                at = span.end * PAGE_SIZE
            yield at, end - at

    def held_in(self, span: PageSpan) -> int:
        """How many pages of ``span``, which is not empty, hold memory, seen or not."""
        return count(self.resident, span) if self.direct is None else self.direct.held_in(span)

    def last_portion(self) -> int:
        """The page from which on the file holds _CUT_AT_ONCE pages; 0 if it holds no more."""
        if self.held <= _CUT_AT_ONCE:
            return 0
        return last_few_pages(self.held_in, pages_for(self.size), _CUT_AT_ONCE)

    @change
    def punch_hole(self, offset: int, length: int) -> None:
        """Make bytes zero and free whole pages; those are intact, volatility stays (rule 7).

        Raises OSError: of several chunks the first may have been punched then.
        """
        end = min(offset + length, MAX_BYTES)
        if end <= offset:
            return
        touched = pages_touched(offset, end)
        self.look(touched)
        freed = pages_covered(offset, end, MAX_BYTES)
        kept = self._held_or_purged(freed) if self.keeps_pages else BitMap()
        # If direct, all at once, and what nobody can see beyond the end of file, too.
        for part in self._held_parts(touched) if self.direct is None else [touched]:
            start, stop = max(offset, part.first * PAGE_SIZE), min(end, part.end * PAGE_SIZE)
            self._free(
                pages_covered(start, stop, MAX_BYTES),
                partial(self.store.zero, start, stop - start),
            )
        self.volatility.zeroed(pages_covered(offset, end, self.size))
        self.keep_pages(kept)

    def punching(self, offset: int, length: int) -> Iterator[None]:
        """As :meth:`punch_hole`, in steps of AT_ONCE ranges and PAGES_AT_ONCE pages or so."""
        for piece in self.portions(offset, length):
            self.punch_hole(*piece)
            yield

    def allocate(self, offset: int, length: int, *, keep_size: bool) -> None:
        """As :meth:`allocating`, at once."""
        for _ in self.allocating(offset, length, keep_size=keep_size):
            pass

    def allocating(self, offset: int, length: int, *, keep_size: bool) -> Iterator[None]:
        """Hold memory for every page met, in steps as :meth:`punching`; purged pages stay purged.

        Raises SyscallError ENOSPC, EFBIG, and OSError. Nothing has changed then, unless others took
        between two steps what there was.
        """
        end = require_size(0, offset + length)
        span = pages_touched(offset, end)
        # Asked first: of a span that is far too large nothing has to be looked at.
        self._reserve_all(span, count(self.volatility.purged, span))
        yield from self._looking(offset, length)
        self.memory.reserve(len(self._missing(offset, length)))
        for piece in self._by_pages(offset, length):
            self._allocate_piece(piece, self.size if keep_size or sum(piece) < end else end)
            yield

    @change
    def _allocate_piece(self, piece: ByteSpan, size: int) -> None:
        missing = self._missing(*piece)
        self.memory.reserve(len(missing))
        self._hold(missing, size)
        if self.keeps_pages and self.direct is not None:
            # Of a hole that was only read through a mapping the kernel has a clean page, which
            # drop_caches (linux/fs/drop_caches.c) takes away; allocating makes it dirty.
            held = within(self.resident, pages_touched(piece[0], sum(piece)))
            for run in runs(held - missing - self.volatility.purged):
                self.direct.allocate(run)

    def zero_range(self, offset: int, length: int, *, keep_size: bool) -> None:
        """As :meth:`zeroing`, at once."""
        for _ in self.zeroing(offset, length, keep_size=keep_size):
            pass

    def zeroing(self, offset: int, length: int, *, keep_size: bool) -> Iterator[None]:
        """Make bytes zero and hold memory for them (rule 7), in steps, as :meth:`allocating`."""
        end = require_size(0, offset + length)
        self._reserve_all(pages_touched(offset, end))
        yield from self._looking(offset, length)
        self.memory.reserve(self._absent(pages_touched(offset, end)))
        for piece in self._by_pages(offset, length):
            self._zero_piece(piece, self.size if keep_size or sum(piece) < end else end)
            yield

    @change
    def _zero_piece(self, piece: ByteSpan, size: int) -> None:
        start, stop = piece[0], sum(piece)
        touched = pages_touched(start, stop)
        covered = pages_covered(start, stop, self.size)
        held = within(self.resident, touched)
        still_purged = within(self.volatility.purged, touched) - page_set(covered)
        missing = page_set(touched) - held - still_purged
        self.memory.reserve(len(missing))
        before = self.size
        self._hold(missing, size)
        try:  # after that: nothing is zero if there is no memory
            self._overwrite(start, stop, held)
        except REFUSALS:
            self._let_go(list(runs(missing)), before)
            raise
        self.volatility.zeroed(covered)

    # ---- helpers ----

    def _held_or_purged(self, span: PageSpan) -> BitMap:
        """The pages of ``span`` that somebody who has them mapped may count on."""
        return within(self.resident, span) | within(self.volatility.purged, span)

    def _reserve_all(self, span: PageSpan, purged: int = 0) -> None:
        """Raise SyscallError(ENOSPC) if there is no room for ``span``, where so many pages are not
        to be held. What has not been seen yet may need a look.
        """
        if span:
            self.memory.reserve(span.end - span.first - self.held_in(span) - purged)

    def _looking(self, offset: int, length: int) -> Iterator[None]:
        """As :meth:`look`, in steps."""
        if self.direct is not None:
            for start, size in self.portions(offset, length):
                self.look(pages_touched(start, start + size))
                yield

    def _by_pages(self, offset: int, length: int) -> Iterator[ByteSpan]:
        """As :meth:`pieces`, of no more than _FILLED_AT_ONCE bytes."""
        for at, left in self.pieces(offset, length):
            end = at + left
            while at < end:
                stop = min(end, (at // _FILLED_AT_ONCE + 1) * _FILLED_AT_ONCE)
                yield at, stop - at
                at = stop

    def _missing(self, offset: int, length: int) -> BitMap:
        """The pages that bytes meet and that have no memory, but for purged ones."""
        span = pages_touched(offset, offset + length)
        return page_set(span) - self.resident - self.volatility.purged

    @change
    def _hold(self, missing: BitMap, size: int) -> None:
        """Hold memory, reserved before, for pages that have none, in a file that grows to ``size``.

        Raises OSError, and nothing has changed then.
        """
        before = self.size
        self._grow(size)
        wanted = list(runs(missing))
        try:
            for run in wanted:
                self.store.allocate(run)
        except REFUSALS:
            self._let_go(wanted, before)
            raise
        for run in wanted:
            self._make_resident(run)

    @change
    def _let_go(self, spans: list[PageSpan], size: int) -> None:
        """Undo :meth:`_hold`. Processes may have stored in what they reach without us: it stays."""
        with contextlib.suppress(*REFUSALS):
            self._shrink(size)
        for span in spans:
            self.look(span)
            if self.direct is None:
                self._take_out(within(self.resident, span))
                with contextlib.suppress(*REFUSALS):  # at worst zeros stay that are not counted
                    self.store.drop(span)
                self.volatility.dropped(span)

    def _overwrite(self, start: int, stop: int, held: BitMap) -> None:
        """Make bytes of pages zero that have memory, and keep it: this needs no more."""
        stop = min(stop, self.size)
        for run in runs(held):
            at, end = max(start, run.first * PAGE_SIZE), min(stop, run.end * PAGE_SIZE)
            while at < end:
                at += self.store.write(at, _ZEROS[: end - at])
