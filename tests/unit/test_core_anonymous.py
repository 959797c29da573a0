"""Anonymous memory, rule by rule: who shares a page, who must agree, what goes with it."""

from __future__ import annotations

from itertools import count

import pytest
from pyroaring import BitMap

from vfs_volatile.abi.ioctls import VRANGE_FULL, VRANGE_PARTIAL, vrange_priority
from vfs_volatile.core.anonymous import AnonymousSpace
from vfs_volatile.core.lineage import Lineage
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan
from vfs_volatile.core.reclaim import Round, choose

PAGES = 8
ALL = PageSpan(0, PAGES)
NOTHING = BitMap()


class World:
    """One allocation, and memory with room for it."""

    def __init__(self) -> None:
        self.memory = Memory(1000, 1000)
        self.lineage = Lineage(self.memory, PAGES, count(-1, -1))

    def first(self, held: int = PAGES) -> AnonymousSpace:
        space = self.lineage.first()
        self.say(space, alone=range(held))
        return space

    def fork(self, parent: AnonymousSpace) -> AnonymousSpace:
        child = self.lineage.fork(parent)
        for space in (parent, child):
            self.say(space, shared=parent.resident)
        return child

    def say(
        self,
        space: AnonymousSpace,
        *,
        alone: range | BitMap = NOTHING,
        shared: range | BitMap = NOTHING,
        purged: range | BitMap = NOTHING,
    ) -> None:
        """The process reports: pages it holds alone, and with others; pages it has dropped."""
        held = BitMap(alone) | BitMap(shared)
        space.report(ALL, held, BitMap(alone), BitMap(purged))
        space.told_all()

    def victims(
        self, need: int = 1000, barred: dict[int, BitMap] | None = None
    ) -> dict[int, set[int]]:
        """What is chosen, by key of the space."""
        found: dict[int, set[int]] = {}
        for victim in choose(self.memory.queue, need, barred or {}):
            for span in victim.spans:
                found.setdefault(victim.entry.space.ino, set()).update(range(*span))
        return found


@pytest.fixture
def world() -> World:
    return World()


def test_memory_counts_as_resident_and_stands_in_the_queue(world: World) -> None:
    space = world.first(3)
    assert world.memory.resident == 3
    assert not world.memory.queue
    space.mark(PageSpan(2, 5), VRANGE_PARTIAL)
    assert [entry.span for entry in world.memory.queue] == [(2, 5)]
    assert world.victims() == {space.ino: {2}}


def test_what_is_not_held_is_not_in_the_queue(world: World) -> None:
    space = world.first(2)
    space.mark(PageSpan(4, 6), VRANGE_FULL)
    assert not world.memory.queue
    world.say(space, alone=range(5))
    assert world.victims() == {space.ino: {4}}
    world.say(space, alone=range(2))
    assert not world.memory.queue


def test_fork_copies_marks_and_charges_a_shared_page_once(world: World) -> None:
    parent = world.first()
    parent.mark(ALL, VRANGE_FULL)
    child = world.fork(parent)
    assert world.memory.resident == PAGES
    assert world.memory.volatile == 2 * PAGES
    assert world.victims() == {parent.ino: set(range(*ALL)), child.ino: set(range(*ALL))}


def test_one_that_unmarks_holds_the_page_for_all(world: World) -> None:
    parent = world.first()
    parent.mark(ALL, VRANGE_PARTIAL)
    child = world.fork(parent)
    child.unmark(PageSpan(0, 6))
    assert world.victims() == {parent.ino: {6, 7}, child.ino: {6, 7}}


def test_a_mark_after_the_fork_is_the_makers_alone(world: World) -> None:
    parent = world.first()
    world.fork(parent)
    parent.mark(ALL, VRANGE_PARTIAL)
    assert not world.victims()


def test_a_copied_page_goes_by_its_owner_alone(world: World) -> None:
    parent = world.first()
    child = world.fork(parent)
    world.say(child, alone=range(3), shared=range(3, PAGES))
    child.mark(ALL, VRANGE_PARTIAL)
    assert world.victims() == {child.ino: {0, 1, 2}}


def test_a_full_range_that_shares_a_held_page_stays_whole(world: World) -> None:
    parent = world.first()
    child = world.fork(parent)
    world.say(child, alone=range(3), shared=range(3, PAGES))
    child.mark(ALL, VRANGE_FULL)
    assert not world.victims()


def test_a_full_range_of_a_sharer_goes_whole_too(world: World) -> None:
    parent = world.first()
    child = world.fork(parent)
    world.say(parent, shared=range(1), alone=range(1, PAGES))
    world.say(child, shared=range(1), alone=range(1, PAGES))
    parent.mark(ALL, VRANGE_FULL)
    child.mark(PageSpan(0, 1), VRANGE_PARTIAL)
    assert world.victims(1) == {parent.ino: set(range(*ALL)), child.ino: {0}}


def test_copies_of_two_forks_are_told_apart(world: World) -> None:
    """The child has copied the pages and shares its own with a grandchild, not with the parent."""
    parent = world.first()
    child = world.fork(parent)
    world.say(child, alone=range(*ALL))
    world.fork(parent)  # that has marked nothing
    grandchild = world.fork(child)
    for space in (child, grandchild):
        space.mark(ALL, VRANGE_PARTIAL)
    assert world.victims() == {child.ino: set(range(*ALL)), grandchild.ino: set(range(*ALL))}
    assert world.memory.resident == 2 * PAGES


def test_what_a_child_has_not_told_of_counts_as_shared(world: World) -> None:
    parent = world.first(2)
    child = world.lineage.fork(parent)
    world.say(parent, shared=range(4))  # it has got two pages more before the fork was done
    parent.mark(ALL, VRANGE_PARTIAL)
    assert not world.victims()
    world.say(child, shared=range(2))
    assert world.victims() == {parent.ino: {2, 3}}


@pytest.mark.parametrize("silent", ["parent", "child"])
def test_one_that_cannot_be_asked_holds_what_it_shares(world: World, silent: str) -> None:
    parent = world.first()
    parent.mark(ALL, VRANGE_PARTIAL)
    child = world.fork(parent)
    world.say(child, alone=range(1), shared=range(1, PAGES))
    world.say(parent, alone=range(1), shared=range(1, PAGES))
    stuck, other = (parent, child) if silent == "parent" else (child, parent)
    stuck.answers = False
    assert world.victims() == {other.ino: {0}}
    assert other.allowed(BitMap(range(PAGES))) == BitMap([0])


def test_a_shared_page_has_the_place_of_its_last_mark(world: World) -> None:
    parent = world.first()
    child = world.fork(parent)
    world.say(child, alone=range(1), shared=range(1, PAGES))
    parent.mark(PageSpan(1, 2), VRANGE_PARTIAL)
    child.mark(PageSpan(0, 1), VRANGE_PARTIAL | vrange_priority(1))
    child.mark(PageSpan(1, 2), VRANGE_PARTIAL | vrange_priority(2))
    assert world.victims(1) == {child.ino: {0}}
    assert world.victims(2) == {child.ino: {0, 1}, parent.ino: {1}}


def test_a_partial_range_gives_what_it_can(world: World) -> None:
    parent = world.first()
    parent.mark(ALL, VRANGE_PARTIAL)
    child = world.fork(parent)
    child.unmark(PageSpan(0, 3))
    assert world.victims(2) == {parent.ino: {3, 4}, child.ino: {3, 4}}


@pytest.mark.parametrize(
    ("behavior", "left"), [(VRANGE_PARTIAL, set(range(2, PAGES))), (VRANGE_FULL, set())]
)
def test_what_a_process_has_refused_to_drop_is_left_out(
    world: World, behavior: int, left: set[int]
) -> None:
    parent = world.first()
    parent.mark(ALL, behavior)
    child = world.fork(parent)
    expected = {parent.ino: left, child.ino: left} if left else {}
    assert world.victims(barred={child.ino: BitMap([0, 1])}) == expected


def test_a_round_asks_for_nothing_twice(world: World) -> None:
    space = world.first()
    space.mark(ALL, VRANGE_PARTIAL)
    passing = Round(world.memory)
    first = passing.choose(PAGES)
    passing.done(first)  # and the process has dropped nothing
    assert first
    assert not passing.choose(PAGES)
    assert passing.finished


def test_one_that_ends_holds_nothing(world: World) -> None:
    parent = world.first()
    parent.mark(ALL, VRANGE_PARTIAL)
    child = world.fork(parent)
    child.unmark(ALL)
    world.lineage.leave(child)
    assert world.victims() == {parent.ino: set(range(*ALL))}
    assert world.memory.volatile == PAGES
    world.lineage.leave(parent)
    assert (world.memory.resident, world.memory.volatile) == (0, 0)


def test_purged_pages_are_those_that_the_process_tells_of(world: World) -> None:
    space = world.first()
    space.mark(PageSpan(0, 4), VRANGE_FULL)
    world.say(space, alone=range(4, PAGES), purged=range(6))  # 4 and 5 are not even marked
    assert space.volatility.purged == BitMap(range(4))
    assert (world.memory.purged, world.memory.purged_ever) == (4, 4)
    space.unmark(PageSpan(0, 2))
    world.say(space, alone=range(4, PAGES), purged=range(2, 4))
    assert (world.memory.purged, world.memory.purged_ever) == (2, 4)
