"""Who may forbid a purge: a pure function of what is mapped, marked and voted."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pyroaring import BitMap

from vfs_volatile.core.pages import PageSpan, page_set
from vfs_volatile.core.semantics import Semantics

Process = Hashable
"""Whatever tells one process (one mm) from another."""


class Mapper(NamedTuple):
    """A mapping of a file by a process. ``process`` is None for one that could not be read."""

    process: Process | None
    pages: PageSpan
    private: bool


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


def forbidden(
    rules: Semantics,
    pages: BitMap,
    marked: BitMap,
    mappers: Iterable[Mapper],
    ballots: Mapping[Process, Ballot],
    *,
    unlinked: bool,
) -> BitMap:
    """Those of ``pages`` that may not be purged, for who maps them.

    ``marked``: pages that an fvrange mark covers. ``unlinked``: no name leads to the file, so that
    one mapped private by all its users is the thread's anonymous memory.
    """
    extent = PageSpan(0, pages.max() + 1 if pages else 0)
    mappers = [mapper._replace(pages=mapper.pages.clip(extent)) for mapper in mappers]
    found = BitMap()
    if rules.private == "block":
        found |= _mapped(pages, mappers, private=True)
        if rules.votes and unlinked:
            found -= _as_anonymous(pages, mappers, ballots)
    if rules.votes:
        for ballot in ballots.values():
            found |= pages & ballot.held
        for mapper in mappers:
            agreed = ballots.get(mapper.process, Ballot()).agreed
            found |= (pages & page_set(mapper.pages)) - marked - agreed
    return found


def _mapped(pages: BitMap, mappers: Iterable[Mapper], *, private: bool) -> BitMap:
    """Those of ``pages`` that have a mapper of that kind."""
    found = BitMap()
    for mapper in mappers:
        if mapper.private == private:
            found |= pages & page_set(mapper.pages)
    return found


def _as_anonymous(
    pages: BitMap, mappers: list[Mapper], ballots: Mapping[Process, Ballot]
) -> BitMap:
    """Those of ``pages`` that all who map them map private, and have marked: they may go."""
    found = _mapped(pages, mappers, private=True) - _mapped(pages, mappers, private=False)
    for mapper in mappers:
        found -= page_set(mapper.pages) - ballots.get(mapper.process, Ballot()).agreed
    return found
