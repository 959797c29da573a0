"""Mapped memory as a C program has it: partial munmap(2), and touching that may be fatal."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import signal
from collections.abc import Callable

from vfs_volatile.units import PAGE_SIZE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
_libc.munmap.argtypes = _libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
_libc.write.restype = ctypes.c_ssize_t
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

_MAP_FAILED = ctypes.c_void_p(-1).value
_PUNCH_HOLE = 1 | 2
"""FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE of <linux/falloc.h>."""


class Mapping:
    """Memory. Offsets are bytes of the file that it shows, or of itself if it is anonymous."""

    def __init__(self, address: int, start: int, length: int) -> None:
        """Bytes from ``start`` on are at ``address``."""
        self._address = address
        self.start = start
        self.length = length

    @classmethod
    def of_file(cls, fd: int, start: int, length: int, *, shared: bool, writable: bool) -> Mapping:
        """mmap(2). Raises OSError."""
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        kind = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
        address = _libc.mmap(None, length, protection, kind, fd, start)
        if address == _MAP_FAILED:
            raise _os_error()
        return cls(int(address), start, length)

    def at(self, offset: int) -> int:
        """The address where byte ``offset`` of the file is mapped."""
        return self._address + offset - self.start

    def unmap(self, start: int, length: int) -> None:
        _check(_libc.munmap(self.at(start), length))

    def lock(self) -> None:
        _check(_libc.mlock(self._address, self.length))

    def send(self, fd: int, start: int, length: int) -> None:
        """write(2) to ``fd`` straight from here: a page that cannot be read is EFAULT."""
        if _libc.write(fd, self.at(start), length) < 0:
            raise _os_error()

    def load(self, offset: int) -> bytes:
        """One page. May be fatal: call it within :func:`touch`."""
        return ctypes.string_at(self.at(offset), PAGE_SIZE)

    def fill(self, offset: int, byte: int) -> None:
        """Store a page full of ``byte``. As fatal as a load."""
        ctypes.memset(self.at(offset), byte, PAGE_SIZE)


def touch(offsets: list[int], access: Callable[[int], str]) -> str:
    """A letter for each page: what ``access(offset)`` says, or X where SIGBUS ends it.

    A child does it, which dies of the real signal; it has the same pages, copied ones included.
    """
    letters = ""
    while len(letters) < len(offsets):
        said, ended_by = _in_child(offsets[len(letters) :], access)
        letters += said
        if len(letters) < len(offsets):
            letters += "X" if ended_by == signal.SIGBUS else "?"
    return letters


def punch_hole(fd: int, start: int, length: int) -> None:
    """fallocate(2) with FALLOC_FL_PUNCH_HOLE. Raises OSError."""
    _check(_libc.fallocate(fd, _PUNCH_HOLE, start, length))


def never_dump_core() -> None:
    """No core of this process or a child: core(5), also of those that go to a pipe."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (0 if hard == 0 else 1, hard))


def letter_of(page: bytes) -> str:
    """What a page holds, zeros at its end apart: one character all over, 0 for nothing, or ?."""
    content = page.rstrip(b"\0")
    if not content:
        return "0"
    return chr(content[0]) if content == content[:1] * len(content) else "?"


def _in_child(offsets: list[int], access: Callable[[int], str]) -> tuple[str, int]:
    """What a child says of the pages until it ends, and the signal that ended it or 0."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            for offset in offsets:
                os.write(writer, access(offset).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="ascii") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return said, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _check(result: int) -> None:
    if result < 0:
        raise _os_error()


def _os_error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
