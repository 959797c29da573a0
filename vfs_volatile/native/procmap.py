"""PROCMAP_QUERY of the kernel (6.11): mappings of a mount's files, without reading text."""

from __future__ import annotations

import os
from collections.abc import Iterator

from vfs_volatile.native.library import ffi, lib

_ROOM = 1000
_FIELDS = 5
"""Of struct procmap_found (procmap.c), 64 bits each."""

Columns = tuple[list[int], list[int], list[int], list[int], list[int]]
"""Mappings: start and end addresses, offsets into the files in bytes, inodes, 1 where shared."""


def available() -> bool:
    """Does this kernel have it?"""
    try:
        list(query(os.getpid(), 0, 0))
    except OSError:
        return False
    return True


def query(pid: int, major: int, minor: int) -> Iterator[Columns]:
    """The mappings of files of a device in a process, by address, up to a thousand at a time.

    Raises OSError: ENOENT or ESRCH (no such process), EACCES (not to be looked at), ENOTTY (an
    older kernel).
    """
    fd = os.open(f"/proc/{pid}/maps", os.O_RDONLY | os.O_CLOEXEC)
    try:
        at = ffi.new("uint64_t *")
        found = ffi.new("struct procmap_found[]", _ROOM)
        fields = memoryview(ffi.buffer(found)).cast("B").cast("Q")
        while True:
            count = lib.procmap_find(fd, major, minor, at, found, _ROOM)
            if count < 0:
                raise OSError(-count, os.strerror(-count))
            if count:
                rows = fields[: count * _FIELDS]
                starts, ends, offsets, inodes, shared = (
                    rows[field::_FIELDS].tolist() for field in range(_FIELDS)
                )
                yield starts, ends, offsets, inodes, shared
            if not at[0]:
                return
    finally:
        os.close(fd)
