"""Rows of large writes, whose data the kernel lends (native/receiving.c)."""

from __future__ import annotations

import mmap
import os
import random

import pytest

from tests.support.errnos import errno_of
from tests.support.files import VFile
from tests.support.fvrange import PAGE, ZERO, pages
from tests.support.mount import Mount, MountFactory

MIB = 1 << 20
CHUNK = 16 * MIB
"""Of the store: where a write crosses its border it is stored in two parts."""


def stamped(size: int, number: int) -> bytes:
    """Bytes of which each page differs from those before and from those of other numbers."""
    return b"".join(
        number.to_bytes(4, "little") * 2 + page.to_bytes(8, "little") * (PAGE // 8 - 1)
        for page in range(-(-size // PAGE))
    )[:size]


def test_what_is_written_is_there_wherever_it_goes(fs: Mount) -> None:
    file = fs.open("file")
    expected = bytearray(CHUNK + 8 * MIB)
    draw = random.Random(1)
    for number in range(60):
        size = draw.choice([MIB, MIB // 2, draw.randrange(MIB // 4, 2 * MIB), draw.randrange(9000)])
        start = draw.choice([CHUNK - size // 2, draw.randrange(len(expected) - size)])
        start -= draw.choice([0, start % PAGE])
        data = stamped(size, number)
        assert os.pwrite(file.fd, data, start) == size
        expected[start : start + size] = data
        if number % 7 == 0:
            assert os.listdir(fs.path) == ["file"]  # another request in between
    file.cool()
    size = os.fstat(file.fd).st_size
    found = b"".join(os.pread(file.fd, MIB, at) for at in range(0, size, MIB))
    assert found == expected[:size]


def large_writes(file: VFile, times: int, size: int = MIB) -> None:
    """Times of them, so that what comes next is lent."""
    for number in range(times):
        assert os.pwrite(file.fd, stamped(size, number), number * size) == size


def test_a_purged_page_ends_a_write_that_covers_it_in_part(fs: Mount) -> None:
    file = fs.open("file")
    large_writes(file, 4)
    file.mark()
    file.purge(*pages(500, 1))
    large_writes(fs.open("other"), 2)
    assert os.pwrite(file.fd, stamped(2 * MIB, 9), 0) == 2 * MIB, "covered whole"
    file.purge(*pages(500, 1))
    large_writes(fs.open("other"), 2)
    short = 500 * PAGE
    assert os.pwrite(file.fd, stamped(short + 10, 9), 0) == short
    assert errno_of(os.pwrite, file.fd, b"x" * 10, short) == "ENODATA"
    assert file.unmark() == PAGE


@pytest.mark.parametrize("fill", [4 * MIB, 4 * MIB + 3 * PAGE])
def test_a_full_mount_takes_what_fits(mount: MountFactory, fill: int) -> None:
    full = mount(size=str(fill))
    file = full.open("file")
    large_writes(file, 3)
    stored = 3 * MIB
    while stored < fill:
        stored += os.pwrite(file.fd, stamped(MIB, stored // MIB), stored)
    assert stored == fill
    assert errno_of(os.pwrite, file.fd, stamped(MIB, 9), stored) == "ENOSPC"
    file.cool()
    assert os.pread(file.fd, MIB, 3 * MIB) == stamped(MIB, 3)
    assert full.resident == fill


def test_volatile_pages_give_way_to_what_is_lent(mount: MountFactory) -> None:
    small = mount(size=str(8 * MIB), budget=str(8 * MIB))
    old, new = small.open("old"), small.open("new")
    large_writes(old, 5)
    old.mark()
    large_writes(new, 7)
    new.cool()
    for number in range(7):
        assert os.pread(new.fd, MIB, number * MIB) == stamped(MIB, number)
    assert old.unmark() == 5 * MIB


def test_what_a_purge_finds_dirty_in_the_kernel_is_not_stored(fs: Mount) -> None:
    """It comes in large WRITEs too, and is older than the purge."""
    for behavior in (0, ZERO):
        file = fs.open(f"file{behavior}")
        os.ftruncate(file.fd, 8 * MIB)
        with mmap.mmap(file.fd, 8 * MIB) as memory:
            memory[:] = b"m" * 8 * MIB
            file.mark(behavior=behavior)
            file.purge()
            assert fs.resident == 0
            assert file.unmark() == 8 * MIB
            assert memory[:] == bytes(8 * MIB)
        assert fs.resident == 0


def test_what_a_mapping_stored_is_written_back(fs: Mount) -> None:
    file = fs.open("file")
    os.ftruncate(file.fd, 8 * MIB)
    data = stamped(8 * MIB, 1)
    with mmap.mmap(file.fd, 8 * MIB) as memory:
        memory[:] = data
        memory.flush()
    file.cool()
    assert b"".join(os.pread(file.fd, MIB, at) for at in range(0, 8 * MIB, MIB)) == data
