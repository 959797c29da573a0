"""Large numbers: files, ranges, offsets, depths, names. What each takes is in ``docs/limits.md``.

In the tests the numbers are some thousands; ``make scale`` takes millions.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import time

import pytest

from tests.support.errnos import errno_of
from tests.support.fvrange import PAGE
from tests.support.holdings import rss
from tests.support.mount import LONG_DEADLINE, Mount, MountFactory
from tests.support.waiting import eventually
from vfs_volatile.abi.ioctls import FVRANGE_IOC_VEC, VEC_MAX, VRANGE_VOLATILE, FvrangeVec

LONG = bool(os.environ.get("SCALE"))
FILES = 1_000_000 if LONG else 4000
RANGES = 1_000_000 if LONG else 20_000
OPEN = 10_000 if LONG else 3000
DEADLINE = 2000.0 if LONG else LONG_DEADLINE
KIB = 1024
FILE_BYTES = 6 * KIB
"""What a file takes of the daemon at most, without data: its inode, name and address_space."""
RANGE_BYTES = 700
"""What a volatile range takes at most."""


@pytest.fixture
def mounted(mount: MountFactory) -> Mount:
    return mount(budget="1G", deadline=DEADLINE, memory=16 << 30)


@pytest.mark.timeout(DEADLINE + 60)
def test_many_files(mounted: Mount) -> None:
    before = rss(mounted)
    begun = time.monotonic()
    made = 0
    for directory in range(FILES // 1000):
        path = mounted.path / str(directory)
        path.mkdir()
        for number in range(1000):
            os.close(os.open(path / str(number), os.O_CREAT | os.O_WRONLY))
            made += 1
    each = (rss(mounted) - before) / made
    print(f"\n{made} files: {each:.0f} bytes each, {time.monotonic() - begun:.0f} s")
    assert each < FILE_BYTES
    assert len(os.listdir(mounted.path / "0")) == 1000
    mounted.rearm(DEADLINE)
    for directory in range(FILES // 1000):
        path = mounted.path / str(directory)
        for name in os.listdir(path):
            os.unlink(path / name)
        path.rmdir()
    assert eventually(lambda: mounted_files(mounted) == 1)


def mounted_files(mounted: Mount) -> int:
    found = os.statvfs(mounted.path)
    return found.f_files - found.f_ffree


@pytest.mark.timeout(DEADLINE + 60)
def test_many_ranges(mounted: Mount) -> None:
    file = mounted.open("file")
    os.ftruncate(file.fd, 2 * RANGES * PAGE)
    before = rss(mounted)
    begun = time.monotonic()
    for first in range(0, RANGES, VEC_MAX):
        pages = range(first, min(first + VEC_MAX, RANGES))
        call = FvrangeVec.of(VRANGE_VOLATILE, 0, [(2 * page * PAGE, PAGE) for page in pages])
        fcntl.ioctl(file.fd, FVRANGE_IOC_VEC, bytearray(call.pack()), True)
    each = (rss(mounted) - before) / RANGES
    print(f"\n{RANGES} ranges: {each:.0f} bytes each, {time.monotonic() - begun:.0f} s")
    assert each < RANGE_BYTES
    assert mounted.number("volatile") == RANGES * PAGE
    os.pwrite(file.fd, b"x" * PAGE, 2 * (RANGES - 1) * PAGE)
    assert file.purge(2 * (RANGES - 1) * PAGE, PAGE) == PAGE
    assert file.unmark() == PAGE
    assert mounted.number("volatile") == 0


def test_a_sparse_file_of_a_tebibyte(mounted: Mount) -> None:
    file = mounted.open("file")
    size = 1 << 40
    os.ftruncate(file.fd, size)
    begun = time.monotonic()
    places = [0, size // 2, size - PAGE]
    for place in places:
        os.pwrite(file.fd, b"x" * PAGE, place)
    assert file.mark() == 0
    assert os.fstat(file.fd).st_blocks == len(places) * PAGE // 512
    assert file.purge() == len(places) * PAGE
    assert errno_of(os.pread, file.fd, 1, size - 1) == "ENODATA"
    assert file.unmark() == len(places) * PAGE
    assert os.lseek(file.fd, 0, os.SEEK_HOLE) == 0
    assert errno_of(os.lseek, file.fd, 0, os.SEEK_DATA) == "ENXIO"
    assert time.monotonic() - begun < 60, "page by page it were hours"


def test_deep_and_long(mounted: Mount) -> None:
    """A path as deep as PATH_MAX lets it be, and one deeper step by step; names of 255 bytes."""
    name = "n" * 255
    held = os.open(mounted.path, os.O_RDONLY)
    depth = 200 if not LONG else 5000
    for _ in range(depth):
        os.mkdir(name, dir_fd=held)
        inner = os.open(name, os.O_RDONLY, dir_fd=held)
        os.close(held)
        held = inner
    with pytest.raises(OSError, match="too long") as raised:
        os.mkdir(name + "n", dir_fd=held)
    assert raised.value.errno == errno.ENAMETOOLONG
    for _ in range(depth):
        outer = os.open("..", os.O_RDONLY, dir_fd=held)
        os.close(held)
        held = outer
        os.rmdir(name, dir_fd=held)
    os.close(held)


def test_many_open_files(mounted: Mount) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit[0], min(limit[1], 12_000)), limit[1]))
    try:
        held = [
            os.open(mounted.path / f"f{number}", os.O_RDWR | os.O_CREAT) for number in range(OPEN)
        ]
        os.pwrite(held[-1], b"x" * PAGE, 0)
        os.setxattr(held[-1], "user.fvrange.volatile", b"all")
        os.setxattr(held[-1], "user.fvrange.purge", b"all")
        assert os.getxattr(held[-1], "user.fvrange.purged") == b"0+4096"
        for fd in held:
            os.close(fd)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    for number in range(OPEN):
        os.unlink(mounted.path / f"f{number}")
    assert eventually(lambda: mounted_files(mounted) == 1)


def test_attributes_up_to_the_limits(mounted: Mount) -> None:
    file = mounted.open("file")
    name = "user." + "n" * 250
    os.setxattr(file.fd, name, bytes(64 * KIB))
    assert os.getxattr(file.fd, name) == bytes(64 * KIB)
    assert errno_of(os.setxattr, file.fd, name, bytes(64 * KIB + 1)) == "E2BIG"
    assert errno_of(os.setxattr, file.fd, name + "n", b"") == "ERANGE"
    for number in range(200):
        os.setxattr(file.fd, f"user.{number:0250}", b"x")
    assert len(os.listxattr(file.fd)) == 201
