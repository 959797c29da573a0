"""FVRANGE_IOC_VEC: many ranges of one file in one call, all or nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

import pytest

from tests.support.fvrange import PAGE, pages
from tests.support.mount import Mount
from vfs_volatile import VRANGE_NONVOLATILE, VRANGE_VOLATILE, VRANGE_ZERO, fvrange_many
from vfs_volatile.abi.ioctls import FVRANGE_IOC_VEC


def call(fd: int, count: int, mode: int, behavior: int, reserved: int, *ranges: int) -> None:
    """The call as it comes, with a count that need not be true."""
    head = struct.pack("=IIIIQ", count, mode, behavior, reserved, 0)
    body = struct.pack(f"={len(ranges)}Q", *ranges)
    fcntl.ioctl(fd, FVRANGE_IOC_VEC, bytearray((head + body).ljust(12312, b"\0")))


def test_ranges_are_marked_and_each_tells_what_was_purged(fs: Mount) -> None:
    file = fs.file("file", 8)
    spans = [pages(0, 2), pages(4), pages(6, 2)]
    assert fvrange_many(file.fd, spans, VRANGE_VOLATILE) == [0, 0, 0]
    assert [(run.start, run.length) for run in file.ranges()] == spans
    file.purge(*pages(1, 4))
    assert fvrange_many(file.fd, spans, VRANGE_NONVOLATILE) == [PAGE, PAGE, 0]
    assert file.ranges() == []
    assert file.reads() == "a0cd0fgh"


def test_five_hundred_and_twelve_at_most(fs: Mount) -> None:
    file = fs.open("file")
    os.truncate(file.fd, 2048 * PAGE)
    spans = [pages(2 * number) for number in range(512)]
    assert fvrange_many(file.fd, spans, VRANGE_VOLATILE, VRANGE_ZERO) == [0] * 512
    assert len(file.ranges()) == 512
    with pytest.raises(ValueError, match="512"):
        fvrange_many(file.fd, [*spans, pages(2000)], VRANGE_VOLATILE)
    assert fvrange_many(file.fd, [], VRANGE_VOLATILE) == []


@pytest.mark.parametrize(
    ("count", "mode", "behavior", "reserved", "ranges"),
    [
        (2, 2, 0, 0, (0, 4096, 0)),
        (2, 1, 6, 0, (0, 4096, 0)),
        (2, 0, 1, 0, (0, 4096, 0)),
        (2, 1, 0, 1, (0, 4096, 0)),
        (513, 1, 0, 0, (0, 4096, 0)),
        (2, 1, 0, 0, (0, 4096, 0, 1 << 63, 1 << 63)),
        (0, 7, 0, 0, ()),
    ],
)
def test_one_wrong_range_and_nothing_has_changed(
    fs: Mount, count: int, mode: int, behavior: int, reserved: int, ranges: tuple[int, ...]
) -> None:
    file = fs.file("file", 8)
    with pytest.raises(OSError, match="Invalid argument"):
        call(file.fd, count, mode, behavior, reserved, *ranges)
    assert file.ranges() == []


def test_it_needs_a_file_open_for_writing(fs: Mount) -> None:
    file = fs.file("file", 8)
    reader = fs.open("file", os.O_RDONLY)
    with pytest.raises(OSError, match="Bad file descriptor") as failure:
        fvrange_many(reader.fd, [pages(0)], VRANGE_VOLATILE)
    assert failure.value.errno == errno.EBADF
    assert file.ranges() == []
