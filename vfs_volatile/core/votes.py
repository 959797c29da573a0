"""Votes of processes on the pages of one file (``--mvrange=process``, Minchan Kim's proposal).

A page that no fvrange mark covers is purged only if every process that maps it has agreed; one that
a process holds is not purged while that process lives. Who maps what is told from outside.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING

from pyroaring import BitMap

from vfs_volatile.core.consent import Ballot, Process
from vfs_volatile.core.mending import change
from vfs_volatile.core.pages import (
    LAST_PAGE,
    PageSpan,
    next_page,
    page_set,
    run_end,
    runs,
    within,
)
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.core.telling import hold
from vfs_volatile.units import pages_for

if TYPE_CHECKING:
    from vfs_volatile.core.address_space import AddressSpace
    from vfs_volatile.core.memory import Memory


class Votes:
    """What processes have said of one file by mvrange."""

    __slots__ = ("_ballots", "_forsaken", "_kin_held", "_leaving", "_space")

    def __init__(self, space: AddressSpace) -> None:
        self._space = space
        # INVARIANT: a page that votes alone make volatile is agreed to by one of them at least, or
        # forsaken.
        self._ballots: dict[Process, Ballot] = {}
        self._kin_held: dict[Hashable, BitMap] = {}
        """What processes of one kin have ever held, for their children that were born unseen."""
        self._leaving: list[Process] = []
        """Voters that ended while a purge was under way; their votes end with it."""
        self._forsaken = BitMap()
        """Pages to which nobody agrees any more, in ranges that :meth:`sweep` has yet to end. Some
        of them may have been marked, or are gone, since."""

    @property
    def memory(self) -> Memory:
        """That of its file."""
        return self._space.memory

    @property
    def ballots(self) -> Mapping[Process, Ballot]:
        """By process; not to be changed."""
        return self._ballots

    @property
    def forsaken(self) -> BitMap:
        """Pages that look volatile by votes, while the votes have ended: they may not be purged."""
        return self._forsaken & self._space.volatility.ranges.voted

    @property
    def unfinished(self) -> bool:
        """Is there something to sweep, now or when a purge has ended?"""
        return bool(self._forsaken or self._leaving)

    def agree(self, process: Process, start: int, length: int, behavior: int) -> int:
        """As :meth:`agreeing`, at once; bytes of the range purged already."""
        for _ in self.agreeing(process, start, length, behavior):
            pass
        return self._space.purged_bytes(start, length)

    def agreeing(self, process: Process, start: int, length: int, behavior: int) -> Iterator[None]:
        """mvrange VOLATILE: the pages wholly inside may go. In steps that make AT_ONCE ranges at
        most: of one age, and each a vote of its own.
        """
        memory = self._space.memory
        age = None
        page = 0
        while (span := self._space.span_of(start, length)) and page < span.end:
            rest = PageSpan(max(page, span.first), span.end)
            newest = memory.newest_age
            page = self._agree_step(process, rest, behavior, age)
            if memory.newest_age != newest:
                age = memory.newest_age
            yield

    @change
    def _agree_step(self, process: Process, rest: PageSpan, behavior: int, age: int | None) -> int:
        """How far it came."""
        page = self._space.volatility.mark(
            self._space, rest, behavior, voted=True, age=age, most=AT_ONCE
        )
        agreed = page_set(PageSpan(rest.first, page))
        ballot = self._ballots.setdefault(process, Ballot())
        ballot.agreed |= agreed
        ballot.held -= agreed
        self._forsaken -= agreed
        return page

    def hold(self, process: Process, start: int, length: int, *, kin: Hashable = None) -> int:
        """mvrange NONVOLATILE: these pages stay; the bytes that were purged.

        Where votes alone made a page volatile it becomes zeros for all, and the others who had
        agreed are told when they ask. Where an fvrange mark did, it stays purged: the answer to
        that mark is still owed to fvrange. Nothing there may be draining, and
        :meth:`clean_for_hold` comes before. ``kin``: what a child would be known by, should it be
        born unseen.
        """
        return hold(process, [(self._space, (start, length))], kin=kin)[0]

    @change
    def hold_untold(self, process: Process, pages: BitMap, *, kin: Hashable) -> None:
        """As :meth:`hold`, for ``pages``. What it found stays to be told."""
        ballot = self._ballots.setdefault(process, Ballot())
        ballot.lost |= self.to_tell(process) & pages
        untold = (self._space.volatility.purged & pages) - self._space.volatility.marked_of(pages)
        self.told(untold)
        self._space.forget(untold)
        self._hold(ballot, pages, kin)

    @change
    def hold_intact(self, process: Process, pages: BitMap, *, kin: Hashable = None) -> None:
        """Of :meth:`hold`, for ``pages``, what there is nothing to tell about."""
        ballot = self._ballots.setdefault(process, Ballot())
        self._hold(ballot, pages - self._space.volatility.purged - ballot.lost, kin)

    def clean_for_hold(self, start: int, length: int) -> None:
        """Do what the system may refuse of :meth:`hold`. Raises OSError."""
        self._space.clean(self._of_votes_alone(self._space.touched(start, length)))

    def _hold(self, ballot: Ballot, pages: BitMap, kin: Hashable) -> None:
        ballot.held |= pages
        ballot.agreed -= pages
        if kin is not None:
            self._kin_held.setdefault(kin, BitMap()).update(pages)
        self._end(self._unsupported(pages))

    def to_tell(self, process: Process) -> BitMap:
        """Pages of which a process has to hear that they were purged."""
        purged = self._space.volatility.purged
        ballot = self._ballots.get(process)
        return purged | ballot.lost if ballot is not None else purged

    def _of_votes_alone(self, span: PageSpan) -> BitMap:
        """The purged pages of ``span`` that no fvrange mark covers."""
        purged = within(self._space.volatility.purged, span)
        return purged - self._space.volatility.marked_of(purged)

    def told(self, purged: BitMap) -> None:
        """Somebody takes purged pages back: all others who agreed have yet to be told."""
        for ballot in self._ballots.values():
            ballot.lost |= purged & ballot.agreed

    @change
    def inherit(self, parent: Process, child: Process) -> None:
        """fork(2) copies the votes, what is still to be told included."""
        if parent in self._ballots:
            self._ballots[child] = self._ballots[parent].copy()

    def inherit_holds(self, kin: Hashable, child: Process) -> bool:
        """A child of which only its kin is known may hold what any of them has held.

        Returns whether it does.
        """
        held = self._kin_held.get(kin)
        if not held:
            return False
        self._ballots.setdefault(child, Ballot()).held |= held
        return True

    def forget_kin(self, kin: Hashable) -> None:
        """None of a kin that has voted here is left, seen or unseen: none can be born any more."""
        self._kin_held.pop(kin, None)

    @change
    def drop(self, process: Process) -> None:
        """exit(2) and execve(2) end the votes of a process. What they leave is to be swept."""
        if self._draining:
            self._leaving.append(process)
        else:
            self._drop(process)

    def _drop(self, process: Process) -> None:
        ballot = self._ballots.pop(process, None)
        if ballot is not None:
            self._forsaken |= self._unsupported(ballot.agreed)

    @property
    def _draining(self) -> bool:
        return self._space.draining(PageSpan(0, LAST_PAGE))

    @change
    def settled(self) -> None:
        """A purge has ended."""
        self._sweep(AT_ONCE)

    @change
    def sweep(self, most: int) -> int:
        """End up to ``most`` ranges or so that nobody agrees to any more; how many."""
        return self._sweep(most)

    def _sweep(self, most: int) -> int:
        while self._leaving and not self._draining:
            self._drop(self._leaving[-1])
            self._leaving.pop()
        pages = self.forsaken
        ranges = self._space.volatility.ranges
        ended = 0
        while pages and ended < most:
            first = next_page(pages, 0)
            assert first is not None
            end = ranges.step_end(PageSpan(first, run_end(pages, first)))
            ended += 1 + ranges.number_in(PageSpan(first, end))
            self._end(page_set(PageSpan(first, end)))
            pages.remove_range(first, end)
        self._forsaken = pages
        return ended

    def mend(self, newest: int) -> None:
        """As in :mod:`~vfs_volatile.core.mending`."""
        self._space.mend(newest)

    def mend_ballots(self) -> None:
        """The same for the votes alone: what nobody agrees to is volatile no more."""
        self.truncate(pages_for(self._space.size))
        for ballot in self._ballots.values():
            ballot.agreed &= self._space.volatility.ranges.covered
        self._forsaken |= self._unsupported(self._space.volatility.ranges.voted)
        if not self._draining:
            self._sweep(LAST_PAGE)

    def rewritten(self, span: PageSpan) -> None:
        """These pages were stored whole: what was lost there has been replaced."""
        pages = page_set(span)
        for ballot in self._ballots.values():
            ballot.lost -= pages

    def truncate(self, first: int) -> None:
        """Forget everything about the pages from ``first`` on."""
        for ballot in self._ballots.values():
            for pages in (ballot.agreed, ballot.held, ballot.lost):
                pages.remove_range(first, LAST_PAGE)

    def ended(self, span: PageSpan) -> None:
        """fvrange NONVOLATILE: whoever asked was told what is intact, and so it stays."""
        pages = page_set(span)
        for ballot in self._ballots.values():
            ballot.agreed -= pages

    def _unsupported(self, pages: BitMap) -> BitMap:
        """Those of ``pages`` that votes alone made volatile, and nobody agrees to any more."""
        pages = pages & self._space.volatility.ranges.voted
        for ballot in self._ballots.values():
            pages -= ballot.agreed
        return pages

    def _end(self, pages: BitMap) -> None:
        """End the ranges of pages that votes alone made volatile.

        Nobody is answered by this, so what was written to a purged page since stays.
        """
        spans = list(runs(pages))
        self._space.volatility.forget_purged(*spans)
        self._space.volatility.cut(*spans)
