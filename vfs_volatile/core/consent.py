"""Who may forbid a purge: a pure function of what is mapped, marked and voted."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from pyroaring import BitMap

from vfs_volatile.core.pages import PageSpan, any_in
from vfs_volatile.core.semantics import Semantics

Process = Hashable
"""Whatever tells one process (one mm) from another."""


class Place(NamedTuple):
    """Where pages are mapped: start and end address."""

    pages: PageSpan
    addresses: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Mapper:
    """What a process has mapped of a file, private or shared, by however many mappings.
    ``process`` is None for one that could not be read.
    """

    process: Process | None
    pages: BitMap | None
    """None: whichever there are."""
    private: bool
    # -- for whoever asks who it is; no rule depends on it --
    pid: int | None = field(default=None, compare=False)
    places: Sequence[Place] = field(default=(), compare=False)
    """The first few of its mappings."""

    def among(self, pages: BitMap) -> BitMap:
        """A new set of those of ``pages`` that it has mapped."""
        return pages.copy() if self.pages is None else pages & self.pages

    def place_of(self, pages: BitMap) -> Place | None:
        """A mapping of one of ``pages``, if it is among the first few."""
        return next((place for place in self.places if any_in(pages, place.pages)), None)


@dataclass
class Ballot:
    """What one process has said of one file by mvrange."""

    agreed: BitMap = field(default_factory=BitMap)
    """Pages it marked volatile."""
    held: BitMap = field(default_factory=BitMap)
    """Pages it marked nonvolatile: while it lives they are not purged."""
    lost: BitMap = field(default_factory=BitMap)
    """Pages it agreed to that were purged, and another process has been told of it since."""

    def copy(self) -> Ballot:
        """For a child: fork copies the parent's votes, and what it has not been told yet."""
        return Ballot(self.agreed.copy(), self.held.copy(), self.lost.copy())


class Rule(StrEnum):
    """Why a page may not be purged."""

    PRIVATE = "private-mapping"
    """A process has it mapped private (``--private=block``)."""
    UNREADABLE = "unreadable"
    """A process may have, but its mappings cannot be read."""
    HELD = "held"
    """A process took it back by mvrange (``--mvrange=process``)."""
    SILENT = "not-agreed"
    """A process has it mapped and did not mark it (``--mvrange=process``), nor did fvrange."""


class Objection(NamedTuple):
    """One process forbids the purge of pages, by one rule."""

    rule: Rule
    pages: BitMap
    process: Process | None
    mapper: Mapper | None
    """What it has mapped, if that is what it is about."""


def objections(
    rules: Semantics,
    pages: BitMap,
    marked: BitMap,
    mappers: Iterable[Mapper],
    ballots: Mapping[Process, Ballot],
    *,
    unlinked: bool,
) -> Iterator[Objection]:
    """All reasons why some of ``pages`` may not be purged, each with the pages it is about.

    ``marked``: pages that an fvrange mark covers. ``unlinked``: no name leads to the file, so that
    one mapped private by all its users is the thread's anonymous memory.
    """
    mappers = list(mappers)
    if rules.private == "block":
        exempt = BitMap()
        if rules.votes and unlinked:
            exempt = _as_anonymous(pages, mappers, ballots)
        for mapper in mappers:
            if mapper.private:
                rule = Rule.UNREADABLE if mapper.process is None else Rule.PRIVATE
                barred = mapper.among(pages) - exempt
                yield Objection(rule, barred, mapper.process, mapper)
    if rules.votes:
        for process, ballot in ballots.items():
            yield Objection(Rule.HELD, pages & ballot.held, process, None)
        for mapper in mappers:
            agreed = ballots.get(mapper.process, Ballot()).agreed
            barred = mapper.among(pages) - marked - agreed
            yield Objection(Rule.SILENT, barred, mapper.process, mapper)


def forbidden(found: Iterable[Objection]) -> BitMap:
    """The pages that may not be purged."""
    pages = BitMap()
    for objection in found:
        pages |= objection.pages
    return pages


def _mapped(pages: BitMap, mappers: Iterable[Mapper], *, private: bool) -> BitMap:
    """Those of ``pages`` that have a mapper of that kind."""
    found = BitMap()
    for mapper in mappers:
        if mapper.private == private:
            found |= mapper.among(pages)
    return found


def _as_anonymous(
    pages: BitMap, mappers: list[Mapper], ballots: Mapping[Process, Ballot]
) -> BitMap:
    """Those of ``pages`` that all who map them map private, and have marked: they may go."""
    found = _mapped(pages, mappers, private=True) - _mapped(pages, mappers, private=False)
    for mapper in mappers:
        found -= mapper.among(found) - ballots.get(mapper.process, Ballot()).agreed
    return found
