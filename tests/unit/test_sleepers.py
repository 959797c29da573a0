"""Sleeping processes are not asked again; whoever has run is. All processes are real."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.fvrange import PAGE
from tests.support.sleeper import Sleeper
from tests.support.waiting import PATIENCE, eventually
from vfs_volatile.native import kcmp
from vfs_volatile.processes.kernel import SAME_MEMORY, Kernel
from vfs_volatile.processes.mappings import MappingScanner
from vfs_volatile.processes.maps import Columns, OwnMount, query_text
from vfs_volatile.processes.openers import Openers

TMPFS = "/dev/shm"
"""Any mount will do to look for mappings of its files."""
NO_INODE = 2**60
MOST_FILES = 2000
"""Until somebody is found asleep on a busy machine."""

pytestmark = pytest.mark.skipif(
    not Kernel(compare=kcmp.compare_memory).tells_who_slept(),
    reason="this kernel does not tell who slept (older than 5.16, or without kcmp or schedstat)",
)


class Looks:
    """Looks at all processes, and who was asked in the last of them."""

    def __init__(self, file: Path, most_files: int = MOST_FILES) -> None:
        self._ino = file.stat().st_ino
        self.asked: set[int] = set()
        kernel = Kernel(self._query, kcmp.compare_memory)
        self.scanner = MappingScanner(OwnMount(TMPFS), kernel, only_uid=None, most_files=most_files)

    def look(self, ino: int | None = None) -> set[int]:
        """The processes that have the file, or that of another inode, mapped private."""
        ino = self._ino if ino is None else ino
        self.asked.clear()
        found = self.scanner.scan({ino: Openers()})
        if found.unreadable:  # on a machine where processes come faster than they are looked at
            return self.look(ino)
        return {
            mapper.process[0]
            for mapper in found.of(ino)
            if mapper.private and isinstance(mapper.process, tuple)
        }

    def remembers(self, *pids: int, ino: int | None = None) -> bool:
        """Look; was none of these asked?"""
        self.look(ino)
        return self.asked.isdisjoint(pids)

    def _query(self, tid: int, major: int, minor: int) -> Iterable[Columns]:
        self.asked.add(tid)
        return query_text(tid, major, minor)


@pytest.fixture
def file() -> Iterator[Path]:
    path = Path(TMPFS) / f"vfs-volatile-{uuid4()}"
    path.write_bytes(b"s" * PAGE)
    yield path
    path.unlink()


@pytest.fixture
def start(sleepers: Callable[[Path], Sleeper], file: Path) -> Callable[[], Sleeper]:
    return lambda: sleepers(file)


@pytest.fixture
def looks(file: Path) -> Iterator[Looks]:
    made = Looks(file)
    yield made
    made.scanner.close()


def test_a_sleeping_process_is_remembered(looks: Looks, start: Callable[[], Sleeper]) -> None:
    with_it, without = start(), start()
    with_it.does("m")
    assert eventually(lambda: looks.remembers(with_it.pid, without.pid), PATIENCE)
    for _ in range(3):
        assert looks.look() == {with_it.pid}
        assert looks.asked.isdisjoint({with_it.pid, without.pid})


def test_all_files_of_a_sleeper_are_remembered(looks: Looks, start: Callable[[], Sleeper]) -> None:
    """Also those that nobody looked for when it was asked."""
    sleeper = start()
    sleeper.does("m")
    assert eventually(lambda: looks.remembers(sleeper.pid, ino=NO_INODE), PATIENCE)
    assert looks.look() == {sleeper.pid}
    assert sleeper.pid not in looks.asked


def test_it_takes_a_look_more(looks: Looks, start: Callable[[], Sleeper]) -> None:
    """Whoever runs between any two looks costs no more than to see that."""
    sleeper = start()
    for _ in range(10):
        assert not looks.remembers(sleeper.pid)
        sleeper.does("m")
        assert not looks.remembers(sleeper.pid)
        sleeper.does("u")


def test_what_it_does_when_it_wakes_is_seen_at_once(
    looks: Looks, start: Callable[[], Sleeper]
) -> None:
    sleeper = start()
    for _ in range(5):
        assert eventually(lambda: looks.remembers(sleeper.pid), PATIENCE)
        sleeper.does("m")
        assert looks.look() == {sleeper.pid}
        assert eventually(lambda: looks.remembers(sleeper.pid), PATIENCE)
        sleeper.does("u")
        assert looks.look() == set()


def test_a_thread_maps_while_the_others_sleep(looks: Looks, start: Callable[[], Sleeper]) -> None:
    sleeper = start()
    sleeper.does("t")
    assert eventually(lambda: looks.remembers(sleeper.pid), PATIENCE), "with two threads"
    sleeper.other_does("m")
    assert looks.look() == {sleeper.pid}


def test_a_process_that_runs_is_asked_always(looks: Looks, start: Callable[[], Sleeper]) -> None:
    """One thread computes, and is perhaps never switched in anew."""
    sleeper = start()
    sleeper.does("t")
    sleeper.other_does("b")
    for _ in range(20):
        assert not looks.remembers(sleeper.pid)


def test_memory_that_a_child_shares(looks: Looks, start: Callable[[], Sleeper]) -> None:
    """clone(2) with CLONE_VM: what the child maps is the parent's too, though that sleeps."""
    sleeper = start()
    assert eventually(lambda: looks.remembers(sleeper.pid), PATIENCE)
    sleeper.does("c")
    assert kcmp.compare_memory(sleeper.pid, sleeper.child) == SAME_MEMORY
    for _ in range(6):
        assert not looks.remembers(sleeper.pid)
    sleeper.other_does("m")
    sleeper.other_does("e")
    assert looks.look() >= {sleeper.pid}, "it was the child that mapped, and it is gone"
    assert eventually(lambda: looks.remembers(sleeper.pid), PATIENCE), "it is alone again"
    assert looks.look() == {sleeper.pid}


def test_memory_that_a_child_of_vfork_shares(looks: Looks, start: Callable[[], Sleeper]) -> None:
    sleeper = start()
    assert eventually(lambda: looks.remembers(sleeper.pid), PATIENCE)
    sleeper.does("v")
    for _ in range(4):
        looks.look()
    sleeper.other_does("m")
    assert sleeper.pid in looks.look()
    sleeper.other_does("e")
    assert looks.look() >= {sleeper.pid}


def test_a_forked_child_has_what_its_parent_had(looks: Looks, start: Callable[[], Sleeper]) -> None:
    sleeper = start()
    sleeper.does("m")
    sleeper.does("f")
    child = sleeper.child
    assert looks.look() == {sleeper.pid, child}
    assert eventually(lambda: looks.remembers(sleeper.pid, child), PATIENCE)
    sleeper.does("u")
    assert looks.look() == {child}
    sleeper.other_does("u")
    assert looks.look() == set()


def test_another_program_has_nothing_mapped(looks: Looks, start: Callable[[], Sleeper]) -> None:
    sleeper = start()
    sleeper.does("m")
    assert eventually(lambda: looks.remembers(sleeper.pid), PATIENCE)
    sleeper.does("x")
    assert looks.look() == set()
    sleeper.does("m")
    assert looks.look() == {sleeper.pid}


def test_who_has_ended_is_forgotten(looks: Looks, start: Callable[[], Sleeper]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    sleepers = [start() for _ in range(5)]
    for sleeper in sleepers:
        sleeper.does("m")
    assert eventually(lambda: looks.remembers(*(sleeper.pid for sleeper in sleepers)), PATIENCE)
    for sleeper in sleepers:
        sleeper.end()
    assert looks.look() == set()
    looks.scanner.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_more_files_are_opened_than_may_be(file: Path, start: Callable[[], Sleeper]) -> None:
    """The rest is asked; nothing is overlooked."""
    few = Looks(file, most_files=3)
    before = len(os.listdir("/proc/self/fd"))
    sleepers = [start() for _ in range(4)]
    opened = len(os.listdir("/proc/self/fd"))
    for sleeper in sleepers:
        sleeper.does("m")
    for _ in range(8):
        assert few.look() == {sleeper.pid for sleeper in sleepers}
        assert before < len(os.listdir("/proc/self/fd")) <= opened + 3
    few.scanner.close()


def test_two_looks_at_the_same_time(looks: Looks, start: Callable[[], Sleeper]) -> None:
    """The second asks everybody, and does not wait for the first."""
    sleeper = start()
    sleeper.does("m")
    assert eventually(lambda: looks.remembers(sleeper.pid), PATIENCE)
    with looks.scanner._remembering:
        assert looks.look() == {sleeper.pid}
        assert sleeper.pid in looks.asked
    assert looks.remembers(sleeper.pid)


def test_random_sleepers(looks: Looks, start: Callable[[], Sleeper]) -> None:
    """After each order one look sees exactly what is mapped, whoever is remembered by then."""
    dice = random.Random(20130)
    sleepers = [start() for _ in range(5)]
    mapped: set[int] = set()
    remembered = 0
    for _ in range(200):
        sleeper = dice.choice(sleepers)
        if dice.random() < 0.3:
            _let_another_change_it(sleeper, dice, mapped)
        else:
            _change(sleeper.does, sleeper.pid, mapped)
        for _ in range(dice.choice((1, 1, 4))):
            assert looks.look() & {each.pid for each in sleepers} == mapped
            remembered += sum(each.pid not in looks.asked for each in sleepers)
    assert remembered > 50, "else nothing was tried"


def _let_another_change_it(sleeper: Sleeper, dice: random.Random, mapped: set[int]) -> None:
    """By a child that shares the memory and is gone afterwards."""
    kind = dice.choice("cv")
    sleeper.does(kind)
    _change(sleeper.other_does, sleeper.pid, mapped)
    sleeper.other_does("e")


def _change(does: Callable[[str], None], pid: int, mapped: set[int]) -> None:
    does("u" if pid in mapped else "m")
    mapped ^= {pid}
