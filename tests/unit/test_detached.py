"""The tmpfs of files on the direct path: what the core's property tests do not see of it."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import pytest
import trio

from vfs_volatile.core.held import present
from vfs_volatile.core.pages import PageSpan
from vfs_volatile.fs import remains
from vfs_volatile.fs.remains import InBackground, free_removed
from vfs_volatile.store import detached
from vfs_volatile.store.detached import DetachedFile, DetachedTmpfs
from vfs_volatile.units import PAGE_SIZE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes a tmpfs")

_REMOVE = 9
"""MADV_REMOVE, which Python does not name: punch a hole through a mapping."""


@pytest.fixture
def tmpfs() -> Iterator[DetachedTmpfs]:
    made = DetachedTmpfs(8)
    yield made
    made.close()


def test_it_is_limited_and_the_limit_moves(tmpfs: DetachedTmpfs) -> None:
    file = tmpfs.make_file(1)
    assert file.write(0, b"x" * (9 * PAGE_SIZE)) == 8 * PAGE_SIZE
    assert tmpfs.held_pages() == file.held() == 8
    tmpfs.limit(4)  # not below what it holds
    file.drop(PageSpan(0, 6))
    tmpfs.limit(4)
    file.write(0, b"x" * (2 * PAGE_SIZE))
    with pytest.raises(OSError, match="No space"):
        file.write(2 * PAGE_SIZE, b"x")
    tmpfs.limit(0)
    with pytest.raises(OSError, match="No space"):
        tmpfs.make_file(2).write(0, b"x")


def test_whether_it_is_in_use(tmpfs: DetachedTmpfs) -> None:
    file = tmpfs.make_file(1)
    file.truncate(PAGE_SIZE)
    assert not file.in_use()
    other = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY)
    assert file.in_use()
    mapped = mmap.mmap(other, PAGE_SIZE, mmap.MAP_PRIVATE, mmap.PROT_READ)
    os.close(other)
    assert file.in_use(), "mapped"
    mapped.close()
    assert not file.in_use()


def test_allocated_pages_are_held_and_what_was_there_stays(tmpfs: DetachedTmpfs) -> None:
    file = tmpfs.make_file(1)
    file.truncate(4 * PAGE_SIZE - 5)
    file.write(PAGE_SIZE, b"x" * PAGE_SIZE)
    file.allocate(PageSpan(0, 6))
    assert list(present(file, PageSpan(0, 9))) == [PageSpan(0, 6)], "also beyond the end of file"
    assert file.held() == 6
    assert file.size() == 4 * PAGE_SIZE - 5
    assert file.read(PAGE_SIZE, PAGE_SIZE) == b"x" * PAGE_SIZE


def test_nobody_touches_what_is_allocated(tmpfs: DetachedTmpfs) -> None:
    file = tmpfs.make_file(1)
    file.truncate(6 * PAGE_SIZE)
    file.allocate(PageSpan(0, 5))
    assert file.next_data(0) is None
    mapped = mmap.mmap(file.fileno(), 6 * PAGE_SIZE)
    assert mapped[2 * PAGE_SIZE] == 0
    assert file.next_data(0) == 2
    mapped.madvise(_REMOVE, PAGE_SIZE, PAGE_SIZE)
    mapped.close()
    assert list(present(file, PageSpan(0, 6))) == [PageSpan(0, 1), PageSpan(2, 5)]
    assert list(present(file, PageSpan(1, 4))) == [PageSpan(2, 4)]
    assert not list(present(file, PageSpan(5, 6)))
    assert not list(present(file, PageSpan(3, 3)))


def test_a_failed_allocation_leaves_nothing_and_takes_nothing(tmpfs: DetachedTmpfs) -> None:
    file = tmpfs.make_file(1)
    file.truncate(12 * PAGE_SIZE)
    file.allocate(PageSpan(0, 2))
    file.write(4 * PAGE_SIZE, b"x")
    with pytest.raises(OSError, match="No space"):
        file.allocate(PageSpan(2, 12))
    assert list(present(file, PageSpan(0, 12))) == [PageSpan(0, 2), PageSpan(4, 5)]


def test_dropping_is_no_change_of_times(tmpfs: DetachedTmpfs) -> None:
    file = tmpfs.make_file(1)
    file.write(0, b"x" * PAGE_SIZE)
    file.set_times(5, 7)
    file.drop(PageSpan(0, 1))
    assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (5, 7)


def test_many_files_need_few_descriptors(tmpfs: DetachedTmpfs) -> None:
    before = len(os.listdir("/proc/self/fd"))
    files = [tmpfs.make_file(number) for number in range(600)]
    assert len(os.listdir("/proc/self/fd")) - before <= 256
    files[0].write(0, b"x")
    assert files[0].read(0, 2) == b"x\0"
    for file in files:
        file.close()
    assert tmpfs.held_pages() == 0
    with pytest.raises(OSError) as caught:  # noqa: PT011
        files[0].size()
    assert caught.value.errno == errno.ENOENT


@pytest.fixture
def large(tmpfs: DetachedTmpfs, monkeypatch: pytest.MonkeyPatch) -> DetachedFile:
    """A file that holds more than is freed at once."""
    monkeypatch.setattr(detached, "_FREED_AT_ONCE", 2)
    monkeypatch.setattr(remains, "_TRIES", 3)
    file = tmpfs.make_file(1)
    file.write(0, b"x" * 4 * PAGE_SIZE)
    return file


def free_in_steps(tmpfs: DetachedTmpfs) -> list[int]:
    """How many pages are held after each step."""
    held = []

    async def free() -> None:
        removed = InBackground(partial(free_removed, tmpfs))
        tmpfs.when_left = removed.start
        tmpfs.remove("1")
        while removed._busy:
            held.append(tmpfs.held_pages())
            await trio.lowlevel.checkpoint()

    trio.run(free)
    assert not tmpfs.left
    return held


@pytest.mark.parametrize("beyond", [0, 1 << 20])
def test_what_a_removed_file_holds_is_freed_in_steps(
    tmpfs: DetachedTmpfs, large: DetachedFile, beyond: int
) -> None:
    """Also beyond its end."""
    large.allocate(PageSpan(4 + beyond, 7 + beyond))
    held = free_in_steps(tmpfs)
    assert held[0] == 7
    steps = [before - after for before, after in pairwise([*held, tmpfs.held_pages()])]
    assert max(steps) <= 2 * 2, "trio gives two their turns in any order"
    assert tmpfs.held_pages() == 0


def test_who_has_a_removed_file_mapped_keeps_it(tmpfs: DetachedTmpfs, large: DetachedFile) -> None:
    other = os.open(f"/proc/self/fd/{large.fileno()}", os.O_RDWR)
    mapped = mmap.mmap(other, 4 * PAGE_SIZE)
    os.close(other)
    assert set(free_in_steps(tmpfs)) == {4}
    assert mapped[:] == b"x" * 4 * PAGE_SIZE
    mapped.close()
    assert tmpfs.held_pages() == 0, "nobody else has it"
