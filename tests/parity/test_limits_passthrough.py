"""Rows of ``docs/limits.md`` that do not hold on the passthrough path: there all is as on tmpfs."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest

from tests.parity import test_limits, test_limits_fuse, test_limits_times  # noqa: F401  # fill it
from tests.parity.calls import cachestat, mincore
from tests.parity.limits import SCENES
from tests.parity.sides import Sides, attempt, made, opened
from tests.support.files import FALLOC_FL_KEEP_SIZE as KEEP_SIZE
from tests.support.files import FALLOC_FL_PUNCH_HOLE as PUNCH_HOLE
from tests.support.files import fallocate


@pytest.mark.parametrize(
    "row",
    [
        "loading a hole through a mapping",
        "userfaultfd",
        "truncating and the page cache",
        "atime of cached reads",
        "atime of `mmap`",
        "times and blocks after a store",
        "a store beyond the end of file",
        "a store when the mount is full",
    ],
)
def test_as_on_tmpfs(sides: Sides, row: str) -> None:
    scene = SCENES[row]
    assert scene(sides.ours) == scene(sides.tmpfs)


def test_pages_in_the_cache(sides: Sides) -> None:
    """The one call that looks for them in the wrong file (docs/data-paths.md)."""

    def seen(here: Path) -> tuple[int, int]:
        with opened(made(here / "file", b"x" * 4096)) as fd, mmap.mmap(fd, 4096) as shared:
            return cachestat(fd), mincore(ctypes.addressof(ctypes.c_char.from_buffer(shared)), 1)[0]

    assert seen(sides.ours) == (0, 1)
    assert seen(sides.tmpfs) == (1, 1)


def test_data_beyond_what_can_be_marked(sides: Sides) -> None:
    """write(2) makes such a file without asking us; all other ways of growing are EFBIG."""
    far = (16 << 40) + (1 << 20)

    def seen(here: Path) -> list[object]:
        with opened(here / "larger") as fd:
            written = [attempt(os.pwrite, fd, b"x" * 8192, at) for at in (far, (16 << 40) - 4096)]
            read = [os.pread(fd, 2, at) for at in (far, far + 4096, 16 << 40)]
            punched = attempt(fallocate, fd, PUNCH_HOLE | KEEP_SIZE, (16 << 40) - 4096, far)
            left = [os.pread(fd, 2, at) for at in (far, far + 4096, 16 << 40)]
            cut = [attempt(os.ftruncate, fd, size) for size in (16 << 40, 0)]
            return [written, read, punched, left, cut, os.fstat(fd).st_blocks]

    assert seen(sides.ours) == seen(sides.tmpfs)


def test_growing_otherwise(sides: Sides) -> None:
    with opened(sides.ours / "large") as fd:
        os.pwrite(fd, b"x", 1 << 44)
        assert attempt(os.ftruncate, fd, (1 << 44) + 2) == "EFBIG"
        assert attempt(fallocate, fd, 0, 1 << 44, 4096) == "EFBIG"


def test_seeking_beyond_what_can_be_marked(sides: Sides) -> None:
    """A file may be larger than 16 TiB here, and a copy that skips holes has to find all data."""
    far = (16 << 40) + (1 << 20)

    def seen(here: Path) -> list[object]:
        with opened(here / "large") as fd:
            os.pwrite(fd, b"x" * 4096, 0)
            os.pwrite(fd, b"x" * 4096, far)
            os.pwrite(fd, b"x", far + (1 << 20))
            offsets = (0, 4096, far - 1, far, far + 1, far + 4096, far + (1 << 20) + 1)
            return [
                attempt(os.lseek, fd, offset, whence)
                for offset in offsets
                for whence in (os.SEEK_DATA, os.SEEK_HOLE)
            ]

    assert seen(sides.ours) == seen(sides.tmpfs)
