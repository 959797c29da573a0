"""mvrange on shared mappings: an address means the file below it, and then it is fvrange."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import pytest

from tests.support.files import VFile
from tests.support.fvrange import PAGE, pages
from tests.support.mount import ROOT, Mount
from tests.support.waiting import PATIENCE
from vfs_volatile import VRANGE_NONVOLATILE, VRANGE_VOLATILE, VRANGE_ZERO, mvrange

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
MAP_FIXED = 0x10


class AddressRange:
    """A reserved stretch of addresses, to lay mappings side by side."""

    def __init__(self, count: int) -> None:
        self.size = count * PAGE
        self.start = self._mmap(None, self.size, 0, mmap.MAP_ANONYMOUS, -1, 0)

    def lay(self, at: int, file: VFile, first: int, count: int, *, private: bool = False) -> int:
        """Map pages of ``file`` at page ``at`` of the stretch; their address."""
        kind = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        return self._mmap(
            self.start + at * PAGE, count * PAGE, protection, kind | MAP_FIXED, file.fd, first
        )

    def hole(self, at: int, count: int) -> None:
        _libc.munmap(self.start + at * PAGE, count * PAGE)

    def close(self) -> None:
        _libc.munmap(self.start, self.size)

    @staticmethod
    def _mmap(
        address: int | None, size: int, protection: int, flags: int, fd: int, first: int
    ) -> int:
        flags |= mmap.MAP_PRIVATE if not flags & mmap.MAP_SHARED else 0
        found = _libc.mmap(address, size, protection, flags, fd, first * PAGE)
        assert found not in (None, ctypes.c_void_p(-1).value)
        return int(found)


@pytest.fixture
def stretch() -> Iterator[AddressRange]:
    """Sixteen pages of addresses."""
    with ExitStack() as stack:
        made = AddressRange(16)
        stack.callback(made.close)
        yield made


def test_a_mapping_is_marked_by_its_address(fs: Mount) -> None:
    file = fs.file("file", 8)
    with mmap.mmap(file.fd, 4 * PAGE, offset=2 * PAGE) as memory:
        assert mvrange(memory, 3 * PAGE, VRANGE_VOLATILE, VRANGE_ZERO, fd=file.fd) == 0
    assert [(run.start, run.length) for run in file.ranges()] == [pages(2, 3)]
    file.purge()
    assert file.reads() == "ab000fgh"


def test_unmarking_reports_what_was_purged_of_an_fvrange_mark(fs: Mount) -> None:
    """One state for both calls: mvrange NONVOLATILE clears an fvrange mark."""
    file = fs.file("file", 8)
    file.mark()
    file.purge(*pages(3, 2))
    with mmap.mmap(file.fd, 8 * PAGE) as memory:
        assert mvrange(memory, 4 * PAGE, VRANGE_NONVOLATILE, fd=file.fd) == PAGE
        assert mvrange(memoryview(memory)[4 * PAGE :], 4 * PAGE, VRANGE_NONVOLATILE) == PAGE
    assert file.ranges() == []
    assert file.reads() == "abc00fgh"


def test_the_file_is_found_by_the_address_alone(fs: Mount) -> None:
    file = fs.file("file", 2)
    with mmap.mmap(file.fd, 2 * PAGE) as memory:
        assert mvrange(memory, PAGE, VRANGE_VOLATILE) == 0
    assert [(run.start, run.length) for run in file.ranges()] == [pages(0)]


def test_an_unlinked_file_is_found_through_a_descriptor_only(fs: Mount) -> None:
    file = fs.file("file", 2)
    with mmap.mmap(file.fd, 2 * PAGE) as memory:
        file.path.unlink()
        with pytest.raises(FileNotFoundError):
            mvrange(memory, PAGE, VRANGE_VOLATILE)
        assert mvrange(memory, PAGE, VRANGE_VOLATILE, fd=file.fd) == 0


def test_a_span_over_several_mappings_and_files(fs: Mount, stretch: AddressRange) -> None:
    one, two = fs.file("one", 8), fs.file("two", 8)
    start = stretch.lay(0, one, 6, 2)
    stretch.lay(2, two, 0, 2)
    stretch.lay(4, one, 1, 1)
    before = int(str(fs.stats()["marks"]))
    mvrange(start + PAGE, 4 * PAGE, VRANGE_VOLATILE, fd=one.fd)
    assert int(str(fs.stats()["marks"])) - before == 2, "one event for each file"
    assert [(run.start, run.length) for run in one.ranges()] == [pages(1), pages(7)]
    assert [(run.start, run.length) for run in two.ranges()] == [pages(0, 2)]
    one.purge()
    two.purge(*pages(1))
    assert mvrange(start, 5 * PAGE, VRANGE_NONVOLATILE, fd=one.fd) == 3 * PAGE
    assert one.ranges() == two.ranges() == []


def test_a_part_that_is_not_mapped(fs: Mount, stretch: AddressRange) -> None:
    file = fs.file("file", 8)
    start = stretch.lay(0, file, 0, 8)
    stretch.hole(3, 1)
    with pytest.raises(OSError, match="Cannot allocate memory") as failure:
        mvrange(start, 6 * PAGE, VRANGE_VOLATILE, fd=file.fd)
    assert failure.value.errno == errno.ENOMEM
    assert file.ranges() == [], "all or nothing"


def test_memory_that_is_no_mapping_of_the_mount(
    fs: Mount, stretch: AddressRange, tmp_path: Path
) -> None:
    file = fs.file("file", 4)
    start = stretch.lay(0, file, 0, 4)
    with pytest.raises(OSError, match="Invalid argument"):
        mvrange(start, 5 * PAGE, VRANGE_VOLATILE, fd=file.fd)
    assert file.ranges() == [], "all or nothing"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(bytes(PAGE))
    with elsewhere.open("r+b") as other, mmap.mmap(other.fileno(), PAGE) as memory:
        for fd in (file.fd, None):
            with pytest.raises(OSError, match="Invalid argument"):
                mvrange(memory, PAGE, VRANGE_VOLATILE, fd=fd)
    with pytest.raises(OSError, match="Invalid argument"):
        mvrange(bytearray(PAGE), PAGE, VRANGE_VOLATILE)


def test_a_private_mapping_cannot_be_marked(fs: Mount, stretch: AddressRange) -> None:
    file = fs.file("file", 4)
    start = stretch.lay(0, file, 0, 4, private=True)
    with pytest.raises(OSError, match="Invalid argument"):
        mvrange(start, PAGE, VRANGE_VOLATILE, fd=file.fd)


def test_another_file_has_to_be_mapped_writable(fs: Mount) -> None:
    own, other = fs.file("own", 2), fs.file("other", 2)
    with mmap.mmap(other.fd, 2 * PAGE, prot=mmap.PROT_READ) as memory:
        with pytest.raises(OSError, match="Permission denied") as failure:
            mvrange(memory, PAGE, VRANGE_VOLATILE, fd=own.fd)
        assert failure.value.errno == errno.EACCES
        assert mvrange(memory, PAGE, VRANGE_VOLATILE, fd=other.fd) == 0


def test_arguments_are_checked_as_those_of_fvrange(fs: Mount) -> None:
    file = fs.file("file", 2)
    with mmap.mmap(file.fd, 2 * PAGE) as memory:
        for mode, behavior in ((2, 0), (VRANGE_NONVOLATILE, 1), (VRANGE_VOLATILE, 6)):
            with pytest.raises(OSError, match="Invalid argument"):
                mvrange(memory, PAGE, mode, behavior, fd=file.fd)
        reader = os.open(file.path, os.O_RDONLY)
        try:
            with pytest.raises(OSError, match="Bad file descriptor"):
                mvrange(memory, PAGE, VRANGE_VOLATILE, fd=reader)
        finally:
            os.close(reader)
        assert mvrange(memory, 0, VRANGE_VOLATILE, fd=file.fd) == 0
    assert file.ranges() == []


def test_any_thread_may_call(fs: Mount) -> None:
    """The kernel tells the caller's thread, not its process."""
    file = fs.file("file", 4)
    with mmap.mmap(file.fd, 4 * PAGE) as memory:
        caller = Thread(target=mvrange, args=(memory, 2 * PAGE, VRANGE_VOLATILE, 0, file.fd))
        caller.start()
        caller.join()
    assert [(run.start, run.length) for run in file.ranges()] == [pages(0, 2)]


PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "fvrange.h"

int main(int argc, char **argv)
{
	int fd = open(argv[argc - 1], O_RDWR);
	char *at = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	uint64_t purged = 99;

	if (mvrange_fd(fd, at, 3 * 4096, VRANGE_VOLATILE, 0, &purged) || purged)
		return 1;
	if (ioctl(fd, FVRANGE_IOC_PURGE, &(struct fvrange_args){ .length = 4096 }))
		return 2;
	if (mvrange(at, 4 * 4096, VRANGE_NONVOLATILE, 0, &purged))
		return 3;
	printf("%llu %d\n", (unsigned long long)purged, at[0]);
	return 0;
}
"""


def test_the_calls_of_the_header(fs: Mount, tmp_path: Path) -> None:
    file = fs.file("file", 4)
    (tmp_path / "program.c").write_text(PROGRAM)
    binary = tmp_path / "program"
    subprocess.run(
        [
            "gcc",
            "-Wall",
            "-Werror",
            "-I",
            ROOT / "vfs_volatile",
            "-o",
            binary,
            tmp_path / "program.c",
        ],
        check=True,
    )
    done = subprocess.run(
        [binary, file.path], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout.split() == [str(PAGE), "0"]
