"""A file of a mount whose pages can be told apart, so that a report reads as one word."""

from __future__ import annotations

import ctypes
import errno
import os
import string
from pathlib import Path

from tests.support import fvrange
from tests.support.fvrange import PAGE, Range

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
FALLOC_FL_ZERO_RANGE = 16

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(fd: int, mode: int, start: int, length: int) -> None:
    """The system call with any mode (``os.posix_fallocate`` has none). Raises OSError."""
    if _libc.fallocate(fd, mode, start, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def letter(page: int) -> str:
    """The byte that fills page ``page``: a, b, ... z, a, ..."""
    return string.ascii_lowercase[page % 26]


def content(count: int, first: int = 0) -> bytes:
    """``count`` pages from page ``first``, each filled with its letter."""
    return b"".join(letter(page).encode() * PAGE for page in range(first, first + count))


def letters(count: int) -> str:
    """What a report says of ``count`` intact pages."""
    return "".join(map(letter, range(count)))


class VFile:
    """An open file (read and write); positions in bytes, reports by page."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd

    def close(self) -> None:
        """Close it, at most once: the mount closes what the test did not."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def fill(self, count: int) -> None:
        """Write ``count`` pages, each with its letter."""
        os.pwrite(self.fd, content(count), 0)

    def mark(self, start: int = 0, length: int = 0, behavior: int = 0) -> int:
        return fvrange.mark(self.fd, start, length, behavior)

    def unmark(self, start: int = 0, length: int = 0) -> int:
        """NONVOLATILE; returns the bytes that were purged."""
        return fvrange.unmark(self.fd, start, length)

    def purge(self, start: int = 0, length: int = 0) -> int:
        return fvrange.purge(self.fd, start, length)

    def ranges(self) -> list[Range]:
        return fvrange.ranges(self.fd)

    def purged_pages(self) -> list[int]:
        """Indices of the pages that NEXT calls purged."""
        return [
            page
            for run in self.ranges()
            if run.purged
            for page in range(run.start // PAGE, -(-(run.start + run.length) // PAGE))
        ]

    def reads(self) -> str:
        """One letter for each page, by pread: its byte, 0 for zeros, X for ENODATA, ? for a mix."""
        size = os.fstat(self.fd).st_size
        return "".join(self._read_letter(at) for at in range(0, size, PAGE))

    def cool(self) -> None:
        """Empty the kernel's page cache of this file, so that the next reads reach the daemon."""
        os.fsync(self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def attribute(self, name: str) -> str:
        """The value of ``user.fvrange.<name>``."""
        return os.getxattr(self.fd, f"user.fvrange.{name}").decode()

    def set_attribute(self, name: str, value: str | bytes) -> None:
        raw = value.encode() if isinstance(value, str) else value
        os.setxattr(self.fd, f"user.fvrange.{name}", raw)

    def _read_letter(self, at: int) -> str:
        try:
            data = os.pread(self.fd, PAGE, at)
        except OSError as error:
            if error.errno == errno.ENODATA:
                return "X"
            raise
        values = set(data)
        if len(values) != 1:
            return "?"
        return chr(values.pop()) if values != {0} else "0"
