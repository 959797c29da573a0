"""What the files of a mount share: counts, budget, pressure, the order of purging."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from tests.support.stores import FakeStore
from vfs_volatile.abi.ioctls import VRANGE_FULL, VRANGE_PARTIAL, vrange_priority
from vfs_volatile.core import reclaim
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan
from vfs_volatile.core.purge_queue import PurgeQueue
from vfs_volatile.core.ranges import VolatileRange
from vfs_volatile.core.reclaim import Round, choose, still_allowed
from vfs_volatile.errors import SyscallError
from vfs_volatile.units import PAGE_SIZE

P = PAGE_SIZE


class Mount:
    """A memory of 100 pages, and files of it that are full of data."""

    def __init__(self, budget: int = 100) -> None:
        self.wakes = 0
        self.memory = Memory(100, budget, on_pressure=self._wake)
        self._files = 0

    def _wake(self) -> None:
        self.wakes += 1

    def file(self, pages: int) -> AddressSpace:
        self._files += 1
        space = AddressSpace(self._files, self.memory, FakeStore())
        if pages:
            space.write(0, b"x" * pages * P)
        return space

    def queue(self) -> list[tuple[int, PageSpan]]:
        return [(entry.space.ino, entry.span) for entry in self.memory.queue]

    def choose(
        self, need: int, barred: dict[int, BitMap] | None = None
    ) -> list[tuple[int, list[PageSpan], int]]:
        return [
            (victim.entry.space.ino, victim.spans, victim.resident)
            for victim in choose(self.memory.queue, need, barred or {})
        ]


@pytest.fixture
def mount() -> Mount:
    return Mount()


# ---- the order ----


@given(st.sets(st.integers(0, 30), min_size=1), st.sets(st.integers(0, 30), min_size=1))
def test_many_ranges_leave_the_queue_as_one_by_one(queued: set[int], leave: set[int]) -> None:
    space = AddressSpace(1, Memory(100, 100), FakeStore())
    entries = {
        age: VolatileRange.make(space, PageSpan(age, age + 1), 0, age) for age in queued | leave
    }
    queue = PurgeQueue()
    queue.add_all([entries[age] for age in queued])
    queue.add(entries[min(queued)])
    queue.discard_all([entries[age] for age in sorted(leave)])
    left = sorted(queued - leave)
    assert [entry.age for entry in queue] == left
    for age, entry in entries.items():
        assert (entry in queue) == (age in left)
        assert [at.age for at in queue.from_order(entry.order)] == [at for at in left if at >= age]
        behind = queue.from_order(entry.order, after=True)
        assert [at.age for at in behind] == [at for at in left if at > age]


def test_the_oldest_mark_goes_first_whatever_the_file(mount: Mount) -> None:
    one, two = mount.file(4), mount.file(4)
    two.mark(0, P, VRANGE_FULL)
    one.mark(2 * P, P, VRANGE_FULL)
    two.mark(2 * P, P, VRANGE_FULL)
    one.mark(0, P, VRANGE_FULL)
    assert mount.queue() == [(2, (0, 1)), (1, (2, 3)), (2, (2, 3)), (1, (0, 1))]


def test_priority_goes_before_age(mount: Mount) -> None:
    space = mount.file(3)
    space.mark(0, P, vrange_priority(7))
    space.mark(P, P, vrange_priority(1))
    space.mark(2 * P, P, vrange_priority(0))
    assert [span.first for _, span in mount.queue()] == [2, 1, 0]


def test_what_an_unmark_leaves_of_a_range_keeps_its_place(mount: Mount) -> None:
    space = mount.file(6)
    space.mark(0, 5 * P, VRANGE_FULL)
    space.mark(5 * P, P, VRANGE_FULL)
    space.unmark(2 * P, P)
    assert mount.queue() == [(1, (0, 2)), (1, (3, 5)), (1, (5, 6))]


def test_only_a_range_with_something_to_purge_is_queued(mount: Mount) -> None:
    space = mount.file(0)
    space.truncate(4 * P)
    space.mark(0, 2 * P, VRANGE_FULL)
    assert mount.queue() == []
    space.write(P, b"y")
    assert mount.queue() == [(1, (0, 2))]
    space.punch_hole(0, 2 * P)
    assert mount.queue() == []


def test_a_purged_range_leaves_the_queue_until_it_is_rewritten(mount: Mount) -> None:
    space = mount.file(2)
    space.mark(0, 0, VRANGE_FULL)
    space.end_purge(space.begin_purge([PageSpan(0, 2)], mount.memory.newest_age))
    assert mount.queue() == []
    space.write(0, b"y" * P)
    assert mount.queue() == [(1, (0, 2))]


def test_a_truncated_or_closed_file_leaves_the_queue(mount: Mount) -> None:
    one, two = mount.file(2), mount.file(2)
    one.mark(0, 0, VRANGE_FULL)
    two.mark(0, 0, VRANGE_FULL)
    one.truncate(P)
    assert mount.queue() == [(1, (0, 1)), (2, (0, 2))]
    one.truncate(0)
    two.close()
    assert mount.queue() == []
    assert (mount.memory.resident, mount.memory.volatile, mount.memory.purged) == (0, 0, 0)


# ---- choosing ----


def test_full_goes_whole_even_if_less_is_needed(mount: Mount) -> None:
    mount.file(4).mark(0, 0, VRANGE_FULL)
    assert mount.choose(1) == [(1, [(0, 4)], 4)]


def test_partial_gives_only_what_is_needed_lowest_first(mount: Mount) -> None:
    space = mount.file(5)
    space.mark(0, 0, VRANGE_PARTIAL)
    space.punch_hole(P, P)
    assert mount.choose(3) == [(1, [(0, 1), (2, 4)], 3)]


def test_choosing_stops_when_enough_is_chosen(mount: Mount) -> None:
    for _ in range(3):
        mount.file(4).mark(0, 0, VRANGE_PARTIAL)
    assert mount.choose(6) == [(1, [(0, 4)], 4), (2, [(0, 2)], 2)]
    assert mount.choose(0) == []
    assert sum(resident for *_, resident in mount.choose(1000)) == 12


def test_a_full_range_with_a_barred_page_is_skipped_as_a_whole(mount: Mount) -> None:
    mount.file(4).mark(0, 0, VRANGE_FULL)
    mount.file(2).mark(0, 0, VRANGE_FULL)
    assert mount.choose(1, {1: BitMap(range(3, 9))}) == [(2, [(0, 2)], 2)]
    assert mount.choose(1, {1: BitMap(range(4, 9))}) == [(1, [(0, 4)], 4)]


def test_a_barred_page_of_a_partial_range_is_stepped_over(mount: Mount) -> None:
    mount.file(4).mark(0, 0, VRANGE_PARTIAL)
    assert mount.choose(2, {1: BitMap([1])}) == [(1, [(0, 1), (2, 3)], 2)]
    assert mount.choose(2, {1: BitMap(range(4))}) == []


def test_bars_are_of_one_file(mount: Mount) -> None:
    mount.file(1).mark(0, 0, VRANGE_FULL)
    mount.file(1).mark(0, 0, VRANGE_FULL)
    assert mount.choose(5, {1: BitMap([0])}) == [(2, [(0, 1)], 1)]


@pytest.mark.parametrize(
    ("behavior", "barred", "left"),
    [
        (VRANGE_FULL, [], [(0, 4)]),
        (VRANGE_FULL, [(3, 4)], []),
        (VRANGE_FULL, [(4, 5)], [(0, 4)]),
        (VRANGE_PARTIAL, [], [(0, 4)]),
        (VRANGE_PARTIAL, [(1, 2), (3, 9)], [(0, 1), (2, 3)]),
        (VRANGE_PARTIAL, [(0, 4)], []),
    ],
)
def test_what_still_may_go_after_a_look_at_the_mappings(
    mount: Mount, behavior: int, barred: list[tuple[int, int]], left: list[tuple[int, int]]
) -> None:
    mount.file(4).mark(0, 0, behavior)
    victim = choose(mount.memory.queue, 4, {})[0]
    assert still_allowed(victim, BitMap(n for ends in barred for n in range(*ends))) == left


@pytest.mark.parametrize("slice_length", [2, 3, 100])
def test_a_round_goes_through_the_queue_once_in_slices(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, slice_length: int
) -> None:
    """What is barred is passed over, and not looked at again."""
    monkeypatch.setattr(reclaim, "_SLICE", slice_length)
    for _ in range(5):
        mount.file(2).mark(0, 0, VRANGE_FULL)
    passing = Round(mount.memory)
    passing.barred = {2: BitMap([1]), 5: BitMap([0])}
    seen = []
    for _ in range(20):
        victims = passing.choose(1)
        seen += [victim.entry.space.ino for victim in victims]
        for victim in victims:
            space = victim.entry.space
            assert isinstance(space, AddressSpace)
            space.end_purge(space.begin_purge(victim.spans, 99))
        if passing.finished:
            break
    assert passing.finished
    assert seen == [1, 3, 4]
    assert mount.memory.resident == 4


def test_a_round_that_is_waited_for_leaves_younger_marks(mount: Mount) -> None:
    """Or it would never end while others go on marking."""
    mount.file(2).mark(0, 0, VRANGE_FULL)
    passing = Round(mount.memory, newest=mount.memory.newest_age)
    mount.file(2).mark(0, 0, VRANGE_FULL)
    assert [victim.entry.space.ino for victim in passing.choose(4)] == [1]
    assert passing.finished


def test_a_round_for_the_budget_takes_marks_that_come_meanwhile(mount: Mount) -> None:
    """What keeps older ones from being purged does not keep them."""
    passing = Round(mount.memory)
    mount.file(2).mark(0, 0, VRANGE_FULL)
    assert [victim.entry.space.ino for victim in passing.choose(4)] == [1]


# ---- budget, size, pressure ----


def test_a_budget_above_the_size_is_the_size() -> None:
    memory = Memory(10, 50)
    assert memory.budget_pages == 10
    memory.set_budget(4)
    assert memory.budget_pages == 4
    memory.set_budget(11)
    assert memory.budget_pages == 10


class Somebody:
    """Who holds pages."""

    charged = 0


def test_excess_and_room() -> None:
    memory = Memory(10, 4)
    holder = Somebody()
    memory.charge(holder, 6)
    assert (memory.excess, memory.room) == (2, 4)
    memory.charge(holder, -3)
    assert holder.charged == 3
    assert (memory.excess, memory.room) == (0, 7)
    assert memory.highest_resident == 6


def test_reserve_is_exact() -> None:
    memory = Memory(10, 10)
    memory.charge(Somebody(), 7)
    memory.reserve(3)
    for dirty in (False, True):
        with pytest.raises(SyscallError) as failure:
            memory.reserve(4, dirty=dirty)
        assert failure.value.errno == errno.ENOSPC


def test_dirty_pages_may_exceed_the_size_while_something_can_give_way(mount: Mount) -> None:
    mount.file(100).mark(0, P, VRANGE_FULL)
    mount.memory.reserve(1, dirty=True)
    with pytest.raises(SyscallError):
        mount.memory.reserve(1)


@pytest.mark.parametrize(("budget", "ceiling"), [(0, 1024), (8192, 9216), (80000, 90000)])
def test_a_writer_may_outrun_the_purger_by_a_slack(budget: int, ceiling: int) -> None:
    """An eighth of the budget, at least 4 MiB."""
    memory = Memory(100_000, budget)
    holder = Somebody()
    memory.charge(holder, ceiling)
    assert memory.shortage(5) == 0, "nothing can give way"
    space = AddressSpace(1, memory, FakeStore())
    space.write(0, b"x")
    space.mark(0, 0, VRANGE_FULL)
    assert memory.shortage(0) == 1
    assert memory.shortage(5) == 6
    memory.charge(holder, -10)
    assert memory.shortage(5) == 0


def test_the_slack_ends_at_the_size() -> None:
    mount = Mount(budget=90)
    mount.file(99).mark(0, 0, VRANGE_FULL)
    assert mount.memory.shortage(1) == 0
    assert mount.memory.shortage(2) == 1


def test_non_volatile_data_above_the_budget_wakes_nobody() -> None:
    mount = Mount(budget=2)
    mount.file(5)
    assert (mount.memory.excess, mount.wakes) == (3, 0)


def test_the_purger_is_woken_by_a_mark_a_write_and_a_smaller_budget() -> None:
    mount = Mount(budget=4)
    space = mount.file(4)
    space.mark(0, 0, VRANGE_FULL)
    assert mount.wakes == 0
    space.write(4 * P, b"y")
    assert mount.wakes > 0

    mount = Mount(budget=2)
    space = mount.file(4)
    space.mark(0, P, VRANGE_FULL)
    assert mount.wakes > 0

    mount = Mount(budget=4)
    mount.file(4).mark(0, 0, VRANGE_FULL)
    mount.memory.set_budget(3)
    assert mount.wakes > 0


def test_marks_are_numbered_from_old_to_young() -> None:
    memory = Memory(1, 1)
    assert [memory.next_age(), memory.next_age(), memory.newest_age] == [1, 2, 2]
