"""System calls that ``os`` lacks, by ctypes. All raise OSError."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4

STATX_BTIME = 0x800
_SYS_GETDENTS64 = {"x86_64": 217}.get(os.uname().machine, 61)

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def renameat2(source: Path | str, goal: Path | str, flags: int) -> None:
    _check(_libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(goal), flags))


class Entry(NamedTuple):
    """One struct linux_dirent64; ``offset`` is where the next one begins."""

    ino: int
    offset: int
    type: int
    name: bytes


def getdents(fd: int, size: int = 1 << 15) -> list[Entry]:
    """The next entries of a directory, as many as fit into ``size`` bytes; none at its end."""
    buffer = ctypes.create_string_buffer(size)
    end = _check(_libc.syscall(_SYS_GETDENTS64, fd, buffer, size))
    entries = []
    at = 0
    while at < end:
        ino, offset, length, kind = struct.unpack_from("=QqHB", buffer, at)
        name = buffer.raw[at + 19 : at + length].partition(b"\0")[0]
        entries.append(Entry(ino, offset, kind, name))
        at += length
    return entries


def statx_mask(path: Path, wanted: int) -> int:
    """Which of the ``wanted`` fields the file system knows (stx_mask)."""
    return _statx(path, wanted)[0] & wanted


def birth_ns(path: Path) -> int:
    """When it was made. Raises OSError(ENODATA) if the file system does not say."""
    mask, seconds, ns = _statx(path, STATX_BTIME)
    if not mask & STATX_BTIME:
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
    return seconds * 10**9 + ns


def _statx(path: Path, wanted: int) -> tuple[int, int, int]:
    """Of struct statx: stx_mask, and stx_btime as (seconds, ns)."""
    buffer = ctypes.create_string_buffer(256)
    _check(_libc.statx(AT_FDCWD, bytes(path), AT_SYMLINK_NOFOLLOW, wanted, buffer))
    mask: int = struct.unpack_from("=I", buffer)[0]
    return mask, *struct.unpack_from("=qI", buffer, 80)


def utimensat(path: Path, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """With times as (seconds, ns), so that ns may be UTIME_NOW or UTIME_OMIT."""
    times = struct.pack("=qqqq", *atime, *mtime)
    _check(_libc.utimensat(AT_FDCWD, bytes(path), times, 0))


def mincore(address: int, pages: int) -> bytes:
    """One byte a page: 1 when it is in memory."""
    found = ctypes.create_string_buffer(pages)
    _check(_libc.mincore(ctypes.c_void_p(address), pages * os.sysconf("SC_PAGESIZE"), found))
    return found.raw


def cachestat(fd: int) -> int:
    """How many pages of a file are in the page cache (nr_cache of cachestat(2))."""
    whole, found = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
    _check(_libc.syscall(451, fd, whole, found, 0))
    return int(found[0])


def handle_of(path: Path) -> bytes:
    """The struct file_handle of name_to_handle_at(2)."""
    handle = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 8 + 128)
    mount = ctypes.c_int()
    _check(_libc.name_to_handle_at(AT_FDCWD, bytes(path), handle, ctypes.byref(mount), 0))
    return handle.raw


def open_by_handle(mount: int, handle: bytes) -> int:
    """A descriptor for reading; ``mount`` is one of anything in the mount."""
    return _check(_libc.open_by_handle_at(mount, handle, os.O_RDONLY))


def raw_getxattr(path: Path, name: str, room: int) -> int:
    """The size of the value, for a buffer of ``room`` bytes (ERANGE when it does not fit)."""
    buffer = ctypes.create_string_buffer(max(room, 1))
    return _check(_libc.getxattr(bytes(path), name.encode(), buffer, room))


def raw_listxattr(path: Path, room: int) -> int:
    buffer = ctypes.create_string_buffer(max(room, 1))
    return _check(_libc.listxattr(bytes(path), buffer, room))


def userfaultfd_takes(shared: mmap.mmap) -> bool:
    """Can missing pages of a mapping be registered? (<linux/userfaultfd.h>)"""
    user_mode_only, api_version, api, register, missing = 1, 0xAA, 0xC018AA3F, 0xC020AA00, 1
    number = {"x86_64": 323}.get(os.uname().machine, 282)
    fd = _check(_libc.syscall(number, os.O_CLOEXEC | user_mode_only))
    try:
        fcntl.ioctl(fd, api, struct.pack("=QQQ", api_version, 0, 0))
        start = ctypes.addressof(ctypes.c_char.from_buffer(shared))
        fcntl.ioctl(fd, register, struct.pack("=QQQQ", start, len(shared), missing, 0))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def fanotify_watches_file_system(path: Path) -> bool:
    """Does fanotify(7) report events of the whole file system of ``path`` by file handle?"""
    report_fid, mark_add, whole_file_system, create = 0x200, 0x1, 0x100, 0x100
    fd = _check(_libc.fanotify_init(report_fid, 0))
    try:
        flags, mask = mark_add | whole_file_system, ctypes.c_uint64(create)
        return bool(_libc.fanotify_mark(fd, flags, mask, AT_FDCWD, bytes(path)) == 0)
    finally:
        os.close(fd)
