"""Reading, writing and changing a file with purged pages: rules 4 to 7.

Rule numbers are those of "Semantics of ranges".
"""

from __future__ import annotations

import errno
import os

import pytest

from tests.support.space import ZEROS, File, P, fails, sought
from vfs_volatile.abi.ioctls import VRANGE_SIGBUS, VRANGE_ZERO


@pytest.fixture
def file() -> File:
    """Four pages of data."""
    return File(4)


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
    assert file.memory.resident == 3
    file.check()


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
    assert sought(file, 0, os.SEEK_HOLE) == P
    assert sought(file, P + 5, os.SEEK_HOLE) == P + 5
    assert sought(file, P + 5, os.SEEK_DATA) == 3 * P
    assert sought(file, 3 * P, os.SEEK_HOLE) == 5 * P + 4
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        fails(errno.ENXIO, sought, file, 5 * P + 4, whence)
    file.truncate(8 * P)
    fails(errno.ENXIO, sought, file, 6 * P, os.SEEK_DATA)
