"""The address_space of an inode: its pages, its volatile ranges, its purged pages.

This is the heart of the file system: every rule about them lives here. Nothing here waits. A purge
is in two steps, since the kernel has a page cache of its own: ``begin_purge`` drops the data,
the caller makes the kernel drop its copy, ``end_purge`` closes the :class:`Drain` between. What
the kernel writes back meanwhile is older than the purge and is discarded.

Rule numbers refer to the list "Semantics of ranges" in ``docs/semantics.md``.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pyroaring import BitMap

from vfs_volatile.core.consent import Ballot, Process
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import (
    LAST_PAGE,
    MAX_BYTES,
    DirectStore,
    PageSpan,
    PageStore,
    count,
    next_page,
    page_set,
    pages_covered,
    pages_touched,
    present,
    run_end,
    runs,
    within,
)
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.core.volatility import Drain, Volatility
from vfs_volatile.core.votes import Votes
from vfs_volatile.errors import SyscallError
from vfs_volatile.units import PAGE_SIZE, pages_for

ByteSpan = tuple[int, int]
"""(start, length) in bytes."""


def _require_size(start: int, end: int) -> int:
    """``end``, if a file may hold bytes ``[start, end)``. Raises SyscallError(EFBIG)."""
    if end > MAX_BYTES or end < start:
        raise SyscallError(errno.EFBIG)
    return end


class Run(NamedTuple):
    """What NEXT answers: volatile bytes of one range that are all purged or all not."""

    start: int
    length: int
    behavior: int
    state: int


class AddressSpace:
    """The pages of one file and what may be done to them."""

    __slots__ = (
        "_size", "_votes", "direct", "ino", "keeps_pages", "memory", "resident", "store",
        "volatility",
    )  # fmt: skip

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
        self.volatility = Volatility(self, memory, self.resident)
        self._votes: Votes | None = None
        """Made when the first is cast: most files never have any."""

    @property
    def votes(self) -> Votes:
        """What processes have said of it by mvrange, or may say now."""
        if self._votes is None:
            self._votes = Votes(self)
        return self._votes

    @property
    def ballots(self) -> Mapping[Process, Ballot]:
        """Its votes, by process; not to be changed."""
        return self._votes.ballots if self._votes else {}

    @property
    def size(self) -> int:
        """Bytes of the file; of what lies beyond the largest we keep, processes alone know."""
        return self._size if self.direct is None else min(self.direct.size(), MAX_BYTES)

    @property
    def held(self) -> int:
        """Pages of memory that it holds."""
        return len(self.resident) if self.direct is None else self.direct.held()

    # ---- files that processes reach without us ----

    def go_direct(self, store: DirectStore) -> None:
        """Keep the file in ``store``, which is empty, and let processes reach it; for good."""
        assert not self.resident
        store.truncate(self._size)
        self.store.close()
        self.store = self.direct = store
        self.volatility.go_direct()

    def look(self, span: PageSpan) -> None:
        """See which pages of ``span`` are resident by now, if processes store without us."""
        if self.direct is None or not span:
            return
        seen = BitMap()
        for run in present(self.direct, span):
            seen.add_range(*run)
        known = within(self.resident, span)
        gone = known - seen
        if gone:  # by madvise(2) MADV_REMOVE
            self.resident -= gone
            self.memory.uncharge(len(gone), direct=True)
        for run in runs(seen - known):
            self._make_resident(run)
        self.volatility.dropped(span)

    def look_for_refilled(self) -> None:
        """Queue volatile ranges that were empty and have been filled without us."""
        if self.direct is not None:
            self.volatility.refilled(self.direct)

    @property
    def reads_zero(self) -> bool:
        """Do all its purged pages read as zeros, now and after a mark that says nothing of it?"""
        volatility = self.volatility
        return volatility.reads_zero_throughout() and (
            len(volatility.ranges) > 0 or self.memory.zero_by_default
        )

    def require_honoured(self, behavior: int) -> None:
        """Raise SyscallError(EOPNOTSUPP) if touching a purged page cannot be the error asked for:
        the kernel reads a hole as zeros without asking us.
        """
        if self.direct is not None and not self.memory.reads_zero(behavior):
            raise SyscallError(errno.EOPNOTSUPP)

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
        if self.volatility.first_denied(pages_touched(offset, offset + length)) is not None:
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
        self._grow(end)
        self._make_resident(pages_touched(offset, end))
        covered = pages_covered(offset, end, self.size)
        self.volatility.rewritten(covered)
        if self._votes:
            self._votes.rewritten(covered)
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
        keep = page_set(touched) - self._discard_stale(touched)
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
        if size > self.size:
            self._grow(size)
            return
        keep = pages_for(size)
        beyond = PageSpan(keep, LAST_PAGE)
        self.look(beyond)
        self._drop(beyond)
        self.volatility.truncate(keep)
        if self._votes:
            self._votes.truncate(keep)
        self.store.truncate(size)
        self._size = size

    def truncating(self, size: int) -> Iterator[None]:
        """As :meth:`truncate`, in steps of AT_ONCE ranges, each a truncation of its own."""
        _require_size(0, size)
        while (step := self.volatility.ranges.last_step() * PAGE_SIZE) > size:
            self.truncate(step)
            yield
        self.truncate(size)

    def punch_hole(self, offset: int, length: int) -> None:
        """Make bytes zero and free whole pages; those are intact, volatility stays (rule 7)."""
        end = min(offset + length, MAX_BYTES)
        if end <= offset:
            return
        covered = pages_covered(offset, end, MAX_BYTES)
        self.look(pages_touched(offset, end))
        if covered:
            self._drop(covered)
            if self.direct is not None:  # what nobody can see beyond the end of file, too
                self.direct.drop(covered)
        self.volatility.zeroed(pages_covered(offset, end, self.size))
        for page in self._edges(pages_touched(offset, end), covered):
            if page in self.resident:
                start = max(offset, page * PAGE_SIZE)
                self.store.zero(start, min(end, (page + 1) * PAGE_SIZE) - start)
        self._keep_page(covered)

    def punching(self, offset: int, length: int) -> Iterator[None]:
        """As :meth:`punch_hole`, in steps of AT_ONCE ranges."""
        for piece in self.pieces(offset, length):
            self.punch_hole(*piece)
            yield

    def allocate(self, offset: int, length: int, *, keep_size: bool) -> None:
        """As :meth:`allocating`, at once."""
        for _ in self.allocating(offset, length, keep_size=keep_size):
            pass

    def allocating(self, offset: int, length: int, *, keep_size: bool) -> Iterator[None]:
        """Hold memory for every page met, in steps of AT_ONCE ranges; purged pages stay purged.

        Raises SyscallError: ENOSPC, EFBIG. Nothing has changed then, unless others took between two
        steps what there was.
        """
        end = _require_size(0, offset + length)
        self.look(pages_touched(offset, end))
        self.memory.reserve(len(self._missing(offset, length)))
        for piece in self.pieces(offset, length):
            self.memory.reserve(len(self._missing(*piece)))
            self._hold(*piece, keep_size=keep_size or sum(piece) < end)
            yield

    def zero_range(self, offset: int, length: int, *, keep_size: bool) -> None:
        """As :meth:`zeroing`, at once."""
        for _ in self.zeroing(offset, length, keep_size=keep_size):
            pass

    def zeroing(self, offset: int, length: int, *, keep_size: bool) -> Iterator[None]:
        """Make bytes zero and hold memory for them (rule 7), in steps, as :meth:`allocating`."""
        end = _require_size(0, offset + length)
        self.look(pages_touched(offset, end))
        self.memory.reserve(self._absent(pages_touched(offset, end)))
        for start, size in self.pieces(offset, length):
            self.memory.reserve(self._absent(pages_touched(start, start + size)))
            self.punch_hole(start, size)
            self._hold(start, size, keep_size=keep_size or start + size < end)
            yield

    def seek(self, offset: int, whence: int) -> int:
        """The next data (SEEK_DATA) or hole (SEEK_HOLE) from ``offset``; purged pages are holes.

        Raises SyscallError(ENXIO) at or beyond the end of file, and for data where none follows.
        """
        if not 0 <= offset < self.size:
            raise SyscallError(errno.ENXIO)
        page = offset // PAGE_SIZE
        if whence == os.SEEK_HOLE:
            return min(max(offset, self._next_hole(page) * PAGE_SIZE), self.size)
        found = self._next_data(page)
        if found is None or found * PAGE_SIZE >= self.size:
            raise SyscallError(errno.ENXIO)
        return max(offset, found * PAGE_SIZE)

    # ---- volatility ----

    def mark(self, start: int, length: int, behavior: int) -> int:
        """Make the pages wholly inside volatile; the bytes of the range already purged.

        Pages that are volatile already keep their age, behavior and state (rule 2). A ``length``
        of 0 reaches to the end of file.
        """
        for _ in self.marking(start, length, behavior):
            pass
        return self.purged_bytes(start, length)

    def marking(self, start: int, length: int, behavior: int) -> Iterator[None]:
        """As :meth:`mark`, in steps that make AT_ONCE ranges at most: of one age, as one mark."""
        age = None
        page = 0
        while (span := self.span_of(start, length)) and page < span.end:
            rest = PageSpan(max(page, span.first), span.end)
            page = self.volatility.mark(rest, behavior, age=age, most=AT_ONCE)
            age = age or self.memory.newest_age  # a second step comes only after many gaps
            yield

    def mark_many(self, spans: list[ByteSpan], behavior: int) -> list[int]:
        """:meth:`mark` for each of ``spans``, in their order, faster."""
        pages = [self.span_of(*span) for span in spans] if self._in_order(spans) else []
        if not self.volatility.mark_new(pages, behavior):
            return [self.mark(*span, behavior) for span in spans]
        return (
            [self.purged_bytes(*span) for span in spans]
            if self.volatility.purged
            else ([0] * len(spans))
        )

    def unmark_many(self, spans: list[ByteSpan]) -> list[int]:
        """:meth:`unmark` for each of ``spans``, in their order, faster."""
        pages = [self.touched(*span) for span in spans] if self._in_order(spans) else []
        if self.volatility.purged or not self.volatility.unmark_whole(pages):
            return [self.unmark(*span) for span in spans]
        for span in pages if self.votes.ballots else []:
            self.votes.ended(span)
        return [0] * len(spans)

    @staticmethod
    def _in_order(spans: list[ByteSpan]) -> bool:
        """Does each begin where the one before ends, or behind that?"""
        at = 0
        for start, length in spans:
            if start < at or not length:
                return False
            at = start + length
        return True

    def unmark(self, start: int, length: int, *, record_lost: bool = False) -> int:
        """End volatility of every page met; the bytes of exactly this range that were purged.

        Purged pages become zero-filled and clean (rule 3). Nothing there may be draining, and the
        kernel's copy of pages in :meth:`zeroed_by_unmark` must be gone: see ``fs/purges.py``.
        """
        span = self.touched(start, length)
        assert not self.draining(span), "unmark while a purge drains"
        found = self.purged_bytes(start, length)
        if found:
            purged = self.volatility.purged & page_set(span)
            if record_lost:
                self.volatility.lost |= purged
            self.restore(purged)
            if self._votes:
                self._votes.told(purged)
        self.volatility.unmark(span)
        if self._votes:
            self._votes.ended(span)
        return found

    def restore(self, purged: BitMap) -> None:
        """Make purged pages zero-filled and clean: somebody has been told."""
        for run in runs(purged):
            self.look(run)
            self._drop(run)
            self._keep_page(run)
            self.volatility.forget_purged(run)

    def acknowledge_lost(self) -> None:
        """Whoever wanted to know what was lost knows it."""
        self.volatility.lost.clear()

    def next_run(self, start: int) -> Run:
        """The first run that ends after byte ``start``. Raises SyscallError(ENXIO) if none does."""
        found = self.volatility.run_from(start // PAGE_SIZE) if start < self.size else None
        if found is None:
            raise SyscallError(errno.ENXIO)
        span, behavior, state = found
        return Run(*self._bytes(span), behavior, state)

    def volatile_spans(self) -> Iterator[ByteSpan]:
        """The volatile ranges, unmerged."""
        return (self._bytes(entry.span) for entry in self.volatility.ranges)

    def purged_spans(self) -> Iterator[ByteSpan]:
        """The runs of pages that are purged and still volatile."""
        return (self._bytes(run) for run in runs(self.volatility.purged))

    def lost_spans(self) -> Iterator[ByteSpan]:
        """The runs of pages that an unmark by xattr found purged, still unacknowledged."""
        return (self._bytes(run) for run in runs(self.volatility.lost))

    def purged_bytes(self, start: int, length: int) -> int:
        """How many bytes of the range are purged."""
        return self.bytes_in(self.volatility.purged, start, length)

    def bytes_in(self, pages: BitMap, start: int, length: int) -> int:
        """How many bytes of the range lie in ``pages``."""
        start, end = self._clip(start, length)
        if start >= end or not pages:
            return 0
        span = pages_touched(start, end)
        found = count(pages, span) * PAGE_SIZE
        if span.first in pages:
            found -= start - span.first * PAGE_SIZE
        if span.end - 1 in pages:
            found -= span.end * PAGE_SIZE - end
        return found

    # ---- purging ----

    def span_of(self, start: int, length: int) -> PageSpan:
        """The pages wholly inside the range: what a mark or a purge of it takes."""
        start, end = self._clip(start, length)
        return pages_covered(start, end, self.size) if start < end else PageSpan(0, 0)

    def touched(self, start: int, length: int) -> PageSpan:
        """The pages that the range meets: what an unmark of it takes."""
        start, end = self._clip(start, length)
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

    def zeroed_by_unmark(self, start: int, length: int) -> BitMap:
        """Purged pages that an unmark would turn to zeros while the kernel may hold other bytes."""
        if self.direct is not None:
            return BitMap()  # the kernel has no copy
        return self.volatility.purged_reading_zero(self.touched(start, length))

    def begin_purge(self, spans: Iterable[PageSpan], newest: int) -> Drain:
        """Drop the data of the pages in ``spans`` that a mark no younger than ``newest`` covers.

        From here on they are purged; a page with nothing stored only if the kernel still
        writes one back (rule 11). ``newest``: the age of the youngest mark there was when
        the purge was decided; a mark made since belongs to the next purge.
        """
        drain = Drain(self)
        for span in spans:
            for entry in list(self.volatility.ranges.overlapping(span)):
                if entry.age <= newest:
                    piece = entry.span.clip(span)
                    self.look(piece)
                    held = self.resident & page_set(piece)
                    self.volatility.set_purged(held)
                    self._drop(piece)
                    drain.dropped += len(held)
                    drain.purged |= held
                    if self.direct is None:
                        drain.pages.add_range(*piece)
        if drain.pages:
            self.volatility.drains.append(drain)
        return drain

    def end_purge(self, drain: Drain) -> None:
        """The kernel holds nothing older than the purge any more."""
        if drain in self.volatility.drains:
            self.volatility.drains.remove(drain)
        if self._votes:
            self._votes.settled()

    def draining(self, span: PageSpan) -> bool:
        """Is a purge under way on one of these pages?"""
        return self.volatility.draining(span)

    def close(self) -> None:
        """Give everything back: the inode is gone."""
        if self.direct is not None:  # nobody can reach it any more: no need to look
            self._forget(PageSpan(0, LAST_PAGE))
            self.volatility.truncate(0)
            self.store.close()
            return
        self.truncate(0)
        self.store.close()

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold (for tests; linear time)."""
        self.volatility.check(page_set(PageSpan(0, pages_for(self.size))))

    # ---- helpers: how far a write goes ----

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

    # ---- helpers: what is resident ----

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

    def _missing(self, offset: int, length: int) -> BitMap:
        """The pages that bytes meet and that have no memory, but for purged ones."""
        span = pages_touched(offset, offset + length)
        return page_set(span) - self.resident - self.volatility.purged

    def _hold(self, offset: int, length: int, *, keep_size: bool) -> None:
        """Hold memory, reserved before, for every page that bytes meet but purged ones."""
        missing = self._missing(offset, length)
        size = self.size
        if not keep_size:
            self._grow(offset + length)
        for run in runs(missing):
            try:
                self.store.allocate(run)
            except OSError as error:
                if self.direct is None:
                    self.store.drop(run)  # what is not resident must hold nothing
                self.look(run)
                self._shrink(size)
                raise SyscallError(errno.ENOSPC) from error
            self._make_resident(run)

    def _keep_page(self, span: PageSpan) -> None:
        """Hold memory for pages just made zero, if whoever has them mapped needs that."""
        if self.keeps_pages and (span := span.clip(PageSpan(0, pages_for(self.size)))):
            with contextlib.suppress(OSError):  # no memory: touching them is SIGBUS, as on tmpfs
                self.store.allocate(span)
            self.look(span)

    def _grow(self, size: int) -> None:
        """Let the file be ``size`` bytes if it is smaller."""
        if size > self.size:
            self._size = size
            if self.direct is not None:
                self.direct.truncate(size)

    def _shrink(self, size: int) -> None:
        """Undo :meth:`_grow`: nobody has stored anything beyond ``size`` since."""
        self._size = size
        if self.direct is not None:
            self.direct.truncate(size)

    def _make_resident(self, span: PageSpan) -> None:
        added = self._absent(span)
        if added:
            self.resident.add_range(*span)
            self.memory.charge(added, direct=self.direct is not None)
            self.volatility.added(span)

    def _drop(self, span: PageSpan) -> None:
        dropped = count(self.resident, span)
        if dropped:
            # If direct, not more than was seen: what came since is nobody's to drop unreported.
            for run in [span] if self.direct is None else runs(within(self.resident, span)):
                self.store.drop(run)
            self.resident.remove_range(*span)
            self.memory.uncharge(dropped, direct=self.direct is not None)
            self.volatility.dropped(span)

    def _forget(self, span: PageSpan) -> None:
        """Pages of a direct file have gone, or go with its store."""
        gone = count(self.resident, span)
        self.resident.remove_range(*span)
        self.memory.uncharge(gone, direct=True)

    def _next_data(self, page: int) -> int | None:
        """The first page from ``page`` on that is resident and not purged."""
        if self.direct is None:
            return next_page(self.resident - self.volatility.purged, page)
        found = self.direct.next_data(page)
        while found is not None and found in self.volatility.purged:
            found = self.direct.next_data(run_end(self.volatility.purged, found))
        return found

    def _next_hole(self, page: int) -> int:
        """The first page from ``page`` on that is not resident, or purged."""
        if self.direct is None:
            return run_end(self.resident - self.volatility.purged, page)
        if page in self.volatility.purged or self.direct.next_data(page) != page:
            return page
        purged = next_page(self.volatility.purged, page)
        end = self.direct.next_hole(page)
        return end if purged is None else min(end, purged)

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

    # ---- helpers: bytes and pages ----

    def _clip(self, start: int, length: int) -> ByteSpan:
        """(start, end) in bytes within the file; length 0 reaches to its end."""
        return start, min(start + length, self.size) if length else self.size

    def _bytes(self, span: PageSpan) -> ByteSpan:
        start = span.first * PAGE_SIZE
        return start, min(span.end * PAGE_SIZE, self.size) - start
