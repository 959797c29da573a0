"""PROCMAP_QUERY of the kernel (6.11): mappings of a mount's files, without reading text."""

from __future__ import annotations

import os

from vfs_volatile.native.library import ffi, lib

_ROOM = 64

Found = tuple[int, int, int, int, bool]
"""A mapping: start and end address, offset into the file in bytes, inode, shared?"""


def available() -> bool:
    """Does this kernel have it?"""
    try:
        query(os.getpid(), 0, 0)
    except OSError:
        return False
    return True


def query(pid: int, major: int, minor: int) -> list[Found]:
    """The mappings of files of a device in a process, by address.

    Raises OSError: ENOENT or ESRCH (no such process), EACCES (not to be looked at), ENOTTY (an
    older kernel).
    """
    fd = os.open(f"/proc/{pid}/maps", os.O_RDONLY | os.O_CLOEXEC)
    try:
        at = ffi.new("uint64_t *")
        found = ffi.new("struct procmap_found[]", _ROOM)
        mappings: list[Found] = []
        while True:
            count = lib.procmap_find(fd, major, minor, at, found, _ROOM)
            if count < 0:
                raise OSError(-count, os.strerror(-count))
            mappings += [(m.start, m.end, m.offset, m.ino, bool(m.shared)) for m in found[0:count]]
            if not at[0]:
                return mappings
    finally:
        os.close(fd)
