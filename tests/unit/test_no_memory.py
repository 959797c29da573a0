"""Python runs out of memory in the middle of a change: at each of its allocations in turn.

Then a change may be half done, but never so that a purged page passes for intact, or an intact one
is gone; and what is called next works.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
from pyroaring import BitMap

from tests.support.no_memory import NoMemory
from tests.support.space import File, P, letter
from tests.support.stores import FakeDirectStore, FakeStore
from vfs_volatile.abi.ioctls import VRANGE_PARTIAL, VRANGE_ZERO
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan, count
from vfs_volatile.core.purge_queue import PurgeQueue
from vfs_volatile.core.ranges import VolatileRange
from vfs_volatile.core.telling import hold, tell
from vfs_volatile.errors import SyscallError

PAGES = 24
SIZE = 34
"""Pages: the last but some are a hole."""
MOST = 40
OTHERS = 6
Call = Callable[[File], object]


def unmark_in_steps(file: File) -> list[int]:
    file.end_intact(0, 0)
    return tell([(file, (0, 8 * P)), (file, (8 * P, 0))])


def purge(file: File, start: int = 0, length: int = 0) -> None:
    drain = file.begin(start, length)
    file.end_purge(drain)
    if drain.refused is not None:
        raise drain.refused


def purge_and_write_back(file: File) -> None:
    drain = file.begin(10 * P, 4 * P)
    try:
        if drain.refused is not None:
            raise drain.refused
        file.write_back(8 * P, b"x" * 20 * P)
    finally:
        file.end_purge(drain)


def end_voter(file: File) -> None:
    file.votes.drop("A")
    file.votes.sweep(100)


def in_steps(name: str) -> Call:
    """A change that takes steps."""
    arguments = {
        "marking": (0, 0, 0),
        "punching": (P // 2, 20 * P),
        "truncating": (11 * P + 5,),
    }[name]
    return lambda file: list(getattr(file, name)(*arguments))


CALLS: dict[str, Call] = {
    "mark": lambda file: file.mark(2 * P, 20 * P, 0),
    "mark all": lambda file: file.mark(0, 0, 0),
    "steps of a mark": in_steps("marking"),
    "mark many": lambda file: file.mark_many([n * P for n in range(26, 34)], 8 * [P], 0),
    "unmark a range": lambda file: file.unmark(4 * P, 4 * P),
    "unmark a part": lambda file: file.unmark(11 * P, 2 * P),
    "unmark all": lambda file: file.unmark(0, 0),
    "unmark and record": lambda file: file.unmark(0, 0, record_lost=True),
    "unmark one of many": lambda file: file.unmark_many([4 * P], [4 * P]),
    "unmark many": lambda file: file.unmark_many([0, 11 * P, 15 * P], [3 * P, 2 * P, 2 * P]),
    "unmark many whole": lambda file: file.unmark_many([0, 4 * P], [3 * P, 4 * P]),
    "steps of an unmark": unmark_in_steps,
    "purge": purge,
    "store what is written back during a purge": purge_and_write_back,
    "write": lambda file: file.write(4 * P, b"x" * 22 * P),
    "write in part": lambda file: file.write(5 * P // 2, b"x" * P),
    "write behind the end": lambda file: file.write(32 * P, b"x" * 4 * P),
    "store what is written back": lambda file: file.write_back(0, b"x" * SIZE * P),
    "cut": lambda file: file.truncate(11 * P + 5),
    "steps of a cut": in_steps("truncating"),
    "grow": lambda file: file.truncate(38 * P),
    "punch": lambda file: file.punch_hole(P // 2, 20 * P),
    "steps of a punch": in_steps("punching"),
    "zero": lambda file: file.zero_range(P // 2, 37 * P, keep_size=False),
    "allocate": lambda file: file.allocate(20 * P, 18 * P, keep_size=False),
    "allocate behind the end": lambda file: file.allocate(29 * P, 8 * P, keep_size=True),
    "agree": lambda file: file.votes.agree("B", 18 * P, 10 * P, 0),
    "hold": lambda file: file.votes.hold("A", 19 * P, 4 * P),
    "hold what is marked": lambda file: file.votes.hold("B", 0, 24 * P, kin="kin"),
    "a voter is born": lambda file: file.votes.inherit("A", "B"),
    "a voter ends": end_voter,
}


DIRECT = ("mark", "unmark", "purge", "write", "cut", "grow", "punch", "zero", "allocate")
"""Calls that differ for a file that processes reach without us."""


NO_END_OF_PURGED = ("mark", "unmark", "steps of a mark", "steps of an unmark", "purge", "hold")
"""If these fail, no purged page is intact."""


class Neighbour(File):
    """A file that is not alone: another one has ranges in the same purge queue."""

    __slots__ = ("other",)

    def __init__(self, *, zero_by_default: bool) -> None:
        super().__init__(zero_by_default=zero_by_default)
        self.other = AddressSpace(2, self.memory, FakeStore())
        self.other.write(0, b"o" * OTHERS * P)
        self.other.mark_many([page * P for page in range(OTHERS)], OTHERS * [P], 0)


def marked(kind: str) -> Neighbour:
    """Pages of data, and a hole; in ranges of all kinds, some of them purged."""
    behavior = VRANGE_ZERO if kind == "zero" else 0
    direct = kind in ("direct", "mapped")
    file = Neighbour(zero_by_default=direct)
    if direct:
        file.go_direct(FakeDirectStore())
    file.write(0, b"".join(letter(page) * P for page in range(PAGES)))
    file.write(30 * P, b"z" * 4 * P)
    file.mark(0, 3 * P, behavior)
    file.mark(4 * P, 4 * P, behavior | VRANGE_PARTIAL)
    file.mark(10 * P, 10 * P, behavior)
    file.mark(22 * P, 4 * P, behavior)
    gone = [(1, 2), (5, 6), (12, 16), (22, 23)]
    drain = file.begin_purge(itertools.starmap(PageSpan, gone), file.memory.newest_age)
    file.end_purge(drain)
    file.votes.agree("A", 20 * P, 2 * P, 0)
    file.keeps_pages = kind == "mapped"
    return file


class Seen(NamedTuple):
    """A file as its users see it, page by page."""

    pages: list[bytes | int]
    """What reading gives, or its errno; what lies beyond the end of file is empty."""
    purged: set[int]

    @classmethod
    def of(cls, file: File) -> Seen:
        return cls([touched(file, page) for page in range(MOST)], set(file.volatility.purged))


def touched(file: File, page: int) -> bytes | int:
    try:
        return file.read(page * P, P)
    except SyscallError as error:
        return error.errno


def assert_sound(found: Seen, before: Seen, done: Seen, what: str) -> None:
    """Nothing is forgotten and nothing lost. ``done``: as it is when the call has not failed."""
    unpurged = before.purged - found.purged
    assert not unpurged or not what.startswith(NO_END_OF_PURGED), what
    for page in unpurged:
        assert page not in done.purged, f"{what}: page {page} is forgotten"
        assert found.pages[page] == done.pages[page], f"{what}: page {page} is not what it was"
    for page in set(range(MOST)) - before.purged:
        lost = page in found.purged and page in done.purged
        intact = found.pages[page] in (before.pages[page], done.pages[page])
        assert lost or intact, f"{what}: page {page}"


def assert_consistent(file: Neighbour) -> None:
    """All that follows from something else does."""
    file.check()
    file.other.check()
    memory, volatility = file.memory, file.volatility
    assert memory.in_doubt is None
    assert memory.resident == len(file.resident) + OTHERS
    assert set(file.resident) == set(file.fake.pages), "the store holds other pages"
    assert (memory.volatile, memory.purged) == (
        volatility.pages + OTHERS,
        len(volatility.purged),
    )
    queued = [entry for entry in volatility.ranges if count(file.resident, entry)]
    queued += file.other.volatility.ranges
    assert set(memory.queue) >= set(queued) if file.direct else list(memory.queue) == sorted(queued)
    assert len(memory.queue) == len(list(memory.queue))
    if file.votes.ballots:
        agreed = BitMap().union(*(ballot.agreed for ballot in file.votes.ballots.values()))
        assert volatility.ranges.voted <= agreed


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in CALLS
        for kind in ("denied", "zero", "direct", "mapped")
        if kind in ("denied", "zero") or name.split()[0] in DIRECT
    ],
)
def test_no_purged_page_passes_for_intact(no_memory: NoMemory, name: str, kind: str) -> None:
    before = Seen.of(marked(kind))
    file = marked(kind)
    CALLS[name](file)
    done = Seen.of(file)
    failed = 0
    for number, file in no_memory.failures(lambda: marked(kind), CALLS[name]):
        failed += 1
        what = f"{name}, allocation {number}"
        assert_sound(Seen.of(file), before, done, what)
        no_memory.refusing(number, file.memory.mend)  # which then is still to be done
        file.memory.mend()
        found = Seen.of(file)
        assert_sound(found, before, done, f"{what}, mended")
        assert_consistent(file)
        assert file.unmark(0, 0) == len(found.purged) * P, what
        file.mark(0, 0, 0)
        file.purge()
        assert_consistent(file)
        file.close()
        assert_consistent(file)
        assert (file.memory.resident, len(file.memory.queue)) == (OTHERS, OTHERS)
    assert failed > 1, "it needs memory"


def two_files() -> list[AddressSpace]:
    """Of one mount, with three purged pages each; another process has agreed to them, too."""
    memory = Memory(100, 100)
    files = [AddressSpace(ino, memory, FakeStore()) for ino in (1, 2)]
    for file in files:
        file.write(0, b"x" * 8 * P)
        for process in "AB":
            file.votes.agree(process, 0, 6 * P, 0)
        file.end_purge(file.begin_purge([PageSpan(2, 5)], memory.newest_age))
    return files


def unmark_both(files: list[AddressSpace]) -> list[int]:
    return tell([(file, (0, 8 * P)) for file in files])


def hold_both(files: list[AddressSpace]) -> list[int]:
    return hold("C", [(file, (0, 8 * P)) for file in files])


@pytest.mark.parametrize("call", [unmark_both, hold_both])
def test_a_report_of_several_files_is_made_whole_or_made_again(
    no_memory: NoMemory, call: Callable[[list[AddressSpace]], list[int]]
) -> None:
    assert call(two_files()) == [3 * P, 3 * P]
    for number, files in no_memory.failures(two_files, call):
        files[0].memory.mend()
        for file in files:
            file.check()
        assert call(files) == [3 * P, 3 * P], f"allocation {number}"
        assert call(files) == [0, 0]
        if call is hold_both:
            assert hold("B", [(file, (0, 0)) for file in files]) == [3 * P, 3 * P]


QueueCall = Callable[[list[VolatileRange], PurgeQueue], None]

QUEUE_CALLS: dict[str, QueueCall] = {
    "add": lambda entries, queue: queue.add(entries[0]),
    "add many": lambda entries, queue: queue.add_all(entries),
    "take out": lambda entries, queue: queue.discard(entries[0]),
    "take out many": lambda entries, queue: queue.discard_all(entries),
}


def made_queue(*parts: list[VolatileRange]) -> PurgeQueue:
    queue = PurgeQueue()
    for entry in itertools.chain(*parts):
        queue.add(entry)
    return queue


@pytest.mark.parametrize("name", QUEUE_CALLS)
def test_the_queue_loses_no_range_of_others(no_memory: NoMemory, name: str) -> None:
    file = File(1)
    ranges = [VolatileRange.make(file, PageSpan(n, n + 1), 0, n) for n in range(24)]
    for size in range(4, 24):
        middle = ranges[size // 2 : size // 2 + 2]
        others = sorted(set(ranges[:size]) - set(middle))
        make = partial(made_queue, others, middle if name.startswith("take") else [])
        for number, queue in no_memory.failures(make, partial(QUEUE_CALLS[name], middle)):
            left = list(queue)
            assert set(others) <= set(left), f"{name}, {size} ranges, allocation {number}"
            assert left == sorted(set(left))
            assert len(queue) == len(left)
