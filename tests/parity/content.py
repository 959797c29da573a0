"""What is in a file, in a form in which a difference can be read."""

from __future__ import annotations

import os

from tests.parity.sides import attempt

PAGE = 4096


def holes(fd: int) -> list[object]:
    """Where SEEK_DATA and SEEK_HOLE lead from each half page, and from beyond the end."""
    size = os.fstat(fd).st_size
    at = [*range(0, min(size, 16 * PAGE) + PAGE, PAGE // 2), size - 1, size, -1]
    return [
        (start, *(attempt(os.lseek, fd, start, whence) for whence in (os.SEEK_DATA, os.SEEK_HOLE)))
        for start in at
    ]


def runs(data: bytes) -> list[tuple[int, int]]:
    """(byte, how many) of each run of equal bytes, so that a difference can be read."""
    found: list[tuple[int, int]] = []
    for byte in data:
        if found and found[-1][0] == byte:
            found[-1] = (byte, found[-1][1] + 1)
        else:
            found.append((byte, 1))
    return found


def whole(fd: int) -> list[tuple[int, int]]:
    return runs(os.pread(fd, os.fstat(fd).st_size, 0))
