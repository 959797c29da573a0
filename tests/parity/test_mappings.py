"""Mappings: coherence with read and write, the end of file, holes, and what mmap(2) refuses."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.parity.calls import mincore
from tests.parity.content import holes, runs, whole
from tests.parity.sides import attempt, in_child, look, made, on_both, opened
from tests.support.files import fallocate

PAGE = 4096
PUNCH = 3
MADV_REMOVE = 9


def ends_by_sigbus(path: Path, page: int, *, store: bool, pages: int = 8) -> bool:
    """Touch a page through a mapping of ``pages`` pages in a child. Did SIGBUS end it?"""
    pid = os.fork()
    if pid == 0:
        faulthandler.disable()
        with opened(path, os.O_RDWR) as fd:
            size = os.fstat(fd).st_size
            os.ftruncate(fd, pages * PAGE)
            view = mmap.mmap(fd, pages * PAGE)
            os.ftruncate(fd, size)
            if store:
                view[page * PAGE] = 1
            else:
                view[page * PAGE]
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS


@on_both
def test_shared_mapping_and_file_are_one(here: Path) -> Iterator[object]:
    with opened(here / "file") as fd:
        os.pwrite(fd, b"a" * 4 * PAGE, 0)
        with mmap.mmap(fd, 4 * PAGE) as shared, mmap.mmap(fd, 4 * PAGE) as again:
            shared[10] = ord("m")
            yield runs(os.pread(fd, 20, 0)), again[10]
            os.pwrite(fd, b"w" * 10, PAGE - 5)
            yield runs(shared[PAGE - 10 : PAGE + 10])
            shared[2 * PAGE : 3 * PAGE] = b"z" * PAGE
            yield os.pwrite(fd, b"w" * 3, 2 * PAGE + 1), whole(fd), runs(again[:])
            os.ftruncate(fd, PAGE + 1)
            os.ftruncate(fd, 4 * PAGE)
            yield runs(shared[:]), whole(fd)
            fallocate(fd, PUNCH, 0, 100)
            yield runs(shared[:]), whole(fd)
            shared[3 * PAGE] = ord("q")
            fallocate(fd, PUNCH, 3 * PAGE, PAGE)
            yield runs(shared[:]), whole(fd)
            shared[3 * PAGE + 1] = ord("r")
            with opened(here / "file", os.O_RDWR | os.O_DIRECT) as direct:
                yield whole(direct), os.pwrite(direct, b"d" * PAGE, 0), runs(again[:])
            with opened(here / "copy") as copy:
                shared[5] = ord("c")
                yield os.copy_file_range(fd, copy, 4 * PAGE), whole(copy)
                yield os.sendfile(copy, fd, 0, 4 * PAGE), whole(copy)
        os.fsync(fd)
        yield whole(fd)


@on_both
def test_private_mapping(here: Path) -> Iterator[object]:
    with opened(here / "file") as fd:
        os.pwrite(fd, b"a" * 3 * PAGE, 0)
        with mmap.mmap(fd, 3 * PAGE, flags=mmap.MAP_PRIVATE) as private:
            private[0] = ord("p")
            os.pwrite(fd, b"b" * 3 * PAGE, 0)
            yield runs(private[:]), whole(fd)
            private[PAGE] = ord("q")
            os.ftruncate(fd, PAGE)
            os.ftruncate(fd, 3 * PAGE)
            yield runs(private[:]), whole(fd)
            fallocate(fd, PUNCH, 0, PAGE)
            yield runs(private[:]), whole(fd)


@on_both
def test_processes_share_a_mapping(here: Path) -> Iterator[object]:
    with opened(here / "file") as fd:
        os.ftruncate(fd, 2 * PAGE)
        with mmap.mmap(fd, 2 * PAGE) as shared:
            yield in_child(lambda: shared.__setitem__(slice(0, 5), b"child")), shared[:6]
            shared[PAGE : PAGE + 6] = b"parent"
            yield in_child(lambda: (here / "file").read_bytes()[PAGE : PAGE + 7])


@on_both
def test_a_mapping_outlives_descriptor_and_name(here: Path) -> Iterator[object]:
    with opened(here / "file") as fd:
        os.pwrite(fd, b"a" * 2 * PAGE, 0)
        shared = mmap.mmap(fd, 2 * PAGE)
    with shared:
        shared[0] = ord("b")
        os.unlink(here / "file")
        shared[PAGE] = ord("c")
        yield runs(shared[:])
        shared.flush()
        yield runs(shared[:])


@on_both
def test_end_of_file(here: Path) -> Iterator[object]:
    """Beyond the last page is SIGBUS; the rest of the last page is zeros."""
    path = made(here / "file", b"x" * (2 * PAGE + 100))
    for page in range(5):
        yield page, [ends_by_sigbus(path, page, store=store) for store in (False, True)]
    yield look(path)
    with opened(path) as fd, mmap.mmap(fd, 0) as shared:
        yield len(shared), runs(shared[:])
    with opened(path) as fd:
        os.ftruncate(fd, 3 * PAGE)
        with mmap.mmap(fd, 3 * PAGE) as shared:
            os.ftruncate(fd, 100)
            yield runs(shared[:PAGE])
            os.ftruncate(fd, 2 * PAGE)
            yield runs(shared[: 2 * PAGE]), whole(fd)


@on_both
def test_stores_beyond_the_end(here: Path) -> Iterator[object]:
    """They are allowed in the rest of the last page, and show when the file grows over them."""

    def grow_by_write(fd: int) -> object:
        return os.pwrite(fd, b"w", PAGE + 10)

    def grow_by_append(fd: int) -> object:
        return os.pwrite(fd, b"w", 150)

    def grow_by_truncate(fd: int) -> None:
        os.ftruncate(fd, 2 * PAGE)

    def grow_by_allocate(fd: int) -> None:
        fallocate(fd, 0, 0, 2 * PAGE)

    for grow in (grow_by_write, grow_by_append, grow_by_truncate, grow_by_allocate):
        with opened(here / grow.__name__) as fd:
            os.pwrite(fd, b"x" * PAGE, 0)
            with mmap.mmap(fd, PAGE) as shared:
                os.ftruncate(fd, 100)
                shared[120] = ord("t")
                yield grow.__name__, whole(fd), runs(shared[:])
                grow(fd)
                yield whole(fd), runs(shared[:])


@on_both
def test_stores_and_seeking(here: Path) -> Iterator[object]:
    """A page stored through a mapping is data at once; one only loaded is not looked at here."""
    with opened(here / "file") as fd:
        os.ftruncate(fd, 8 * PAGE)
        with mmap.mmap(fd, 8 * PAGE) as shared:
            shared[3 * PAGE] = 1
            yield holes(fd)
            shared[7 * PAGE] = 1
            yield holes(fd)
            shared.flush()
            yield holes(fd), look(fd)
            shared.madvise(MADV_REMOVE, 3 * PAGE, PAGE)
            yield holes(fd), look(fd), runs(shared[3 * PAGE : 4 * PAGE])
        yield whole(fd)


@on_both
def test_what_mmap_refuses(here: Path) -> Iterator[object]:
    path = made(here / "file", b"x" * PAGE)
    kinds = (mmap.MAP_SHARED, mmap.MAP_PRIVATE, 3, 3 | 0x80000, mmap.MAP_SHARED | 0x40000)
    for way in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        for flags in kinds:  # 3 is MAP_SHARED_VALIDATE, 0x80000 MAP_SYNC, 0x40000 MAP_HUGETLB
            for protection in (mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_READ | mmap.PROT_EXEC):
                with opened(path, way) as fd:
                    yield way, flags, protection, attempt(_map, fd, flags, protection)
    with opened(here, os.O_RDONLY) as fd:
        yield attempt(_map, fd, mmap.MAP_SHARED, mmap.PROT_READ)


def _map(fd: int, flags: int, protection: int) -> str:
    mmap.mmap(fd, PAGE, flags=flags, prot=protection).close()
    return "ok"


@on_both
def test_advice_and_locking(here: Path) -> Iterator[object]:
    libc = ctypes.CDLL(None, use_errno=True)
    with opened(here / "file") as fd:
        os.pwrite(fd, b"x" * 8 * PAGE, 0)
        with mmap.mmap(fd, 8 * PAGE) as shared:
            shared[0] = ord("y")
            for advice in (
                mmap.MADV_DONTNEED,
                mmap.MADV_WILLNEED,
                mmap.MADV_SEQUENTIAL,
                22,
                23,
                20,
                21,
            ):
                yield advice, attempt(shared.madvise, advice), runs(shared[:])
            address = ctypes.addressof(ctypes.c_char.from_buffer(shared))
            yield libc.mlock(ctypes.c_void_p(address), 8 * PAGE), mincore(address, 8)
            yield libc.munlock(ctypes.c_void_p(address), 8 * PAGE)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        yield whole(fd)


@on_both
def test_a_stat_keeps_the_pages_cached(here: Path) -> Iterator[object]:
    """What was written stays in the page cache, whatever the times say."""
    with opened(here / "file") as fd:
        os.pwrite(fd, b"x" * 16 * PAGE, 0)
        with mmap.mmap(fd, 16 * PAGE) as shared:
            address = ctypes.addressof(ctypes.c_char.from_buffer(shared))
            for change in (
                lambda: os.pwrite(fd, b"y", 0), lambda: shared.__setitem__(5, 1), shared.flush,
                lambda: os.utime(fd, (1, 2)), lambda: os.pwrite(fd, b"z", 20 * PAGE),
                lambda: os.fchmod(fd, 0o600), lambda: fallocate(fd, 0, 0, 30 * PAGE),
            ):  # fmt: skip
                change()
                os.fstat(fd)
                yield mincore(address, 16)
