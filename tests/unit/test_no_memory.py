"""Python runs out of memory in the middle of a change: at each of its allocations in turn.

Then a change may be half done, but never so that a purged page passes for intact, or an intact one
is gone; and what is called next works.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.support.no_memory import NoMemory, compile_in
from tests.support.space import File, P
from vfs_volatile.abi.ioctls import VRANGE_PARTIAL, VRANGE_ZERO
from vfs_volatile.errors import SyscallError

PAGES = 24
SIZE = 30
"""Pages: the last are a hole."""
MOST = 40
Call = Callable[[File], object]


def unmark_in_steps(file: File) -> list[int]:
    file.end_intact(0, 0)
    return file.tell([(0, 8 * P), (8 * P, 0)])


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
    "mark in steps": in_steps("marking"),
    "mark many": lambda file: file.mark_many([26 * P, 28 * P], [P, P], 0),
    "unmark a range": lambda file: file.unmark(4 * P, 4 * P),
    "unmark a part": lambda file: file.unmark(11 * P, 2 * P),
    "unmark all": lambda file: file.unmark(0, 0),
    "unmark and record": lambda file: file.unmark(0, 0, record_lost=True),
    "unmark one of many": lambda file: file.unmark_many([4 * P], [4 * P]),
    "unmark many": lambda file: file.unmark_many([0, 11 * P, 15 * P], [3 * P, 2 * P, 2 * P]),
    "unmark many whole": lambda file: file.unmark_many([0, 4 * P], [3 * P, 4 * P]),
    "unmark in steps": unmark_in_steps,
    "purge": purge,
    "purge, and write back meanwhile": purge_and_write_back,
    "write": lambda file: file.write(4 * P, b"x" * 22 * P),
    "write in part": lambda file: file.write(5 * P // 2, b"x" * P),
    "write behind the end": lambda file: file.write(28 * P, b"x" * 4 * P),
    "write back": lambda file: file.write_back(0, b"x" * SIZE * P),
    "cut": lambda file: file.truncate(11 * P + 5),
    "cut in steps": in_steps("truncating"),
    "grow": lambda file: file.truncate(35 * P),
    "punch": lambda file: file.punch_hole(P // 2, 20 * P),
    "punch in steps": in_steps("punching"),
    "zero": lambda file: file.zero_range(P // 2, 34 * P, keep_size=False),
    "allocate": lambda file: file.allocate(20 * P, 14 * P, keep_size=False),
    "allocate behind the end": lambda file: file.allocate(29 * P, 4 * P, keep_size=True),
    "agree": lambda file: file.votes.agree("B", 18 * P, 10 * P, 0),
    "hold": lambda file: file.votes.hold("A", 19 * P, 4 * P),
    "hold what is marked": lambda file: file.votes.hold("B", 0, 24 * P, kin="kin"),
    "a voter is born": lambda file: file.votes.inherit("A", "B"),
    "a voter ends": end_voter,
}


@pytest.fixture(scope="session")
def no_memory(tmp_path_factory: pytest.TempPathFactory) -> NoMemory:
    return NoMemory(compile_in(tmp_path_factory.mktemp("no_memory")))


def marked(behavior: int) -> File:
    """Pages of data, and a hole; in ranges of all kinds, some of them purged."""
    file = File(PAGES)
    file.truncate(SIZE * P)
    file.mark(0, 3 * P, behavior)
    file.mark(4 * P, 4 * P, behavior | VRANGE_PARTIAL)
    file.mark(10 * P, 10 * P, behavior)
    file.mark(22 * P, 4 * P, behavior)
    for page in (1, 5, 12, 13, 14, 15, 22):
        file.purge(page * P, P)
    file.votes.agree("A", 20 * P, 2 * P, 0)
    return file


class Seen(NamedTuple):
    """A file as its users see it, page by page."""

    pages: list[bytes | int]
    """What reading gives, or its errno; what lies beyond the end of file is empty."""
    purged: set[int]

    @classmethod
    def of(cls, file: File) -> Seen:
        purged = {page for page in range(MOST) if file.purged_bytes(page * P, P)}
        return cls([touched(file, page) for page in range(MOST)], purged)


def touched(file: File, page: int) -> bytes | int:
    try:
        return file.read(page * P, P)
    except SyscallError as error:
        return error.errno


@pytest.mark.parametrize("behavior", [0, VRANGE_ZERO])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_purged_page_passes_for_intact(no_memory: NoMemory, name: str, behavior: int) -> None:
    before = Seen.of(marked(behavior))
    file = marked(behavior)
    CALLS[name](file)
    done = Seen.of(file)
    failed = 0
    for number, file in no_memory.failures(lambda: marked(behavior), CALLS[name]):
        failed += 1
        what = f"{name}, allocation {number}"
        found = Seen.of(file)
        unpurged = before.purged - found.purged
        assert not unpurged or not name.startswith(("mark", "unmark", "purge", "hold")), what
        for page in unpurged:
            assert page not in done.purged, f"{what}: page {page} is forgotten"
            assert found.pages[page] == done.pages[page], f"{what}: page {page} is not what it was"
        for page in set(range(MOST)) - before.purged:
            lost = page in found.purged and page in done.purged
            intact = found.pages[page] in (before.pages[page], done.pages[page])
            assert lost or intact, f"{what}: page {page}"
        assert file.unmark(0, 0) == len(found.purged) * P, what
        assert len(file.memory.queue) == len(list(file.memory.queue)), what
        file.mark(0, 0, 0)
        file.purge()
        file.close()
    assert failed > 1, "it needs memory"
