"""The address_space of an inode: its pages, its volatile ranges, its purged pages.

This is the heart of the file system: every rule about them lives here, and in the classes below it,
``residency`` (which pages hold memory), ``allocation`` (what fallocate(2) does to them) and
``content`` (what reading and writing does). Nothing here waits.

A purge is in two steps, since the kernel has a page cache of its own: ``begin_purge`` drops the
data, the caller makes the kernel drop its copy, ``end_purge`` closes the :class:`Drain` between.
What the kernel writes back meanwhile is older than the purge and is discarded.

Rule numbers refer to the list "Semantics of ranges" in ``docs/semantics.md``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import add, le
from typing import NamedTuple

from pyroaring import BitMap

from vfs_volatile.core.consent import Ballot, Process
from vfs_volatile.core.content import Content
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import (
    PageSpan,
    PageStore,
    count,
    page_set,
    pages_covered,
    pages_touched,
    runs,
    whole_pages,
    within,
)
from vfs_volatile.core.range_state import Drain
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.core.residency import ByteSpan
from vfs_volatile.core.volatility import Volatility
from vfs_volatile.core.votes import Votes
from vfs_volatile.errors import REFUSALS, SyscallError
from vfs_volatile.units import PAGE_SIZE, pages_for

_FEW_PAGES = 256
"""So many may be looked at one by one; what lies between them may be far more."""


class Run(NamedTuple):
    """What NEXT answers: volatile bytes of one range that are all purged or all not."""

    start: int
    length: int
    behavior: int
    state: int


class AddressSpace(Content):
    """The pages of one file and what may be done to them."""

    __slots__ = ("_votes", "volatility")

    def __init__(self, ino: int, memory: Memory, store: PageStore) -> None:
        super().__init__(ino, memory, store)
        self.volatility = Volatility(memory, self.resident)
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

    # ---- volatility ----

    def mark(self, start: int, length: int, behavior: int) -> int:
        """Make the pages wholly inside volatile; the bytes of the range already purged.

        Pages that are volatile already keep their age, behavior and state (rule 2). A ``length``
        of 0 reaches to the end of file.
        """
        if span := self.span_of(start, length):
            self.volatility.mark(self, span, behavior)
        return self.purged_bytes(start, length)

    def marking(self, start: int, length: int, behavior: int) -> Iterator[None]:
        """As :meth:`mark`, in steps that make AT_ONCE ranges at most: of one age, as one mark."""
        age = None
        page = 0
        while (span := self.span_of(start, length)) and page < span.end:
            rest = PageSpan(max(page, span.first), span.end)
            newest = self.memory.newest_age
            page = self.volatility.mark(self, rest, behavior, age=age, most=AT_ONCE)
            if self.memory.newest_age != newest:
                age = self.memory.newest_age
            yield

    def mark_many(self, starts: Sequence[int], lengths: Sequence[int], behavior: int) -> list[int]:
        """:meth:`mark` for many, in their order, faster."""
        if len(starts) == 1:
            return [self.mark(starts[0], lengths[0], behavior)]
        size = self.size
        pages = self._pages_of_many(
            starts, lengths, lambda start, end: pages_covered(start, end, size)
        )
        if not self.volatility.mark_new(self, *pages, behavior):
            return [self.mark(*span, behavior) for span in zip(starts, lengths, strict=True)]
        return self._purged_in(starts, lengths)

    def unmark_many(self, starts: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """:meth:`unmark` for many, in their order, faster."""
        if len(starts) == 1:
            told = [0]  # made before: what has been told must reach whoever asked
            told[0] = self.unmark(starts[0], lengths[0])
            return told
        pages = self._pages_of_many(starts, lengths, pages_touched)
        if (
            not pages[0]
            or any(self._purged_in(starts, lengths))
            or not self.volatility.unmark_whole(*pages)
        ):
            spans = list(zip(starts, lengths, strict=True))
            self.clean_for_unmark(spans)
            return self.tell(spans)
        if self._votes:
            for span in map(PageSpan, *pages):
                self._votes.ended(span)
        return [0] * len(starts)

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

    def _purged_in(self, starts: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """:meth:`purged_bytes` of many, which are in order."""
        hull = starts[-1] + lengths[-1] - starts[0]
        if not self.volatility.purged or not self.purged_bytes(starts[0], hull):
            return [0] * len(starts)
        return list(map(self.purged_bytes, starts, lengths))

    def unmark(self, start: int, length: int, *, record_lost: bool = False) -> int:
        """End volatility of every page met; the bytes of exactly this range that were purged.

        Purged pages become zero-filled and clean (rule 3). Nothing there may be draining, and the
        kernel's copy of pages in :meth:`zeroed_by_unmark` must be gone: see ``fs/purges.py``.
        Raises OSError, and nothing has changed then.
        """
        span = self.touched(start, length)
        assert not self.draining(span), "unmark while a purge drains"
        if self.volatility.purged:
            self.clean_for_unmark([(start, length)])
            return self.tell([(start, length)], record_lost=record_lost)[0]
        if self._votes:
            self._votes.ended(span)
        self.volatility.unmark(span)
        return 0

    def clean_for_unmark(self, spans: Iterable[ByteSpan]) -> None:
        """Do what the system may refuse of unmarking ``spans``: drop what has been stored in purged
        pages since. They stay purged. Raises OSError.
        """
        if self.volatility.purged:
            for span in spans:
                self.clean(within(self.volatility.purged, self.touched(*span)))

    def end_intact(self, start: int, length: int) -> None:
        """End volatility of ranges without a purged page, as far as they are met: of these there is
        nothing to tell.
        """
        span = self.touched(start, length)
        pieces = (span.clip(entry) for entry in self.volatility.ranges.overlapping(span))
        self._end([piece for piece in pieces if not count(self.volatility.purged, piece)])

    def tell(self, spans: Sequence[ByteSpan], *, record_lost: bool = False) -> list[int]:
        """End volatility of all that ``spans`` meet; the bytes of each that were purged, and have
        not been told of another of them.

        All at this moment, whatever their number: what is told now is forgotten, so nothing may
        fail between the first and the last. To be called after :meth:`clean_for_unmark`; what was
        stored since stays, as if it had come after this.
        """
        met = [self.touched(*span) for span in spans]
        met_pages = BitMap().union(*map(page_set, met))
        purged = self.volatility.purged & met_pages
        found = [0] * len(spans)
        if purged:
            left = purged.copy()
            for number, span in enumerate(met):
                found[number] = self.bytes_in(left, *spans[number])
                left -= page_set(span)
            if record_lost:
                self.volatility.lost |= purged
            if self._votes:
                self._votes.told(purged)
        self._end(list(runs(met_pages)))
        self._keep_pages(purged)
        return found

    def _end(self, spans: Sequence[PageSpan]) -> None:
        if self._votes:
            for span in spans:
                self._votes.ended(span)
        self.volatility.unmark(*spans)

    def forget(self, purged: BitMap) -> None:
        """Let purged pages be zero-filled and intact: somebody is being told."""
        for run in runs(purged):
            self.volatility.forget_purged(run)
        self._keep_pages(purged)

    def clean(self, purged: BitMap) -> None:
        """Drop what has been stored in purged pages since, without a report. Raises OSError."""
        hull = [PageSpan(purged.min(), purged.max() + 1)] if len(purged) > _FEW_PAGES else []
        for span in hull or runs(purged):
            self.look(span)
        for run in list(runs(purged & self.resident)):
            self._drop(run)

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
        purged = self.volatility.purged
        return self.bytes_in(purged, start, length) if purged else 0

    # ---- purging ----

    def zeroed_by_unmark(self, start: int, length: int) -> BitMap:
        """Purged pages that an unmark would turn to zeros while the kernel may hold other bytes."""
        if self.direct is not None:
            return BitMap()  # the kernel has no copy
        return self.volatility.purged_reading_zero(self.touched(start, length))

    def begin_purge(self, spans: Iterable[PageSpan], newest: int) -> Drain:
        """Drop the data of the pages in ``spans`` that a mark no younger than ``newest`` covers.

        From here on they are purged; a page with nothing stored only if the kernel still
        writes one back (rule 11). ``newest``: the age of the youngest mark there was when
        the purge was decided; a mark made since belongs to the next purge. If the system
        refuses to free a page the purge ends there (``refused``): the pages before are purged.
        """
        drain = Drain(self)
        if self._votes and (forsaken := self._votes.forsaken):
            spans = runs(BitMap().union(*map(page_set, spans)) - forsaken)
        self.volatility.drains.append(drain)
        try:
            for span in spans:
                for entry in list(self.volatility.ranges.overlapping(span)):
                    if entry.age <= newest:
                        self._purge(span.clip(entry), drain)
        except REFUSALS as error:  # what has gone has to drain all the same
            drain.refused = error
        if not drain.pages:
            self.volatility.drains.remove(drain)
        return drain

    def _purge(self, piece: PageSpan, drain: Drain) -> None:
        """Raises OSError or MemoryError: what is purged and draining by then stays so."""
        self.look(piece)
        for part in self._parts_to_drop(piece):
            held = within(self.resident, part)
            draining = BitMap() if self.direct is not None else held
            drain.pages |= draining
            purged = self.volatility.set_purged(held)  # before it goes: memory may run out between
            try:
                self._drop_part(part)
            except OSError:
                self.volatility.unset_purged(purged)
                drain.pages -= draining
                raise
            drain.dropped += len(held)
            drain.purged |= held
        if self.direct is None:
            drain.pages.add_range(*piece)
        else:
            self.volatility.dropped(piece)

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
            self._take_out(self.resident.copy())
            self.volatility.truncate(0)
        elif self._size or self.resident or self._votes:  # else there is nothing to give back
            self.truncate(0)
        self._votes = None  # they refer to us: it would take a garbage collector to find both
        self.store.close()

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold (for tests; linear time)."""
        self.volatility.check(page_set(PageSpan(0, pages_for(self.size))))
