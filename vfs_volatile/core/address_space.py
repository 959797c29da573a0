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

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat

from pyroaring import BitMap

from vfs_volatile.abi.ioctls import VRANGE_SIGBUS, VRANGE_ZERO
from vfs_volatile.core.byte_spans import pages_covered
from vfs_volatile.core.consent import Ballot, Process
from vfs_volatile.core.growth import require_to_mark
from vfs_volatile.core.held import held_end
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.mending import change
from vfs_volatile.core.pages import PageSpan, PageStore, in_chunk, page_set, runs, within, without
from vfs_volatile.core.range_state import Drain
from vfs_volatile.core.ranges import AT_ONCE, VolatileRange
from vfs_volatile.core.unmarking import Unmarking
from vfs_volatile.core.volatility import Volatility
from vfs_volatile.core.votes import Votes
from vfs_volatile.errors import REFUSALS
from vfs_volatile.units import pages_for


class AddressSpace(Unmarking):
    """The pages of one file and what may be done to them."""

    __slots__ = ("_closed", "_votes", "volatility")

    def __init__(self, ino: int, memory: Memory, store: PageStore) -> None:
        super().__init__(ino, memory, store)
        self.volatility = Volatility(memory, self.resident)
        self._votes: Votes | None = None
        """Made when the first is cast: most files never have any."""
        self._closed = False

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

    @change
    def mark(self, start: int, length: int, behavior: int) -> int:
        """Make the pages wholly inside volatile; the bytes of the range already purged.

        Pages that are volatile already keep their age, behavior and state (rule 2). A ``length``
        of 0 reaches to the end of file.
        """
        return self._mark(start, length, behavior)

    def _mark(self, start: int, length: int, behavior: int) -> int:
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
            page = self._mark_step(rest, behavior, age)
            if self.memory.newest_age != newest:
                age = self.memory.newest_age
            yield

    @change
    def _mark_step(self, rest: PageSpan, behavior: int, age: int | None) -> int:
        """How far it came."""
        return self.volatility.mark(self, rest, behavior, age=age, most=AT_ONCE)

    def mark_many(self, starts: Sequence[int], lengths: Sequence[int], behavior: int) -> list[int]:
        """:meth:`mark` for many, in their order, faster; all or nothing."""
        memory = self.memory
        spans = map(self.span_of, starts, lengths)
        require_to_mark(memory, len(starts), zip(repeat(self.volatility), spans))
        if memory.in_doubt is not None:
            memory.mend()
        newest = memory.newest_age
        try:
            return self._mark_many(starts, lengths, behavior)
        except MemoryError:
            memory.in_doubt, memory.newest_before = self, newest
            raise

    def _mark_many(self, starts: Sequence[int], lengths: Sequence[int], behavior: int) -> list[int]:
        if len(starts) == 1:
            return [self._mark(starts[0], lengths[0], behavior)]
        size = self.size
        pages = self._pages_of_many(
            starts, lengths, lambda start, end: pages_covered(start, end, size)
        )
        if not self.volatility.mark_new(self, *pages, behavior):
            return [self._mark(*span, behavior) for span in zip(starts, lengths, strict=True)]
        return self._purged_in(starts, lengths)

    # ---- purging ----

    def steps(self, span: PageSpan) -> Iterator[PageSpan]:
        """``span`` in pieces that hold memory in AT_ONCE places or so: to drop them takes some ten
        milliseconds. Each is cut when it is asked for.
        """
        while span:
            cut, _ = self.step_end(span, AT_ONCE)
            yield PageSpan(span.first, cut)
            span = PageSpan(cut, span.end)

    def step_end(self, span: PageSpan, most: int) -> tuple[int, int]:
        """Where ``span`` is to be cut so that ``most`` places before hold memory; how many do.

        A place is what is dropped at once: the pages of a chunk, or if direct a run of them.
        """
        if span.end - span.first == 1:
            return span.end, 1
        next_held = self._search()
        page = next_held(*span)
        for place in range(most):
            if page >= span.end:
                return span.end, place
            page = next_held(self._place_end(PageSpan(page, span.end)), span.end)
        return page, most

    def _place_end(self, span: PageSpan) -> int:
        """Where the place ends that begins ``span``."""
        return in_chunk(*span).end if self.direct is None else held_end(self.direct, span)

    def begin_purge(self, spans: Iterable[PageSpan], newest: int) -> Drain:
        """Drop the data of the pages in ``spans`` that a mark no younger than ``newest`` covers.

        From here on they are purged; a page with nothing stored only if the kernel still
        writes one back (rule 11). ``newest``: the age of the youngest mark there was when
        the purge was decided; a mark made since belongs to the next purge. If the system
        refuses to free a page the purge ends there (``refused``): the pages before are purged.
        """
        drain = Drain(self)
        self.volatility.drains.append(drain)
        try:
            self._purge_all(spans, newest, drain)
        except REFUSALS as error:  # what has gone has to drain all the same
            drain.refused = error
        if not drain.pages:
            self.volatility.drains.remove(drain)
        return drain

    @change
    def _purge_all(self, spans: Iterable[PageSpan], newest: int, drain: Drain) -> None:
        if self._votes and (forsaken := self._votes.forsaken):
            spans = [run for span in spans for run in without(span, forsaken)]
        for span in spans:
            for entry in list(self.volatility.ranges.overlapping(span)):
                if entry.age <= newest:
                    self._purge(span.clip(entry), drain)

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
            try:  # noqa: SIM105  # suppress() may need more memory
                self._votes.settled()
            except MemoryError:  # whoever sweeps does it: nothing may wait for this purge any more
                pass

    @change
    def close(self) -> None:
        """Give everything back: the inode is gone. Raises OSError."""
        self._closed = True
        if self.direct is not None:  # nobody can reach it any more: no need to look
            self._take_out_all()
            self.volatility.truncate(0)
        elif self._size or self.resident or self._votes:  # else there is nothing to give back
            self.truncate(0)
        self._votes = None  # they refer to us: it would take a garbage collector to find both
        self.store.close()

    def mend(self, newest: int) -> None:
        """As in :mod:`~vfs_volatile.core.mending`. Purged pages of which nobody has been told are
        in ranges again, as if just marked, and touching them is an error where it can be.
        """
        if self._closed:
            self._mend_closed()
            return
        end = pages_for(self.size)
        untold = self.volatility.mend_ranges(end, newest)
        behavior = VRANGE_SIGBUS if self.direct is None else VRANGE_ZERO
        for run in runs(untold):
            entry = VolatileRange.make(self, run, behavior, self.memory.next_age())
            self.volatility.ranges.add(entry)
        denied = self.volatility.purged - self.volatility.purged_reading_zero(PageSpan(0, end))
        self._mend_residency(end, denied)
        self.volatility.mend_order(self)
        if self._votes:
            self._votes.mend_ballots()

    def _mend_closed(self) -> None:
        self.volatility.mend_ranges(0, 0)
        self._take_out_all()
        self.volatility.mend_order(self)
        self._votes = None
        with contextlib.suppress(OSError):  # perhaps it was the last thing that had been done
            self.store.close()

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold (for tests; linear time)."""
        assert self.charged == len(self.resident), "charged with another number of pages"
        self.volatility.check(page_set(PageSpan(0, pages_for(self.size))))
