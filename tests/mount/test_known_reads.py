"""READs that the shim answers by itself, from what it was told with an answer before (data.c)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial

import pytest

from tests.support.errnos import errno_of
from tests.support.files import VFile, content, fallocate
from tests.support.fvrange import PAGE, ZERO, pages
from tests.support.mount import Mount
from tests.support.waiting import eventually

COUNT = 64
PUNCH = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE


@pytest.fixture
def file(fs: Mount) -> VFile:
    """Volatile, in the daemon alone, and read a page at a time."""
    file = fs.file("file", COUNT)
    file.mark()
    file.cool()
    os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_RANDOM)
    return file


def page_of(file: VFile, page: int) -> bytes:
    return os.pread(file.fd, PAGE, page * PAGE)


def is_purged(file: VFile, page: int) -> bool:
    """Not if processes came faster than a busy machine could look at them."""
    return file.purge(*pages(page)) == PAGE


def know(file: VFile) -> None:
    """The first is answered by Python, the others need not be."""
    for page in (5, 3, 8, 4):
        assert page_of(file, page) == content(1, first=page)


def test_a_purge_ends_it(file: VFile) -> None:
    know(file)
    file.purge(*pages(10, 2))
    assert errno_of(page_of, file, 10) == "ENODATA"
    assert page_of(file, 12) == content(1, first=12)
    assert errno_of(page_of, file, 11) == "ENODATA"
    file.unmark()
    assert page_of(file, 10) == bytes(PAGE)


def test_a_purge_of_what_reads_as_zeros_ends_it(fs: Mount) -> None:
    file = fs.file("file", COUNT)
    file.mark(behavior=ZERO)
    file.cool()
    os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_RANDOM)
    know(file)
    file.purge(*pages(10, 2))
    assert page_of(file, 10) == bytes(PAGE)


def shrink_and_grow(fs: Mount, file: VFile) -> None:
    """Another file gets the memory meanwhile."""
    os.ftruncate(file.fd, 0)
    fs.open("other")
    (fs.path / "other").write_bytes(b"o" * COUNT * PAGE)
    os.ftruncate(file.fd, COUNT * PAGE)


def punch(fs: Mount, file: VFile) -> None:
    fallocate(file.fd, PUNCH, 0, COUNT * PAGE)


def write_zeros(fs: Mount, file: VFile) -> None:
    os.pwrite(file.fd, bytes(COUNT * PAGE), 0)
    file.cool()


@pytest.mark.parametrize("change", [shrink_and_grow, punch, write_zeros])
def test_a_change_ends_it(fs: Mount, file: VFile, change: Callable[[Mount, VFile], None]) -> None:
    know(file)
    change(fs, file)
    for page in (10, 11, 3):
        assert page_of(file, page) == bytes(PAGE)


def test_the_end_of_the_file_is_where_it_is(fs: Mount) -> None:
    file = fs.file("file", COUNT)
    os.ftruncate(file.fd, 10 * PAGE + 100)
    file.cool()
    os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_RANDOM)
    know(file)
    assert page_of(file, 10) == content(1, first=10)[:100]
    assert page_of(file, 11) == b""
    os.ftruncate(file.fd, 20 * PAGE)
    file.cool()
    assert page_of(file, 10) == content(1, first=10)[:100].ljust(PAGE, b"\0")


def test_readers_beside_each_other_and_a_purge_see_no_other_file(fs: Mount) -> None:
    files = [fs.open(f"file{number}") for number in range(3)]
    for number, file in enumerate(files):
        os.pwrite(file.fd, bytes([65 + number]) * COUNT * PAGE, 0)
        file.mark()
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_RANDOM)
    wrong: list[object] = []
    stop = threading.Event()

    def read(number: int) -> None:
        while not stop.is_set():
            files[number].cool()
            for page in range(COUNT):
                try:
                    found = page_of(files[number], page)
                except OSError:
                    continue  # purged: an error
                if found != bytes([65 + number]) * PAGE:
                    wrong.append((number, page, found[:1]))

    readers = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for reader in readers:
        reader.start()
    try:
        for page in range(COUNT):
            for file in files:
                assert eventually(partial(is_purged, file, page))
                assert errno_of(page_of, file, page) == "ENODATA"
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert not wrong
