"""Files without room: ENOSPC, a store that fails midway, the largest file, closing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from tests.support.space import ZEROS, File, P, fails, refused, sought
from vfs_volatile.abi.ioctls import VRANGE_ZERO
from vfs_volatile.core.pages import CHUNK_PAGES, MAX_BYTES


@pytest.fixture
def file() -> File:
    """Four pages of data."""
    return File(4)


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


def test_zeroing_above_the_size_needs_no_more_room() -> None:
    file = File(2, size=2)
    file.truncate(4 * P)
    file.mark(0, P, 0)
    file.write_back(2 * P, b"y" * P)
    file.zero_range(0, 2 * P, keep_size=True)
    assert file.read(0, 3 * P) == 2 * ZEROS + b"y" * P
    assert file.memory.resident == 3
    fails(errno.ENOSPC, file.zero_range, P, 3 * P, keep_size=True)
    assert file.read(2 * P, P) == b"y" * P
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
    assert file.every_run() == [
        (P, MAX_BYTES - 3 * P, 0, 1),
        (MAX_BYTES - 2 * P, 2 * P, 0, 3),
    ]
    assert sought(file, 0, os.SEEK_HOLE) == P
    fails(errno.ENXIO, sought, file, P, os.SEEK_DATA)
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
    """What is not resident holds nothing, what was purged is purged, what was beyond is beyond.

    A write is short then, in whole pages.
    """
    file = File(1)
    file.truncate(4 * P)
    file.mark(0, 0, VRANGE_ZERO)
    file.purge()
    file.fake.credit = credit
    if call is File.write and credit >= P:
        assert file.write(P, b"x" * 3 * P) == credit // P * P
    else:
        refused(errno.ENOMEM, call, file, P, b"x" * 3 * P)
    assert len(file.resident) == credit // P
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
    refused(errno.ENOMEM, file.write, 0, b"x" * 3 * P)
    assert (file.size, file.memory.resident) == (2 * P, 2)
    assert file.read(10, 2 * P - 10) == b"a" * (P - 10) + b"b" * P
    assert set(file.fake.pages) == {0, 1}


@pytest.mark.parametrize("credit", [0, P, 2 * P])
def test_an_allocation_that_fails_midway_leaves_a_consistent_state(credit: int) -> None:
    """Of the missing pages 1, 3 and 4 none, one or two can be had."""
    file = File(1)
    file.write(2 * P, b"c")
    file.fake.credit = credit
    refused(errno.ENOMEM, file.allocate, 0, 5 * P, keep_size=False)
    refused(errno.ENOMEM, file.zero_range, 0, 5 * P, keep_size=False)
    file.check()
    assert file.size == 2 * P + 1
    assert set(file.resident) == {0, 2}
    assert set(file.fake.pages) == set(file.resident)
    assert len(file.resident) == file.memory.resident
    assert file.intact(0)


# ---- memory that cannot be freed ----

FAR = CHUNK_PAGES * P
"""Where another chunk begins: of two the store may free one and not the other."""


def spread() -> File:
    """Volatile pages in two chunks, the one in the second purged and stored in part since."""
    file = File(2)
    file.write(FAR, b"far")
    file.mark(0, 0, VRANGE_ZERO)
    file.purge(FAR, 0)
    file.write(FAR + 1, b"ew")
    return file


def state(file: File) -> tuple[object, ...]:
    memory = file.memory
    kept = (set(file.resident), set(file.fake.pages), file.read(0, 2 * P), file.read(FAR, 3))
    counts = (memory.resident, memory.volatile, memory.purged, len(memory.queue))
    return (*kept, counts, file.size, file.every_run())


@pytest.mark.parametrize(
    "call",
    [
        lambda file: file.truncate(P + 1),
        lambda file: file.punch_hole(1, 3 * P),
        lambda file: file.unmark(0, 0, record_lost=True),
        lambda file: file.unmark_many([0, FAR], [P, P]),
    ],
)
def test_what_cannot_be_freed_changes_nothing(call: Callable[[File], object]) -> None:
    file = spread()
    before = state(file)
    file.fake.frees = 0
    refused(errno.EIO, call, file)
    file.fake.frees = None
    assert state(file) == before
    file.check()
    call(file)
    file.check()


@pytest.mark.parametrize("frees", [0, 1])
def test_a_purge_that_cannot_free_a_page_ends_there(frees: int) -> None:
    """What has gone is purged, what is kept is intact."""
    file = spread()
    file.unmark(FAR, 0)
    file.write(FAR, b"new")
    file.mark(0, 0, 0)
    file.fake.frees = frees
    drain = file.begin()
    assert drain.refused is not None
    file.fake.frees = None
    file.end_purge(drain)
    assert file.purged_bytes(0, 0) == drain.dropped * P == 2 * P * frees
    assert file.read(FAR, 3) == b"new"
    file.check()
    file.purge()
    assert file.unmark(0, 0) == 2 * P + 3


def test_a_closed_file_gives_everything_back(file: File) -> None:
    file.mark(0, 0, 0)
    drain = file.begin(0, P)
    file.close()
    file.end_purge(drain)
    memory = file.memory
    assert (memory.resident, memory.volatile, memory.purged, len(memory.queue)) == (0, 0, 0, 0)
    assert not file.fake.pages
