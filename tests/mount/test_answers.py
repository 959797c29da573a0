"""READ is answered in several ways, by size and place: each gives the bytes of the file."""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.errnos import errno_of
from tests.support.files import fallocate
from tests.support.fvrange import PAGE
from tests.support.mount import Mount

KIB, MIB = 1 << 10, 1 << 20
CHUNK = 16 * MIB
"""Of the store (vfs_volatile/store/arena.py): what crosses its border is no one piece."""
SIZE = CHUNK + 2 * MIB + 123
HOLE = 5 * MIB
"""Where a hole of 1 MiB begins."""
SIZES = [PAGE, 60 * KIB, 64 * KIB, 68 * KIB, 256 * KIB, 512 * KIB, 516 * KIB, MIB]
"""Around those where the way changes (vfs_volatile/native/data.c)."""


@pytest.fixture(scope="module")
def data() -> bytes:
    """What the file holds: no two pages are alike."""
    made = bytearray(random.Random(7).randbytes(SIZE))
    made[HOLE : HOLE + MIB] = bytes(MIB)
    return bytes(made)


@pytest.fixture
def direct(fs: Mount, data: bytes) -> Iterator[int]:
    """The file, by a descriptor whose reads become READs of the same size (O_DIRECT)."""
    with fs.path.joinpath("file").open("wb") as file:
        file.write(data)
        file.flush()
        fallocate(file.fileno(), 3, HOLE, MIB)
    fd = os.open(fs.path / "file", os.O_RDWR | os.O_DIRECT)
    yield fd
    os.close(fd)


def reading(fd: int, offset: int, size: int) -> bytes:
    """What one preadv(2) into memory that O_DIRECT takes gives."""
    with mmap.mmap(-1, size) as buffer:
        return buffer[: os.preadv(fd, [buffer], offset)]


@pytest.mark.parametrize("size", SIZES)
def test_every_size_at_every_kind_of_place(direct: int, data: bytes, size: int) -> None:
    for offset in (
        0,
        3 * PAGE,
        HOLE - PAGE,  # into a hole
        HOLE,
        HOLE + MIB - PAGE,  # out of it
        CHUNK - size,
        CHUNK - PAGE,
        CHUNK,
        SIZE // PAGE * PAGE,  # the last, partial page
        (SIZE - size) // PAGE * PAGE,
    ):
        found = reading(direct, offset, size)
        assert found == data[offset : offset + size], f"{size} bytes at {offset}"
    assert reading(direct, SIZE + PAGE - SIZE % PAGE, size) == b"", "beyond the end of file"


@pytest.mark.parametrize("size", SIZES)
def test_no_way_serves_a_purged_page(fs: Mount, direct: int, data: bytes, size: int) -> None:
    """Nor does a page that was purged shorten what lies apart from it."""
    file = fs.open("file")
    page = HOLE - 4 * MIB
    file.mark(page, PAGE)
    file.purge(page, PAGE)
    for offset in {page, page - size + PAGE, page - size // 2 // PAGE * PAGE}:
        assert errno_of(reading, direct, offset, size) == "ENODATA"
    assert reading(direct, page - size, size) == data[page - size : page]
    assert reading(direct, page + PAGE, size) == data[page + PAGE : page + PAGE + size]


def held_by(daemon: int) -> int:
    """Bytes of memory that the daemon's store holds."""
    for fd in Path(f"/proc/{daemon}/fd").iterdir():
        if str(fd.readlink()).startswith("/memfd:vfs-volatile"):
            return fd.stat().st_blocks * 512
    raise LookupError("the daemon has no store")


def test_reading_a_hole_gives_it_no_memory(fs: Mount, direct: int) -> None:
    before = held_by(fs.process.pid)
    for size in SIZES:
        assert reading(direct, HOLE, size) == bytes(size)
    assert held_by(fs.process.pid) <= before
