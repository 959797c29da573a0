"""The rules of volatile ranges, one by one; numbers as in "Semantics of ranges"."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.stores import FakeStore
from vfs_volatile.abi.ioctls import VRANGE_PARTIAL, VRANGE_SIGBUS, VRANGE_ZERO
from vfs_volatile.core.address_space import AddressSpace, Drain, Run
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import MAX_BYTES
from vfs_volatile.core.ranges import PageSpan
from vfs_volatile.errors import SyscallError
from vfs_volatile.units import PAGE_SIZE

P = PAGE_SIZE
ZEROS = bytes(P)


class File(AddressSpace):
    """A file on a store that can be made to fail, with the calls that tests want short."""

    __slots__ = ()

    def __init__(self, pages: int = 0, *, size: int = 100, zero_by_default: bool = False) -> None:
        super().__init__(1, Memory(size, size, zero_by_default=zero_by_default), FakeStore())
        for page in range(pages):
            self.write(page * P, letter(page) * P)

    @property
    def fake(self) -> FakeStore:
        assert isinstance(self.store, FakeStore)
        return self.store

    def begin(self, start: int = 0, length: int = 0) -> Drain:
        return self.begin_purge([self.span_of(start, length)], self.memory.newest_age)

    def purge(self, start: int = 0, length: int = 0) -> None:
        self.end_purge(self.begin(start, length))

    def intact(self, *pages: int) -> bool:
        return all(self.read(page * P, P) == letter(page) * P for page in pages)


def letter(page: int) -> bytes:
    return bytes([ord("a") + page])


def fails(number: int, call: Callable[..., Any], *args: Any, **options: Any) -> None:
    with pytest.raises(SyscallError) as failure:
        call(*args, **options)
    assert failure.value.errno == number


@pytest.fixture
def file() -> File:
    """Four pages of data."""
    return File(4)


# ---- bytes and pages (section 2) ----


@pytest.mark.parametrize(
    ("start", "length", "spans"),
    [
        (0, 4 * P, [(0, 4 * P)]),
        (0, 0, [(0, 4 * P)]),
        (P, 0, [(P, 3 * P)]),
        (1, 2 * P, [(P, P)]),
        (1, 2 * P - 2, []),
        (P - 1, P + 1, [(P, P)]),
        (P, P - 1, []),
        (3 * P, 1 << 62, [(3 * P, P)]),
        (4 * P, P, []),
        (4 * P, 0, []),
        (1 << 62, 0, []),
    ],
)
def test_a_mark_takes_the_pages_wholly_inside(
    file: File, start: int, length: int, spans: list[tuple[int, int]]
) -> None:
    assert file.mark(start, length, 0) == 0
    assert list(file.volatile_spans()) == spans
    file.check()


def test_the_last_page_in_part_counts_as_whole_when_the_range_reaches_the_end() -> None:
    file = File(1)
    file.write(P, b"tail")
    file.mark(0, P + 3, 0)
    assert list(file.volatile_spans()) == [(0, P)]
    file.mark(P, 4, 0)
    assert list(file.volatile_spans()) == [(0, P), (P, 4)]
    assert file.span_of(P, 4) == (1, 2)
    assert not file.span_of(P, 3)


@pytest.mark.parametrize(
    ("start", "length", "left"),
    [
        (P, 1, [(0, P), (2 * P, 2 * P)]),
        (2 * P - 1, 2, [(0, P), (3 * P, P)]),
        (0, 0, []),
        (3 * P + 1, 0, [(0, 3 * P)]),
        (4 * P, 0, [(0, 4 * P)]),
    ],
)
def test_an_unmark_takes_every_page_it_meets(
    file: File, start: int, length: int, left: list[tuple[int, int]]
) -> None:
    file.mark(0, 0, 0)
    assert file.unmark(start, length) == 0
    assert list(file.volatile_spans()) == left
    assert file.intact(0, 1, 2, 3)


# ---- rule 2: marks ----


def test_rule_2_a_mark_changes_nothing_for_volatile_pages(file: File) -> None:
    file.mark(P, P, VRANGE_ZERO)
    file.purge(P, P)
    assert file.mark(0, 0, VRANGE_PARTIAL) == P
    assert [(entry.span, entry.behavior, entry.age) for entry in file.ranges] == [
        ((0, 1), VRANGE_PARTIAL, 2),
        ((1, 2), VRANGE_ZERO, 1),
        ((2, 4), VRANGE_PARTIAL, 2),
    ]
    assert list(file.purged_spans()) == [(P, P)]
    assert file.memory.volatile == 4


def test_rule_2_a_mark_that_finds_nothing_new_has_no_age(file: File) -> None:
    file.mark(0, 0, 0)
    file.mark(0, 0, VRANGE_ZERO)
    assert file.memory.newest_age == 1


def test_rule_2_neighbours_are_never_merged(file: File) -> None:
    for page in range(4):
        file.mark(page * P, P, 0)
    assert len(list(file.volatile_spans())) == 4


# ---- rule 3: unmark ----


@pytest.mark.parametrize(
    ("start", "length", "found"),
    [
        (0, 0, 2 * P),
        (P, 2 * P, 2 * P),
        (P + 1, 1, 1),
        (0, P + 7, 7),
        (3 * P - 7, P, 7),
        (P + 1, 2 * P - 2, 2 * P - 2),
        (0, P, 0),
        (9 * P, P, 0),
    ],
)
def test_rule_3_unmark_reports_the_purged_bytes_of_exactly_the_range(
    file: File, start: int, length: int, found: int
) -> None:
    file.mark(0, 0, 0)
    file.purge(P, 2 * P)
    assert file.purged_bytes(start, length) == found
    assert file.mark(start, length, 0) == found
    assert file.unmark(start, length) == found
    assert file.unmark(start, length) == 0


def test_rule_3_the_purged_tail_counts_up_to_the_end_of_file() -> None:
    file = File(1)
    file.write(P, b"tail")
    file.mark(0, 0, 0)
    file.purge()
    assert list(file.purged_spans()) == [(0, P + 4)]
    assert file.unmark(P, 0) == 4
    assert file.unmark(0, 0) == P


def test_rule_3_unmarked_purged_pages_are_zero_and_clean(file: File) -> None:
    file.mark(0, 0, 0)
    file.purge(P, P)
    file.unmark(0, 0)
    assert file.read(P, P) == ZEROS
    assert file.intact(0, 2, 3)
    assert list(file.purged_spans()) == []
    assert file.memory.purged == 0


def test_rule_3_what_was_written_to_a_purged_page_goes_too() -> None:
    file = File(2, zero_by_default=True)
    file.mark(0, 0, 0)
    file.purge()
    file.write(10, b"since")
    assert set(file.zeroed_by_unmark(0, 0)) == {0, 1}
    assert set(file.zeroed_by_unmark(P, P)) == {1}
    assert file.unmark(0, 0) == 2 * P
    assert file.read(0, 2 * P) == 2 * ZEROS
    assert file.memory.resident == 0


def test_rule_3_a_purge_racing_with_an_unmark_did_not_happen(file: File) -> None:
    """It was decided before the unmark, and comes after it."""
    file.mark(0, 0, 0)
    newest = file.memory.newest_age
    assert file.unmark(0, 0) == 0
    file.mark(0, 0, 0)
    drain = file.begin_purge([PageSpan(0, 4)], newest)
    assert not drain.pages
    file.end_purge(drain)
    assert file.intact(0, 1, 2, 3)


def test_rule_3_an_unmark_must_wait_for_the_purge(file: File) -> None:
    file.mark(0, 2 * P, 0)
    drain = file.begin(0, P)
    assert file.draining(PageSpan(0, 1))
    assert not file.draining(PageSpan(1, 4))
    with pytest.raises(AssertionError):
        file.unmark(0, 0)
    assert file.unmark(P, P) == 0
    file.end_purge(drain)
    assert file.unmark(0, 0) == P


# ---- rule 4: touching purged pages ----


@pytest.mark.parametrize("behavior", [0, VRANGE_SIGBUS])
def test_rule_4_reading_a_purged_page_is_an_error(file: File, behavior: int) -> None:
    file.mark(P, P, behavior)
    file.purge()
    for offset, length in [(P, P), (P, 1), (0, 4 * P), (2 * P - 1, 5)]:
        fails(errno.ENODATA, file.read, offset, length)
    assert file.intact(0, 2, 3)


def test_rule_4_a_write_in_part_is_an_error_short_if_earlier_pages_were_fine(file: File) -> None:
    file.mark(P, P, 0)
    file.purge()
    fails(errno.ENODATA, file.write, P, b"x")
    fails(errno.ENODATA, file.write, P + 1, b"x" * P)
    assert file.write(P - 2, b"xyz") == 2
    assert file.read(P - 3, 3) == b"axy"
    assert list(file.purged_spans()) == [(P, P)]
    fails(errno.ENODATA, file.read, P, 1)


@pytest.mark.parametrize(("default", "behavior"), [(False, VRANGE_ZERO), (True, 0)])
def test_rule_4_zero_reads_zeros_and_may_be_written(default: bool, behavior: int) -> None:
    file = File(2, zero_by_default=default)
    file.mark(0, 0, behavior)
    file.purge()
    assert file.read(0, 2 * P) == 2 * ZEROS
    assert file.write(1, b"x") == 1
    assert file.read(0, 3) == b"\0x\0"


def test_rule_4_the_flag_of_the_range_beats_the_default() -> None:
    file = File(1, zero_by_default=True)
    file.mark(0, 0, VRANGE_SIGBUS)
    file.purge()
    fails(errno.ENODATA, file.read, 0, 1)


def test_rule_4_reads_are_refused_from_the_begin_of_the_purge(file: File) -> None:
    file.mark(0, 0, 0)
    drain = file.begin()
    fails(errno.ENODATA, file.read, 0, 1)
    file.end_purge(drain)
    fails(errno.ENODATA, file.read, 0, 1)


# ---- rule 5: rewriting ----


def test_rule_5_a_page_rewritten_whole_is_intact_and_still_volatile(file: File) -> None:
    file.mark(0, 0, 0)
    file.purge(0, 2 * P)
    assert file.write(0, b"n" * P) == P
    assert file.read(0, P) == b"n" * P
    assert list(file.purged_spans()) == [(P, P)]
    assert list(file.volatile_spans()) == [(0, 4 * P)]
    assert file.memory.purged == 1


def test_rule_5_the_tail_rewritten_up_to_the_end_of_file_is_intact() -> None:
    file = File()
    file.write(0, b"tail")
    file.mark(0, 0, 0)
    file.purge()
    fails(errno.ENODATA, file.write, 0, b"new")
    assert file.write(0, b"longer") == 6
    assert file.unmark(0, 0) == 0
    assert file.read(0, 10) == b"longer"


def test_rule_5_appending_to_a_purged_tail_is_writing_it_in_part() -> None:
    file = File()
    file.write(0, b"tail")
    file.mark(0, 0, 0)
    file.purge()
    fails(errno.ENODATA, file.write, 4, b"more")
    assert file.size == 4


def test_rule_5_a_page_written_in_part_after_its_purge_is_still_purged(file: File) -> None:
    file.mark(0, P, VRANGE_ZERO)
    file.purge()
    file.write(0, b"x" * (P - 1))
    assert file.unmark(0, 0) == P


def test_rule_5_a_write_back_makes_no_page_intact(file: File) -> None:
    """It carries a whole page, of which perhaps one byte was stored."""
    file.mark(0, P, VRANGE_ZERO)
    file.purge()
    file.write_back(0, b"x" * P)
    assert file.read(0, P) == b"x" * P
    assert file.unmark(0, 0) == P
    assert file.read(0, P) == ZEROS


def test_rule_5_a_write_back_to_a_page_that_is_an_error_is_discarded(file: File) -> None:
    file.mark(P, P, 0)
    file.purge()
    file.write_back(0, b"x" * 3 * P)
    assert file.read(0, P) == b"x" * P
    fails(errno.ENODATA, file.read, P, P)
    assert file.read(2 * P, P) == b"x" * P
    assert list(file.purged_spans()) == [(P, P)]


# ---- rule 6 ----


def test_rule_6_unpurged_volatile_pages_read_and_write_normally(file: File) -> None:
    file.mark(0, 0, 0)
    assert file.intact(0, 1, 2, 3)
    file.write(P + 1, b"x")
    file.write_back(2 * P, b"y" * P)
    assert file.read(P, 3) == b"bxb"
    assert file.unmark(0, 0) == 0


def test_a_write_back_never_grows_the_file(file: File) -> None:
    file.write_back(3 * P, b"x" * 2 * P)
    file.write_back(4 * P, b"x" * P)
    assert file.size == 4 * P
    assert file.memory.resident == 4
    file.truncate(5 * P)
    assert file.read(4 * P, P) == ZEROS


def test_a_write_back_of_the_tail_leaves_zeros_beyond_it() -> None:
    file = File()
    file.write(0, b"tail")
    file.write_back(0, b"x" * P)
    file.truncate(10)
    assert file.read(0, 10) == b"xxxx" + bytes(6)


# ---- rule 7: changes of the file ----


def test_rule_7_truncate_below_a_range_drops_it(file: File) -> None:
    file.mark(0, 0, 0)
    file.purge(2 * P, 2 * P)
    file.unmark(3 * P, P, record_lost=True)
    file.truncate(P + 1)
    assert list(file.volatile_spans()) == [(0, P + 1)]
    assert list(file.purged_spans()) == []
    assert list(file.lost_spans()) == []
    memory = file.memory
    assert (memory.resident, memory.volatile, memory.purged) == (2, 2, 0)
    file.truncate(4 * P)
    assert list(file.volatile_spans()) == [(0, 2 * P)]
    assert file.read(P, 3 * P) == b"b" + bytes(3 * P - 1)


def test_rule_7_truncate_in_a_purged_page_leaves_it_purged(file: File) -> None:
    file.mark(0, 0, 0)
    file.purge()
    file.truncate(P + 1)
    assert list(file.purged_spans()) == [(0, P + 1)]
    assert file.unmark(0, 0) == P + 1


def test_rule_7_growing_adds_nothing(file: File) -> None:
    file.mark(0, 0, 0)
    file.truncate(6 * P)
    file.write(6 * P, b"x")
    assert list(file.volatile_spans()) == [(0, 4 * P)]


def test_rule_7_a_punched_page_is_zero_intact_and_still_volatile(file: File) -> None:
    file.mark(0, 0, 0)
    file.purge(P, 2 * P)
    file.punch_hole(P, P)
    assert file.read(P, P) == ZEROS
    assert list(file.purged_spans()) == [(2 * P, P)]
    assert list(file.volatile_spans()) == [(0, 4 * P)]


def test_rule_7_punching_part_of_a_purged_page_leaves_it_purged(file: File) -> None:
    file.mark(0, 0, 0)
    file.purge(P, P)
    file.punch_hole(P + 1, 10)
    assert file.unmark(0, 0) == P


def test_rule_7_a_hole_within_pages_is_zero_and_frees_none(file: File) -> None:
    file.punch_hole(P - 1, P + 2)
    assert file.read(0, 3 * P) == b"a" * (P - 1) + bytes(P + 2) + b"c" * (P - 1)
    assert file.memory.resident == 3


def test_rule_7_zero_range_is_as_a_hole_but_holds_memory(file: File) -> None:
    file.mark(0, 0, 0)
    file.purge(P, P)
    file.zero_range(P, 4 * P, keep_size=True)
    assert file.size == 4 * P
    assert list(file.purged_spans()) == []
    assert file.read(P, 3 * P) == bytes(3 * P)
    assert file.memory.resident == 5
    file.zero_range(5 * P, 1, keep_size=False)
    assert file.size == 5 * P + 1


def test_allocate_leaves_data_and_purged_pages_alone(file: File) -> None:
    file.mark(0, 0, 0)
    file.purge(P, P)
    file.allocate(0, 6 * P, keep_size=True)
    assert file.size == 4 * P
    assert file.intact(0, 2, 3)
    assert list(file.purged_spans()) == [(P, P)]
    assert file.memory.resident == 5
    file.allocate(0, 6 * P, keep_size=False)
    assert file.read(4 * P, 2 * P) == 2 * ZEROS


def test_memory_beyond_the_end_of_file_is_freed_by_truncate(file: File) -> None:
    file.allocate(4 * P, 2 * P, keep_size=True)
    file.truncate(4 * P)
    assert file.memory.resident == 4


def test_rule_7_purged_pages_are_holes() -> None:
    file = File(5)
    file.write(5 * P, b"tail")
    file.mark(P, 2 * P, VRANGE_ZERO)
    file.purge()
    file.write(P + 1, b"x")
    assert file.seek(0, os.SEEK_HOLE) == P
    assert file.seek(P + 5, os.SEEK_HOLE) == P + 5
    assert file.seek(P + 5, os.SEEK_DATA) == 3 * P
    assert file.seek(3 * P, os.SEEK_HOLE) == 5 * P + 4
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        fails(errno.ENXIO, file.seek, 5 * P + 4, whence)
    file.truncate(8 * P)
    fails(errno.ENXIO, file.seek, 6 * P, os.SEEK_DATA)


# ---- rule 8: purging ----


def test_rule_8_a_forced_purge_is_page_exact(file: File) -> None:
    file.mark(0, 0, 0)
    file.purge(P + 1, 2 * P)
    assert list(file.purged_spans()) == [(2 * P, P)]
    assert file.intact(0, 1, 3)
    assert (file.memory.resident, file.memory.purged, file.memory.purged_ever) == (3, 1, 1)


def test_rule_8_what_is_not_volatile_is_never_dropped(file: File) -> None:
    file.mark(P, P, 0)
    file.purge()
    assert file.intact(0, 2, 3)
    assert list(file.purged_spans()) == [(P, P)]


def test_rule_8_a_mark_made_after_the_decision_belongs_to_the_next_purge(file: File) -> None:
    file.mark(0, P, 0)
    newest = file.memory.newest_age
    file.mark(P, P, 0)
    file.end_purge(file.begin_purge([PageSpan(0, 4)], newest))
    assert list(file.purged_spans()) == [(0, P)]
    assert file.intact(1, 2, 3)


# ---- rules 10 and 11: the kernel's copy ----


@pytest.mark.parametrize("behavior", [0, VRANGE_ZERO])
def test_rule_11_what_is_written_back_during_a_purge_is_discarded(behavior: int) -> None:
    file = File(2)
    file.mark(0, P, behavior)
    drain = file.begin()
    file.write_back(0, b"old" * P)
    assert file.memory.resident == 1
    file.end_purge(drain)
    assert file.unmark(0, 0) == P
    assert file.read(0, 2 * P) == ZEROS + (b"old" * P)[P : 2 * P]


def test_rule_11_a_hole_is_neither_purged_nor_reported() -> None:
    file = File()
    file.truncate(2 * P)
    file.mark(0, 0, 0)
    file.purge()
    assert list(file.purged_spans()) == []
    assert file.read(0, 2 * P) == 2 * ZEROS
    assert file.unmark(0, 0) == 0


def test_rule_11_a_page_dirty_in_the_kernel_alone_is_no_hole() -> None:
    file = File()
    file.truncate(2 * P)
    file.mark(0, 0, 0)
    drain = file.begin()
    file.write_back(P, b"x" * P)
    file.end_purge(drain)
    assert list(file.purged_spans()) == [(P, P)]
    assert (file.memory.resident, file.memory.purged, file.memory.purged_ever) == (0, 1, 1)


def test_a_page_rewritten_during_a_purge_is_not_stale_any_more(file: File) -> None:
    file.mark(0, 0, 0)
    first, second = file.begin(), file.begin(0, P)
    file.write(0, b"n" * P)
    file.write_back(0, b"m" * P)
    assert file.read(0, P) == b"m" * P
    file.end_purge(first)
    file.end_purge(second)
    assert file.unmark(0, P) == 0


def test_purges_overlap_and_each_ends_for_itself(file: File) -> None:
    file.mark(0, 0, 0)
    first, second = file.begin(0, 2 * P), file.begin(P, 2 * P)
    file.end_purge(first)
    assert not file.draining(PageSpan(0, 1))
    assert file.draining(PageSpan(1, 3))
    file.end_purge(first)
    file.end_purge(second)
    assert not file.draining(PageSpan(0, 4))


def test_a_file_cut_and_grown_during_a_purge_starts_anew(file: File) -> None:
    file.mark(0, 0, VRANGE_ZERO)
    drain = file.begin()
    file.truncate(0)
    file.truncate(P)
    file.write_back(0, b"n" * P)
    file.end_purge(drain)
    assert file.read(0, P) == b"n" * P
    assert list(file.purged_spans()) == []


# ---- lost (section 5) ----


def test_lost_is_what_an_unmark_by_xattr_found_purged(file: File) -> None:
    file.mark(0, 0, 0)
    file.purge(P, 2 * P)
    file.unmark(2 * P, 0)
    file.unmark(0, 0, record_lost=True)
    assert list(file.lost_spans()) == [(P, P)]


def test_lost_is_forgotten_when_rewritten_punched_or_truncated_whole() -> None:
    file = File(5)
    file.mark(0, 0, 0)
    file.purge()
    file.unmark(0, 0, record_lost=True)
    file.write(0, b"x" * (P + 1))
    file.write_back(P, b"y" * P)
    file.punch_hole(2 * P, P + 1)
    file.truncate(4 * P)
    assert list(file.lost_spans()) == [(P, P), (3 * P, P)]


def test_lost_outlives_another_mark_and_purge(file: File) -> None:
    file.mark(0, P, 0)
    file.purge()
    file.unmark(0, 0, record_lost=True)
    file.mark(0, 0, 0)
    file.purge()
    file.unmark(0, 0)
    assert list(file.lost_spans()) == [(0, P)]


# ---- NEXT ----


def every_run(file: File) -> list[Run]:
    found: list[Run] = []
    start = 0
    while True:
        try:
            run = file.next_run(start)
        except SyscallError as error:
            assert error.errno == errno.ENXIO
            return found
        assert run.start + run.length > start, "NEXT does not come to an end"
        start = run.start + run.length
        found.append(run)


def test_next_lists_runs_of_one_range_and_one_state() -> None:
    file = File(6)
    file.write(6 * P, b"tail")
    file.mark(P, 3 * P, VRANGE_ZERO)
    file.mark(4 * P, 0, VRANGE_PARTIAL)
    file.purge(2 * P, 3 * P)
    assert every_run(file) == [
        (P, P, VRANGE_ZERO, 1),
        (2 * P, 2 * P, VRANGE_ZERO, 3),
        (4 * P, P, VRANGE_PARTIAL, 3),
        (5 * P, P + 4, VRANGE_PARTIAL, 1),
    ]


def test_next_gives_the_whole_run_from_within(file: File) -> None:
    file.mark(0, 0, 0)
    file.purge(0, P)
    assert file.next_run(3 * P + 7) == (P, 3 * P, 0, 1)
    assert file.next_run(P - 1) == (0, P, 0, 3)


@pytest.mark.parametrize("start", [P + 4, P + 5, 2 * P, 1 << 63])
def test_next_is_over_at_the_end_of_a_file_in_part_of_a_page(start: int) -> None:
    file = File(1)
    file.write(P, b"tail")
    file.mark(0, 0, 0)
    assert file.next_run(P + 3) == (0, P + 4, 0, 1)
    fails(errno.ENXIO, file.next_run, start)


# ---- ENOSPC ----


def test_a_write_stores_what_there_is_room_for() -> None:
    file = File(2, size=3)
    assert file.write(P, b"x" * 3 * P) == 2 * P
    assert file.size == 3 * P
    fails(errno.ENOSPC, file.write, 3 * P, b"x")
    assert file.write(5, b"resident pages cost nothing") == 27
    file.check()


def test_without_room_nothing_changes() -> None:
    file = File(2, size=3)
    file.truncate(6 * P)
    file.mark(0, 0, 0)
    file.purge(0, P)
    file.allocate(4 * P, P, keep_size=True)
    before = (set(file.resident), list(file.purged_spans()), file.size, file.read(P, 5 * P))
    fails(errno.ENOSPC, file.allocate, 2 * P, 4 * P, keep_size=False)
    fails(errno.ENOSPC, file.zero_range, P, 8 * P, keep_size=False)
    assert (set(file.resident), list(file.purged_spans()), file.size, file.read(P, 5 * P)) == before
    file.write(2 * P, b"y" * P)
    fails(errno.ENOSPC, file.write, 0, b"y" * P)
    assert list(file.purged_spans()) == [(0, P)]
    file.check()


def test_a_write_back_may_exceed_the_size_while_something_can_give_way() -> None:
    """Its pages hold memory already, in the kernel: refused, they would be lost."""
    file = File(2, size=2)
    file.truncate(4 * P)
    fails(errno.ENOSPC, file.write_back, 2 * P, b"y" * P)
    assert file.read(2 * P, P) == ZEROS
    file.mark(0, P, 0)
    file.write_back(2 * P, b"y" * P)
    assert file.read(2 * P, P) == b"y" * P
    assert (file.memory.resident, file.memory.room) == (3, 0)
    file.purge()
    fails(errno.ENOSPC, file.write_back, 3 * P, b"y" * P)
    file.check()


def test_no_file_is_larger_than_its_pages_can_be_numbered(file: File) -> None:
    end = MAX_BYTES
    for size in (end + 1, 1 << 62, 1 << 63):
        fails(errno.EFBIG, file.truncate, size)
        fails(errno.EFBIG, file.allocate, P, size - P, keep_size=True)
        fails(errno.EFBIG, file.zero_range, P, size - P, keep_size=False)
        fails(errno.EFBIG, file.write, size, b"x")
    assert file.size == 4 * P
    assert file.intact(0, 1, 2, 3)
    assert file.write(end - P - 1, b"x" * 2 * P) == P + 1
    assert file.size == end
    assert file.read(end - 1, 2) == b"x"
    fails(errno.EFBIG, file.write, end, b"x")


def test_the_largest_file_obeys_the_same_rules() -> None:
    file = File(1)
    file.write(MAX_BYTES - 2 * P, b"x" * 2 * P)
    file.mark(1, 0, 0)
    file.purge()
    assert list(file.purged_spans()) == [(MAX_BYTES - 2 * P, 2 * P)]
    assert every_run(file) == [
        (P, MAX_BYTES - 3 * P, 0, 1),
        (MAX_BYTES - 2 * P, 2 * P, 0, 3),
    ]
    assert file.seek(0, os.SEEK_HOLE) == P
    fails(errno.ENXIO, file.seek, P, os.SEEK_DATA)
    file.punch_hole(MAX_BYTES - P, 1 << 62)
    assert file.unmark(0, 0) == P
    assert file.intact(0)
    fails(errno.ENOSPC, file.allocate, 0, MAX_BYTES, keep_size=True)
    file.truncate(0)
    file.check()
    assert file.memory.resident == file.memory.volatile == file.memory.purged == 0


def test_a_purge_makes_room() -> None:
    file = File(2, size=2)
    fails(errno.ENOSPC, file.write, 2 * P, b"x")
    file.mark(0, P, 0)
    file.purge()
    assert file.write(2 * P, b"x") == 1


@pytest.mark.parametrize("credit", [0, 1, P, P + 1, 2 * P])
@pytest.mark.parametrize("call", [File.write, File.write_back])
def test_a_store_that_fails_midway_leaves_a_consistent_state(
    credit: int, call: Callable[[File, int, bytes], object]
) -> None:
    """What is not resident holds nothing, what was purged is purged, what was beyond is beyond."""
    file = File(1)
    file.truncate(4 * P)
    file.mark(0, 0, VRANGE_ZERO)
    file.purge()
    file.fake.credit = credit
    fails(errno.ENOSPC, call, file, P, b"x" * 3 * P)
    file.fake.credit = None
    file.check()
    assert set(file.fake.pages) == set(file.resident)
    assert len(file.resident) == file.memory.resident
    assert file.size == 4 * P
    assert list(file.purged_spans()) == [(0, P)]
    for page in range(4):
        assert (file.read(page * P, P) == ZEROS) == (page not in file.resident)


def test_a_failed_store_over_resident_pages_keeps_them_resident() -> None:
    file = File(2)
    file.mark(0, 0, 0)
    file.fake.credit = 10
    fails(errno.ENOSPC, file.write, 0, b"x" * 3 * P)
    assert (file.size, file.memory.resident) == (2 * P, 2)
    assert file.read(10, 2 * P - 10) == b"a" * (P - 10) + b"b" * P
    assert set(file.fake.pages) == {0, 1}


@pytest.mark.parametrize("credit", [0, P, 2 * P])
def test_an_allocation_that_fails_midway_leaves_a_consistent_state(credit: int) -> None:
    """Of the missing pages 1, 3 and 4 none, one or two can be had."""
    file = File(1)
    file.write(2 * P, b"c")
    file.fake.credit = credit
    fails(errno.ENOSPC, file.allocate, 0, 5 * P, keep_size=False)
    file.check()
    assert file.size == 2 * P + 1
    assert set(file.fake.pages) == set(file.resident)
    assert len(file.resident) == file.memory.resident
    assert file.intact(0)


def test_a_closed_file_gives_everything_back(file: File) -> None:
    file.mark(0, 0, 0)
    drain = file.begin(0, P)
    file.close()
    file.end_purge(drain)
    memory = file.memory
    assert (memory.resident, memory.volatile, memory.purged, len(memory.queue)) == (0, 0, 0, 0)
    assert not file.fake.pages
