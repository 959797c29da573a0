"""Anonymous memory as a slow, obvious model: one record for each page of each process, with COW.

A record names the *copy* of the page that the process maps. fork gives the child the same copies,
a store to a copy that somebody else maps too makes a new one. Everything is computed anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

from vfs_volatile.abi.ioctls import VRANGE_PARTIAL, VRANGE_ZERO


@dataclass(frozen=True)
class Mark:
    """One call that said VOLATILE, as one process has it."""

    age: int
    behavior: int

    @property
    def turn(self) -> tuple[int, int]:
        return (self.behavior >> 8, self.age)


@dataclass
class Page:
    """One page of one process."""

    copy: int | None = None
    """None: it holds nothing."""
    mark: Mark | None = None
    purged: bool = False


@dataclass
class ModelProcess:
    """One process and what it has of the allocation."""

    pages: list[Page]
    answers: bool = True


@dataclass
class ModelLineage:
    """One allocation in all its processes."""

    size: int
    processes: dict[int, ModelProcess] = field(default_factory=dict)
    _copies: count[int] = field(default_factory=count)
    _names: count[int] = field(default_factory=count)

    def start(self) -> int:
        name = next(self._names)
        self.processes[name] = ModelProcess([Page() for _ in range(self.size)])
        return name

    def fork(self, parent: int) -> int:
        name = next(self._names)
        self.processes[name] = ModelProcess(
            [Page(page.copy, page.mark, page.purged) for page in self.processes[parent].pages]
        )
        return name

    def store(self, name: int, number: int) -> None:
        page = self.processes[name].pages[number]
        if page.purged and page.mark and not page.mark.behavior & VRANGE_ZERO:
            return  # SIGBUS
        if page.copy is None or len(self.sharers(page.copy)) > 1:
            page.copy = next(self._copies)

    def mark(self, name: int, first: int, end: int, mark: Mark) -> None:
        for page in self.processes[name].pages[first:end]:
            page.mark = page.mark or mark

    def unmark(self, name: int, first: int, end: int) -> int:
        """How many pages were purged: those hold zeros now."""
        found = 0
        for page in self.processes[name].pages[first:end]:
            found += page.purged
            if page.purged:  # what was stored since, where touching read zeros, goes too
                page.copy = None
            page.mark = None
            page.purged = False
        return found

    def drop(self, name: int, number: int) -> None:
        page = self.processes[name].pages[number]
        page.copy = None
        page.purged = True

    def sharers(self, copy: int) -> list[int]:
        """The processes that map a copy."""
        return [
            name
            for name, process in self.processes.items()
            if any(page.copy == copy for page in process.pages)
        ]

    def held(self, name: int) -> set[int]:
        pages = self.processes[name].pages
        return {number for number, page in enumerate(pages) if page.copy is not None}

    def alone(self, name: int) -> set[int]:
        """Pages that bit 56 of /proc/PID/pagemap says this process alone maps."""
        pages = self.processes[name].pages
        return {n for n in self.held(name) if len(self.sharers(pages[n].copy or 0)) == 1}

    def copies(self) -> int:
        """How many pages of memory it is in all."""
        return len(
            {page.copy for process in self.processes.values() for page in process.pages} - {None}
        )

    def consent(self, name: int, number: int) -> bool:
        """Have all who share the page marked it, and can all be asked?"""
        copy = self.processes[name].pages[number].copy
        return copy is not None and all(
            self.processes[other].answers and self.processes[other].pages[number].mark
            for other in self.sharers(copy)
        )

    def may_go(self) -> set[tuple[int, int]]:
        """The pages that the budget may take: a FULL range goes whole or not at all.

        Ranges are what one mark covers in one process without a gap.
        """
        going = {
            (name, number)
            for name in self.processes
            for number in self.held(name)
            if self.consent(name, number)
        }
        while True:
            stay = {spot for spot in going if not self._support(*spot) <= going}
            if not stay:
                return going
            going -= stay

    def full_range(self, name: int, number: int) -> set[tuple[int, int]]:
        """The pages that go with one of a FULL range, in its own process."""
        pages = self.processes[name].pages
        mark = pages[number].mark
        if mark is None or mark.behavior & VRANGE_PARTIAL:
            return set()
        run = {number}
        for step in (-1, 1):
            at = number + step
            while 0 <= at < self.size and pages[at].mark == mark:
                run.add(at)
                at += step
        return {(name, at) for at in run & self.held(name)}

    def _support(self, name: int, number: int) -> set[tuple[int, int]]:
        """What must go if this page does."""
        copy = self.processes[name].pages[number].copy
        assert copy is not None
        return self.full_range(name, number) | {(other, number) for other in self.sharers(copy)}

    def turn(self, name: int, number: int) -> tuple[int, int]:
        """The place of a page in the order of purging: the last of the marks on it."""
        copy = self.processes[name].pages[number].copy
        assert copy is not None
        marks = [self.processes[other].pages[number].mark for other in self.sharers(copy)]
        return max(mark.turn for mark in marks if mark)
