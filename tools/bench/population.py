"""A population of ranges in a process of its own, to measure the core with.

In a process of its own, so that the growth of its memory is that of the ranges alone, and so that
the garbage collector meets these objects and no others. The collector runs as it does in the
daemon, with Python's defaults: its share is in the cost of a call. Its full rounds are rare and
fall outside a median, so they are measured by themselves.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import LAST_PAGE, Data, Extent, PageSpan, page_set
from vfs_volatile.core.reclaim import Round
from vfs_volatile.units import PAGE_SIZE

Costs = dict[str, float]
"""Operation -> microseconds per call."""


class Scenario(NamedTuple):
    """How many ranges of one page, on every other page of how many files."""

    name: str
    ranges: int
    files: int = 1
    purged: bool = False
    """Is every other range purged?"""
    one_range: bool = False
    """Is there one range only, with so many purged runs in it?"""


class Built(NamedTuple):
    """What a population took."""

    seconds: float
    bytes_per_file: float
    """With resident pages, without ranges."""
    bytes_per_range: float


class NoStore:
    """A :class:`~vfs_volatile.core.pages.PageStore` without data: only the index is measured."""

    def read(self, offset: int, length: int) -> bytes:
        return bytes(length)

    def extent(self, offset: int, length: int) -> Extent | None:
        return None

    def write(self, offset: int, data: Data) -> int:
        return len(data)

    def zero(self, offset: int, length: int) -> None: ...

    def allocate(self, span: PageSpan) -> None: ...

    def drop(self, span: PageSpan) -> None: ...

    def truncate(self, size: int) -> None: ...

    def close(self) -> None: ...


class Population:
    """Files whose pages are all resident, the even ones volatile."""

    def __init__(self, scenario: Scenario) -> None:
        self._random = random.Random(1)
        self._scenario = scenario
        self._memory = Memory(LAST_PAGE, LAST_PAGE)
        self._spaces: list[AddressSpace] = []
        before = resident_bytes()
        started = time.perf_counter()
        self._make_files()
        files_made = resident_bytes()
        self._mark_all()
        self.built = Built(
            time.perf_counter() - started,
            (files_made - before) / scenario.files,
            (resident_bytes() - files_made) / scenario.ranges,
        )
        self._purge_some()

    def batch(self, calls: int) -> Costs:
        """The cost of each operation, at random places; leaves everything as it was."""
        chosen = self._random.sample(range(self._scenario.ranges), calls)
        taken = [self._place(number) for number in chosen]
        costs = {
            "NEXT": _cost(partial(space.next_run, page * PAGE_SIZE) for space, page in taken),
            "choose a victim": _cost(partial(Round(self._memory).choose, 1) for _ in taken),
        }
        if self._scenario.one_range:
            return costs
        free = [(space, page + 1) for space, page in taken]
        costs["mark"] = _cost(map(_mark, free))
        costs["unmark"] = _cost(map(_unmark, free))
        _cost(map(_mark, free))
        costs["purge one page"] = _cost(partial(self._purge, *place) for place in free)
        costs["unmark, purged"] = _cost(map(_unmark, free))
        for space, page in free:
            space.allocate(page * PAGE_SIZE, PAGE_SIZE, keep_size=True)
        return costs

    def blocked_round(self) -> float:
        """Microseconds to find that there is no victim, all files being mapped private."""
        return _cost([self._look_in_vain])

    def blocked_slice(self) -> float:
        """Microseconds of the first step of that: nothing else is served meanwhile."""
        return _cost([partial(self._blocked().choose, 1)])

    def full_collection(self) -> float:
        """Microseconds of a full round of the garbage collector."""
        return _cost([gc.collect])

    def _look_in_vain(self) -> None:
        this = self._blocked()
        while not this.finished:
            this.choose(1)

    def _blocked(self) -> Round:
        """A round that has learnt that all files are mapped private."""
        this = Round(self._memory)
        everything = page_set(PageSpan(0, LAST_PAGE))
        this.barred.update((space.ino, everything) for space in self._spaces)
        return this

    def _make_files(self) -> None:
        store = NoStore()
        scenario = self._scenario
        length = 2 * PAGE_SIZE * (scenario.ranges // scenario.files)
        for number in range(scenario.files):
            space = AddressSpace(number, self._memory, store)
            space.allocate(0, length, keep_size=False)
            self._spaces.append(space)

    def _mark_all(self) -> None:
        if self._scenario.one_range:
            self._spaces[0].mark(0, 0, 0)
            return
        for number in self._shuffled():
            _mark(self._place(number))()

    def _purge_some(self) -> None:
        if self._scenario.one_range:
            space = self._spaces[0]
            pages = (PageSpan(2 * turn, 2 * turn + 1) for turn in range(self._scenario.ranges))
            space.end_purge(space.begin_purge(pages, self._memory.newest_age))
        elif self._scenario.purged:
            for number in self._shuffled()[::2]:
                self._purge(*self._place(number))

    def _shuffled(self) -> list[int]:
        """All ranges; the order of marking is not that of the offsets."""
        numbers = list(range(self._scenario.ranges))
        self._random.shuffle(numbers)
        return numbers

    def _place(self, number: int) -> tuple[AddressSpace, int]:
        """File and page of a range."""
        turn, file = divmod(number, self._scenario.files)
        return self._spaces[file], 2 * turn

    def _purge(self, space: AddressSpace, page: int) -> None:
        newest = self._memory.newest_age
        space.end_purge(space.begin_purge([PageSpan(page, page + 1)], newest))


def serve(connection: Connection, scenario: Scenario) -> None:
    """Build, say what it took, then answer orders: (name of a method, arguments...)."""
    population = Population(scenario)
    connection.send(population.built)
    while order := connection.recv():
        connection.send(getattr(population, order[0])(*order[1:]))


def resident_bytes(pid: int | str = "self") -> int:
    """Bytes of memory of a process (statm in proc(5))."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_SIZE


def _mark(place: tuple[AddressSpace, int]) -> Callable[[], int]:
    space, page = place
    return partial(space.mark, page * PAGE_SIZE, PAGE_SIZE, 0)


def _unmark(place: tuple[AddressSpace, int]) -> Callable[[], int]:
    space, page = place
    return partial(space.unmark, page * PAGE_SIZE, PAGE_SIZE)


def _cost(calls: Iterable[Callable[[], object]]) -> float:
    """Microseconds of CPU time per call: what else runs on the machine is not counted."""
    ready = list(calls)
    started = time.thread_time_ns()
    for call in ready:
        call()
    return (time.thread_time_ns() - started) / 1000 / len(ready)
