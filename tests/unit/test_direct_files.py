"""How often files that processes reach without us are counted."""

from __future__ import annotations

from typing import cast

import pytest

from tests.support.stores import FakeStore
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.fs.direct import DirectFiles
from vfs_volatile.store.detached import DetachedTmpfs
from vfs_volatile.units import PAGE_SIZE

SIZE = 8000


class Tmpfs:
    """Holds as much as it is told to."""

    used = True

    def __init__(self) -> None:
        self.held = 0
        self.limits: list[int] = []

    def held_pages(self) -> int:
        return self.held

    def limit(self, pages: int) -> None:
        self.limits.append(pages)


class Stage:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("vfs_volatile.fs.direct.monotonic", lambda: self.now)
        self.memory = Memory(SIZE, SIZE)
        self.tmpfs = Tmpfs()
        tmpfs = cast(DetachedTmpfs, self.tmpfs)
        self.files = DirectFiles(self.memory, tmpfs, "", {}, lambda _: None)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def test_of_many_marks_one_in_a_while_counts(stage: Stage) -> None:
    stage.tmpfs.held = 5
    stage.files.marked()
    assert stage.memory.resident == 5
    stage.tmpfs.held = 6
    stage.now += 0.001
    stage.files.marked()
    assert stage.memory.resident == 5
    stage.now += 0.001
    stage.files.marked()
    assert stage.memory.resident == 6


def test_whoever_asks_gets_the_count_of_this_moment(stage: Stage) -> None:
    stage.files.count()
    stage.tmpfs.held = 5
    stage.files.count()
    assert stage.memory.resident == 5


def test_each_mark_sets_the_limit_that_it_makes_due(stage: Stage) -> None:
    """What is volatile may give way, so with it more may be stored: at once, and not any more."""
    stage.files.count()
    space = AddressSpace(1, stage.memory, FakeStore())
    space.write(0, bytes(PAGE_SIZE))
    space.mark(0, 0, 0)
    stage.files.marked()
    space.unmark(0, 0)
    stage.files.marked()
    assert stage.tmpfs.limits == [SIZE, SIZE + stage.memory.slack - 1, SIZE - 1]
