"""PROCMAP_QUERY of the kernel (6.11): mappings of a mount's files, without reading text."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from vfs_volatile.native.library import ffi, lib

_ROOM = 256
_FOUND = struct.Struct("=QQQQi4x")
"""struct procmap_found of procmap.c."""
_SIZE = _FOUND.size

Found = tuple[int, int, int, int, bool]
"""A mapping: start and end address, offset into the file in bytes, inode, shared?"""


def available() -> bool:
    """Does this kernel have it?"""
    try:
        list(query(os.getpid(), 0, 0))
    except OSError:
        return False
    return True


def query(pid: int, major: int, minor: int) -> Iterator[Found]:
    """The mappings of files of a device in a process, by address.

    Raises OSError: ENOENT or ESRCH (no such process), EACCES (not to be looked at), ENOTTY (an
    older kernel).
    """
    fd = os.open(f"/proc/{pid}/maps", os.O_RDONLY | os.O_CLOEXEC)
    try:
        at = ffi.new("uint64_t *")
        found = ffi.new("struct procmap_found[]", _ROOM)
        memory = memoryview(ffi.buffer(found))
        while True:
            count = lib.procmap_find(fd, major, minor, at, found, _ROOM)
            if count < 0:
                raise OSError(-count, os.strerror(-count))
            for start, end, offset, ino, shared in _FOUND.iter_unpack(memory[: count * _SIZE]):
                yield start, end, offset, ino, bool(shared)
            if not at[0]:
                return
    finally:
        os.close(fd)
