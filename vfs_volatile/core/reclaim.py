"""Choosing what to purge: priority, then age of the mark, oldest first (rule 8)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from pyroaring import BitMap

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.anonymous import AnonymousSpace, Together, in_parts
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan, any_in, page_set, runs, without
from vfs_volatile.core.ranges import AT_ONCE, Order, VolatileRange

_NONE = BitMap()
_SLICE = 1000
"""Ranges looked at in one go: a millisecond or two."""
_STRETCH = 32
"""Ranges taken from the queue at a time: looking at one may change the queue."""

Barred = Mapping[int, BitMap]
"""Inode -> pages that may not be purged: somebody who maps them forbids it."""


class Victim(NamedTuple):
    """Pages of one range, chosen together."""

    entry: VolatileRange
    spans: list[PageSpan]
    resident: int
    """Pages of memory that purging it frees."""


class Round:
    """One pass over the purge queue, from its head on; in slices, so that none takes long.

    What was passed over because it is barred is not looked at again in this round, however many
    ranges that are.
    """

    def __init__(self, memory: Memory, *, newest: int | None = None) -> None:
        """``newest``: take no mark that is younger, so that it ends though others go on marking."""
        self._memory = memory
        self._newest = newest
        self._reached: Order | None = None
        self.freed = 0
        """Pages of memory that it has freed."""
        self.barred: dict[int, BitMap] = {}
        """What the looks of this round found, and what processes did not drop."""
        self._chosen: list[Victim] = []
        """What was chosen and is not purged yet: it goes in steps."""
        self.met_anonymous = False
        """Did it meet memory of processes? Much of that may be kept without being barred here."""
        self._at_end = False
        """Has it come to the end of the queue?"""

    @property
    def under_way(self) -> bool:
        """Has it begun with something that is to go on, also if nothing more is needed?"""
        return bool(self._chosen)

    @property
    def finished(self) -> bool:
        """Is there nothing left to choose?"""
        return self._at_end and not self._chosen

    def choose(self, need: int) -> list[Victim]:
        """Victims of the next slice that free up to ``need`` pages; perhaps none, see finished.

        What takes long to purge is given in steps, call by call.
        Raises MemoryError also if what is in doubt cannot be mended: nothing is chosen then.
        """
        self._memory.mend()
        if not self._chosen:
            self._chosen = choose(self._walk(), need, self.barred)
        step, self._chosen = first_step(self._chosen)
        return step

    def done(self, victims: Iterable[Victim]) -> None:
        """``victims`` of processes have been asked for: what they still hold they keep."""
        for victim in victims:
            space = victim.entry.space
            if isinstance(space, AnonymousSpace):
                kept = self.barred.setdefault(space.ino, BitMap())
                for span in victim.spans:
                    kept |= space.resident & page_set(span)

    def _walk(self) -> Iterator[VolatileRange]:
        seen = 0
        stretch = self._stretch(after=False)
        while stretch:
            for entry in stretch:
                seen += 1
                self._reached = entry.order
                if self._newest is not None and entry.age > self._newest:
                    continue
                self.met_anonymous |= isinstance(entry.space, AnonymousSpace)
                yield entry
            if seen >= _SLICE:
                return
            stretch = self._stretch(after=True)
        self._at_end = True

    def _stretch(self, *, after: bool) -> list[VolatileRange]:
        return list(islice(self._memory.queue.from_order(self._reached, after=after), _STRETCH))


def choose(entries: Iterable[VolatileRange], need: int, barred: Barred) -> list[Victim]:
    """The victims among ``entries`` that free ``need`` pages, in their order; fewer if no more.

    A FULL range goes whole or not at all; of a PARTIAL one only what is needed, lowest first. A
    range of a file that processes reach without us is looked at first, and may leave the queue.
    """
    victims: list[Victim] = []
    left = iter(entries)
    while need > 0 and (entry := next(left, None)) is not None:
        if isinstance(entry.space, AnonymousSpace):
            found = _anonymous_victims(entry, entry.space, need, barred)
        else:
            found = _victims(entry, entry.space, need, barred.get(entry.space.ino, _NONE))
        victims += found
        need -= sum(victim.resident for victim in found)
    return victims


def _victims(entry: VolatileRange, space: AddressSpace, need: int, barred: BitMap) -> list[Victim]:
    held = space.held_in(entry.span)
    if not held:
        space.look(entry.span)
        return []
    if not entry.partial:
        return [] if any_in(barred, entry.span) else [Victim(entry, [entry.span], held)]
    chosen = BitMap()
    for span in space.steps(entry.span):
        space.look(span)
        chosen |= (space.resident & page_set(span)) - barred
        if len(chosen) >= need:
            break
    chosen = BitMap(islice(chosen, need))
    return [Victim(entry, list(runs(chosen)), len(chosen))] if chosen else []


def _anonymous_victims(
    entry: VolatileRange, space: AnonymousSpace, need: int, barred: Barred
) -> list[Victim]:
    """Pages of ``entry``, and what goes with them in other processes."""
    pages = space.resident & page_set(entry.span)
    if entry.partial:
        pages = space.allowed(pages) - barred.get(space.ino, _NONE)
    victims: list[Victim] = []
    while need > 0 and pages:
        wanted = BitMap(islice(pages, need)) if entry.partial else pages
        pages = pages - wanted
        for together in in_parts(space, entry, wanted, barred):
            found = _victims_of(together)
            victims += found
            need -= sum(victim.resident for victim in found)
    return victims


def _victims_of(together: Together) -> list[Victim]:
    """A page that several share frees memory once."""
    seen = BitMap()
    victims = []
    for entry, pages in together.items():
        victims.append(Victim(entry, list(runs(pages)), len(pages - seen)))
        seen |= pages
    return victims


def first_step(victims: list[Victim]) -> tuple[list[Victim], list[Victim]]:
    """The first of ``victims``, with memory in AT_ONCE places or so; and the others.

    A victim may be cut in two: so a FULL range with memory in more places goes in steps, between
    which others are served. What somebody takes back meanwhile has not gone.
    """
    left = AT_ONCE
    step: list[Victim] = []
    for number, victim in enumerate(victims):
        now, later, left = _cut(victim, left)
        step.append(now)
        if later is not None:
            return step, [later, *victims[number + 1 :]]
        if left <= 0:
            return step, victims[number + 1 :]
    return step, []


def _cut(victim: Victim, most: int) -> tuple[Victim, Victim | None, int]:
    """So much of ``victim`` as has memory in ``most`` places, the rest, and how many are left."""
    space = victim.entry.space
    if isinstance(space, AnonymousSpace):
        return victim, None, most
    for number, span in enumerate(victim.spans):
        end, met = space.step_end(span, most)
        most -= met
        if most <= 0:
            now = [*victim.spans[:number], PageSpan(span.first, end)]
            rest = [PageSpan(end, span.end)] if end < span.end else []
            rest += victim.spans[number + 1 :]
            later = victim._replace(spans=rest) if rest else None
            return victim._replace(spans=now), later, 0
    return victim, None, most


def still_allowed(victim: Victim, barred: BitMap) -> list[PageSpan]:
    """What of ``victim`` may go now that the mappings have been looked at.

    The range may have been cut or unmarked meanwhile: a purge up to the age of its mark takes
    only what is left. ``barred``: what those who map the file forbid.
    """
    if not victim.entry.partial:
        return [] if any_in(barred, victim.entry.span) else victim.spans
    return [run for span in victim.spans for run in without(span, barred)]
