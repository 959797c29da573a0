"""The ioctls of ``fvrange.h``, written from the contract and not from the package under test."""

from __future__ import annotations

import errno
import fcntl
import struct
from typing import NamedTuple

PAGE = 4096

NONVOLATILE = 0
VOLATILE = 1

FULL = 0
PARTIAL = 1
ZERO = 2
SIGBUS = 4

ARGS = struct.Struct("=QQIIQ")
INFO = struct.Struct("=QQIIQ")


def priority(n: int) -> int:
    return n << 8


def iowr(number: int, size: int, kind: int = 0xF5) -> int:
    """``_IOWR(kind, number, <size bytes>)`` of <linux/ioctl.h>."""
    return (3 << 30) | (size << 16) | (kind << 8) | number


IOC_FVRANGE = iowr(1, 32)
IOC_NEXT = iowr(3, 32)
IOC_PURGE = iowr(4, 32)


class Range(NamedTuple):
    """One run of NEXT, in bytes."""

    start: int
    length: int
    behavior: int
    purged: bool


def pages(first: int, count: int = 1) -> tuple[int, int]:
    """(start, length) in bytes of ``count`` pages from page ``first``."""
    return first * PAGE, count * PAGE


def call(fd: int, command: int, start: int, length: int, mode: int, behavior: int) -> int:
    """FVRANGE or PURGE as they come; returns the bytes found purged. Raises OSError."""
    buffer = bytearray(ARGS.pack(start, length, mode, behavior, 0))
    fcntl.ioctl(fd, command, buffer, True)
    purged: int = ARGS.unpack(buffer)[4]
    return purged


def mark(fd: int, start: int = 0, length: int = 0, behavior: int = 0) -> int:
    return call(fd, IOC_FVRANGE, start, length, VOLATILE, behavior)


def unmark(fd: int, start: int = 0, length: int = 0) -> int:
    """NONVOLATILE; returns the bytes of the range that were purged."""
    return call(fd, IOC_FVRANGE, start, length, NONVOLATILE, 0)


def purge(fd: int, start: int = 0, length: int = 0) -> int:
    return call(fd, IOC_PURGE, start, length, 0, 0)


def next_range(fd: int, start: int = 0) -> Range | None:
    """The first run at or after ``start``, None when there is none (ENXIO)."""
    buffer = bytearray(INFO.pack(start, 0, 0, 0, 0))
    try:
        fcntl.ioctl(fd, IOC_NEXT, buffer, True)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
    at, length, behavior, state, reserved = INFO.unpack(buffer)
    assert state in (1, 3), f"state {state} is neither volatile nor purged"
    assert reserved == 0
    assert length > 0
    assert at + length > start, f"NEXT from {start} went back to {at}+{length}"
    return Range(at, length, behavior, state == 3)


def ranges(fd: int) -> list[Range]:
    """Every run of the file, by NEXT."""
    found = []
    run = next_range(fd)
    while run is not None:
        found.append(run)
        run = next_range(fd, run.start + run.length)
    return found
