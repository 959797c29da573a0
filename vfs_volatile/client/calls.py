"""The calls of ``fvrange.h`` from Python: mark, unmark, list and purge the ranges of a file.

Each is one ioctl of ``abi.ioctls``; ``OSError`` carries the errno of its contract: EBADF (not
open for writing), EINVAL (mode, behavior, overflow), ENOTTY (not a file of a vfs-volatile mount),
ENOTCONN (the daemon has gone). A failed call changes nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Protocol

from vfs_volatile.abi.ioctls import (
    FVRANGE_IOC_FVRANGE,
    FVRANGE_IOC_NEXT,
    FVRANGE_IOC_PURGE,
    FVRANGE_IOC_VEC,
    FvrangeArgs,
    FvrangeInfo,
    FvrangeVec,
)


class HasFileno(Protocol):
    """An open file: anything with ``fileno()``."""

    def fileno(self) -> int:
        """The file descriptor."""


FileDescriptor = int | HasFileno


def fvrange(fd: FileDescriptor, start: int, length: int, mode: int, behavior: int = 0) -> int:
    """Mark or unmark ``length`` bytes from ``start`` (0 = to the end of the file).

    ``mode`` is VRANGE_VOLATILE (with VRANGE_* flags as ``behavior``) or VRANGE_NONVOLATILE.
    Returns how many bytes of the range were found purged; after VRANGE_NONVOLATILE those are
    zeros. Needs ``fd`` open for writing; raises OSError.
    """
    args = FvrangeArgs(start, length, mode, behavior)
    return FvrangeArgs.unpack(request(fd, FVRANGE_IOC_FVRANGE, args)).purged


def fvrange_many(
    fd: FileDescriptor, ranges: Sequence[tuple[int, int]], mode: int, behavior: int = 0
) -> list[int]:
    """As fvrange() for many (start, length), all or nothing: the bytes found purged in each.

    Raises ValueError for more than 512 ranges, OSError.
    """
    vec = FvrangeVec.of(mode, behavior, ranges)
    return list(FvrangeVec.unpack(request(fd, FVRANGE_IOC_VEC, vec)).purged)


def fvrange_purge(fd: FileDescriptor, start: int = 0, length: int = 0) -> int:
    """Purge the volatile pages wholly inside the range now, whatever the budget.

    Returns how many bytes of the range are purged afterwards, those that were so before included.
    Needs ``fd`` open for writing; raises OSError.
    """
    args = FvrangeArgs(start, length)
    return FvrangeArgs.unpack(request(fd, FVRANGE_IOC_PURGE, args)).purged


def fvrange_next(fd: FileDescriptor, start: int = 0) -> Iterator[FvrangeInfo]:
    """Yield the volatile runs of a file in order, from byte ``start`` on.

    A run is the part of one range that is in one state. Each step asks anew, so a change
    between two steps is seen. Raises OSError.
    """
    while True:
        try:
            answer = request(fd, FVRANGE_IOC_NEXT, FvrangeInfo(start))
        except OSError as error:
            if error.errno == errno.ENXIO:  # past the last range
                return
            raise
        info = FvrangeInfo.unpack(answer)
        yield info
        start = info.start + info.length


def request(fd: FileDescriptor, number: int, arg: FvrangeArgs | FvrangeInfo | FvrangeVec) -> bytes:
    """The struct that the kernel hands back for ``arg``."""
    try:
        packed = arg.pack()
    except struct.error:  # a number that the struct cannot hold is no range, mode or behavior
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None
    buffer = bytearray(packed)  # bytes would be limited to 1024
    fcntl.ioctl(fd, number, buffer, True)
    return bytes(buffer)
