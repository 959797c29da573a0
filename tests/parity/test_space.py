"""Sizes, holes, allocation, and a full mount."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from tests.parity.content import PAGE, holes, whole
from tests.parity.sides import (
    USER,
    as_user,
    attempt,
    in_child,
    is_empty,
    look,
    made,
    on_both,
    opened,
    try_open,
)
from tests.support.files import fallocate

TERA = 1 << 40
KEEP = 1
PUNCH = 2 | KEEP
COLLAPSE = 8
INSERT = 32
UNSHARE = 64


@on_both
def test_truncate(here: Path) -> Iterator[object]:
    """What is cut off and uncovered again reads as zeros."""
    with opened(here / "file") as fd:
        os.pwrite(fd, b"x" * 4 * PAGE, 0)
        for size in (3 * PAGE + 5, 4 * PAGE, 2 * PAGE, 2 * PAGE, PAGE - 1, 5 * PAGE, 0, 1, 0):
            os.ftruncate(fd, size)
            yield size, look(fd), whole(fd)
        os.pwrite(fd, b"y" * 100, 0)
        os.truncate(here / "file", 50)
        os.pwrite(fd, b"z", 200)
        yield whole(fd), attempt(os.ftruncate, fd, -1)
        with opened(here / "file", os.O_RDWR | os.O_TRUNC):
            yield look(fd), whole(fd)


@on_both
def test_fallocate(here: Path) -> Iterator[object]:
    modes = (0, KEEP, PUNCH, 2, COLLAPSE, INSERT, UNSHARE, 128, COLLAPSE | KEEP)
    spans = ((0, PAGE), (100, 50), (PAGE - 1, 2), (PAGE, 2 * PAGE), (3 * PAGE + 1, 3 * PAGE),
             (20 * PAGE, 5), (0, 0), (-1, 5), (5, -1), ((1 << 63) - 1, 1),
             (1 << 62, 1 << 62))  # fmt: skip
    for mode, (start, length) in product(modes, spans):
        with opened(here / f"{mode}.{start}.{length}") as fd:
            os.pwrite(fd, b"x" * 3 * PAGE + b"tail", 0)
            os.ftruncate(fd, 6 * PAGE + 10)
            yield mode, start, length, attempt(fallocate, fd, mode, start, length)
            yield look(fd), whole(fd)


@on_both
def test_a_page_punched_in_part_is_kept(here: Path) -> Iterator[object]:
    """Also when the part reaches to the end of file, or lies beyond it."""
    for size, start, length in ((100, 0, 100), (100, 50, 60), (0, 0, 1), (PAGE + 1, PAGE, 2)):
        with opened(here / f"{size}.{start}") as fd:
            os.pwrite(fd, b"x" * size, 0)
            fallocate(fd, KEEP, 0, 2 * PAGE)
            yield size, start, length, attempt(fallocate, fd, PUNCH, start, length)
            yield look(fd), whole(fd)


@on_both
def test_memory_beyond_the_end(here: Path) -> Iterator[object]:
    """Allocated by FALLOC_FL_KEEP_SIZE: counted, zero when the file grows over it."""
    with opened(here / "file") as fd:
        os.pwrite(fd, b"x", 0)
        fallocate(fd, KEEP, 0, 8 * PAGE)
        yield look(fd)
        os.pwrite(fd, b"y", 6 * PAGE)
        yield look(fd), whole(fd)
        fallocate(fd, PUNCH, 7 * PAGE, PAGE)
        yield look(fd)
        os.ftruncate(fd, 7 * PAGE)
        yield look(fd)
        os.ftruncate(fd, 6 * PAGE)
        yield look(fd)


@on_both
def test_holes(here: Path) -> Iterator[object]:
    with opened(here / "file") as fd:
        yield holes(fd)
        os.ftruncate(fd, 3 * PAGE + 5)
        yield holes(fd)
        os.pwrite(fd, b"x", PAGE)
        yield holes(fd), look(fd)
        os.pwrite(fd, b"x" * PAGE, 5 * PAGE)
        os.pwrite(fd, bytes(PAGE), 7 * PAGE)
        yield holes(fd), look(fd)
        fallocate(fd, PUNCH, 5 * PAGE + 1, PAGE)
        yield holes(fd), look(fd)
        fallocate(fd, PUNCH, 5 * PAGE, PAGE)
        yield holes(fd), look(fd)
        os.ftruncate(fd, PAGE + 1)
        yield holes(fd), look(fd)
        os.ftruncate(fd, 0)
        yield holes(fd), look(fd)


@on_both
def test_sparse_files_of_terabytes(here: Path) -> Iterator[object]:
    with opened(here / "file") as fd:
        for tera in (1, 2, 15):
            yield os.pwrite(fd, b"x" * 10, tera * TERA), look(fd)
            yield os.pread(fd, 20, tera * TERA - 5), os.lseek(fd, 0, os.SEEK_DATA)
            yield os.lseek(fd, tera * TERA, os.SEEK_HOLE), attempt(os.lseek, fd, 0, os.SEEK_HOLE)
            fallocate(fd, PUNCH, tera * TERA, PAGE)
            yield look(fd), attempt(os.lseek, fd, 0, os.SEEK_DATA)
        largest = 16 * TERA
        for size in (largest - 2 * PAGE, largest - PAGE, largest):
            yield size, attempt(os.ftruncate, fd, size), look(fd)
            yield attempt(os.pwrite, fd, b"ab", size - 2), attempt(os.pread, fd, 9, size - 2)
            yield look(fd), attempt(os.lseek, fd, 0, os.SEEK_DATA)
        yield attempt(os.ftruncate, fd, 5), look(fd), whole(fd)


@on_both
def test_the_limit_on_file_size(here: Path) -> Iterator[object]:
    """RLIMIT_FSIZE: a write that crosses it is short, then EFBIG and SIGXFSZ."""

    def child() -> list[object]:
        signal.signal(signal.SIGXFSZ, lambda *_: seen.append("SIGXFSZ"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE, PAGE))
        seen: list[object] = []
        with opened(here / "file") as fd:
            for call, *arguments in (
                (os.pwrite, fd, b"x" * 3 * PAGE, 0), (os.pwrite, fd, b"x", PAGE),
                (os.ftruncate, fd, PAGE + 1), (fallocate, fd, 0, 0, PAGE + 1),
                (os.ftruncate, fd, PAGE),
            ):  # fmt: skip
                seen.append(attempt(call, *arguments))  # the handler appends too
            seen.append(look(fd))
        return seen

    yield in_child(child)


@on_both
def test_full(here: Path) -> Iterator[object]:
    """At --size: a short write, then ENOSPC; and all of it comes back."""

    def free() -> list[int]:
        found = os.statvfs(here)
        return [found.f_blocks, found.f_bfree, found.f_bavail]

    yield is_empty(here), free()
    total = os.statvfs(here).f_bfree
    with opened(here / "most") as most, opened(here / "rest") as fd:
        fallocate(most, 0, 0, (total - 3) * PAGE)
        yield look(most), free()
        yield attempt(os.pwrite, fd, b"x" * 5 * PAGE, 100), look(fd), free()
        yield attempt(os.pwrite, fd, b"y" * 5 * PAGE, 100), whole(fd)
        yield attempt(os.pwrite, fd, b"y", 100 * PAGE), look(fd)
        yield attempt(os.pwrite, fd, b"fits", 3 * PAGE - 4), look(fd)
        yield attempt(fallocate, fd, 0, 0, 8 * PAGE), look(fd), free()
        yield attempt(fallocate, fd, KEEP, 50 * PAGE, 1), attempt(os.ftruncate, fd, 99 * PAGE)
        fallocate(most, PUNCH, 0, 5 * PAGE)
        yield attempt(fallocate, fd, 0, 0, 4 * PAGE), look(fd), free()
        yield attempt(fallocate, fd, 0, 0, 1 << 43), look(fd), free()
        os.unlink(here / "most")
        yield "still open", free()
    os.truncate(here / "rest", 0)
    yield is_empty(here)


@on_both
def test_space_is_counted(here: Path) -> Iterator[object]:
    """statvfs: blocks and inodes go as files come, and come back."""

    def used() -> list[int]:
        now = os.statvfs(here)
        return [start.f_bfree - now.f_bfree, start.f_ffree - now.f_ffree, now.f_flag & ~4096]

    yield is_empty(here)
    start = os.statvfs(here)
    yield start.f_blocks, start.f_bsize, start.f_frsize, start.f_namemax
    for name in ("one", "two"):
        made(here / name, b"x" * 10_000)
        yield used()
    (here / "dir").mkdir()
    os.symlink("x" * 100, here / "link")
    os.mkfifo(here / "fifo")
    yield used()
    os.link(here / "one", here / "other")
    os.link(here / "one", here / "third")
    yield used()
    os.unlink(here / "one")
    os.rename(here / "third", here / "other")
    yield used()
    os.rename(here / "fifo", here / "third")
    yield used()
    with opened(here / "other") as fd:
        os.unlink(here / "other")
        yield used()
        os.ftruncate(fd, 1 << 40)
        yield used()
    os.unlink(here / "two")
    yield is_empty(here), as_user(lambda at: [try_open(at, os.O_RDONLY)], here, USER)
