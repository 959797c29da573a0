"""What the files of a mount share, in the model: records of pages, sums over them, the order of
purging. All is computed anew, each time it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from vfs_volatile.abi.ioctls import VRANGE_PARTIAL
from vfs_volatile.units import PAGE_SIZE

if TYPE_CHECKING:
    from tests.support.model import ModelFile


class ModelError(Exception):
    """A call fails with ``errno`` and has changed nothing (but see ``ModelFile.write_back``)."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.errno = number


@dataclass(frozen=True)
class Mark:
    """One call that said VOLATILE."""

    age: int
    behavior: int

    @property
    def priority(self) -> int:
        return self.behavior >> 8


@dataclass
class Page:
    """One page of a file."""

    data: bytes = bytes(PAGE_SIZE)
    resident: bool = False
    mark: Mark | None = None
    """Volatile, since this mark."""
    purged: bool = False
    lost: bool = False
    drains: set[int] = field(default_factory=set)
    """Purges under way on it: what is written back is older than they are."""

    def become_nonvolatile(self) -> None:
        self.mark = None
        self.purged = False
        self.drains.clear()


class ModelMemory:
    """What the files of a mount share."""

    def __init__(self, size_pages: int, budget_pages: int, *, zero_by_default: bool) -> None:
        self.size_pages = size_pages
        self.budget_pages = min(budget_pages, size_pages)
        self.zero_by_default = zero_by_default
        self.files: list[ModelFile] = []
        self.ages = count(1)
        self.youngest = 0
        self.purged_ever = 0
        self.highest_resident = 0
        self.drain_numbers = count()

    def sum_of(self, wanted: Callable[[Page], object]) -> int:
        return sum(1 for file in self.files for page in file.pages.values() if wanted(page))

    @property
    def resident(self) -> int:
        return self.sum_of(lambda page: page.resident)

    @property
    def volatile(self) -> int:
        return self.sum_of(lambda page: page.mark)

    @property
    def purged(self) -> int:
        return self.sum_of(lambda page: page.purged)

    @property
    def room(self) -> int:
        return max(0, self.size_pages - self.resident)

    @property
    def excess(self) -> int:
        return max(0, self.resident - self.budget_pages)

    def note_highest(self) -> None:
        self.highest_resident = max(self.highest_resident, self.resident)

    def new_mark(self, behavior: int) -> Mark:
        self.youngest = next(self.ages)
        return Mark(self.youngest, behavior)

    def set_budget(self, budget_pages: int) -> None:
        self.budget_pages = min(budget_pages, self.size_pages)

    def queue(self) -> list[tuple[ModelFile, list[int]]]:
        """The ranges that hold something, in the order in which they go (rule 8)."""
        found = []
        for file in self.files:
            for run in file.ranges():
                mark = file.mark_of(run[0])
                if any(file.pages[number].resident for number in run):
                    found.append(((mark.priority, mark.age, run[0]), file, run))
        found.sort(key=lambda entry: entry[0])
        return [(file, run) for _, file, run in found]

    def choose(
        self, need: int, barred: dict[int, set[int]]
    ) -> list[tuple[int, list[int], list[int]]]:
        """What goes to free ``need`` pages: (file, the range, those of its pages that go)."""
        victims = []
        for file, run in self.queue():
            forbidden = barred.get(file.ino, set())
            if need <= 0:
                break
            if file.mark_of(run[0]).behavior & VRANGE_PARTIAL:
                able = [n for n in run if file.pages[n].resident and n not in forbidden]
                going = able[:need]
            elif forbidden.intersection(run):
                continue
            else:
                going = run
            if going:
                victims.append((file.ino, run, going))
                need -= sum(1 for number in going if file.pages[number].resident)
        return victims
