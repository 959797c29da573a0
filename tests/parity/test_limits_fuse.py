"""What the FUSE protocol has no call for, and what the kernel does otherwise."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import resource
import select
import signal
import struct
from pathlib import Path

from tests.parity.calls import (
    fanotify_watches_file_system,
    mincore,
    userfaultfd_takes,
)
from tests.parity.limits import limit
from tests.parity.sides import attempt, in_child, is_empty, made, opened
from tests.support.acls import ACCESS, acl
from tests.support.files import fallocate

PAGE = 4096
KEEP_SIZE = 1
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_GETFSUUID, FIBMAP = 0x80086601, 0x40086602, 0x80111500, 1
F_ADD_SEALS, F_GET_SEALS, F_SEAL_SEAL = 1033, 1034, 1


@limit("seals", ours=("EINVAL", "EINVAL"), tmpfs=(F_SEAL_SEAL, "EPERM"))
def test_seals(here: Path) -> object:
    with opened(here / "file") as fd:
        return attempt(fcntl.fcntl, fd, F_GET_SEALS), attempt(fcntl.fcntl, fd, F_ADD_SEALS, 1)


@limit(
    "ACLs of more than 511 entries", ours=[(None, True), ("E2BIG", False)], tmpfs=[(None, True)] * 2
)
def test_long_access_control_lists(here: Path) -> object:
    """fuse_set_acl in linux/fs/fuse/acl.c has a page for it."""
    seen = []
    for named in (511 - 4, 511 - 3):
        users = "".join(f"u{uid}:rx," for uid in range(1, named + 1))
        path, value = made(here / f"{named}"), acl(f"u:rwx,{users}g:,m:rwx,o:")
        answer = attempt(os.setxattr, path, ACCESS, value)
        seen.append((answer, attempt(os.getxattr, path, ACCESS) == value))
    return seen


@limit("inode flags", ours=("ENOTTY", "ENOTTY"), tmpfs=("ok", "ok"))
def test_inode_flags(here: Path) -> object:
    with opened(here / "file") as fd:
        return (
            _ioctl(fd, FS_IOC_GETFLAGS, bytes(8)),
            _ioctl(fd, FS_IOC_SETFLAGS, struct.pack("q", 64)),  # FS_NODUMP_FL
        )


def _ioctl(fd: int, request: int, argument: bytes) -> object:
    result = attempt(fcntl.ioctl, fd, request, argument)
    return result if isinstance(result, str) else "ok"


@limit("epoll on a regular file", ours="ok", tmpfs="EPERM")
def test_epoll(here: Path) -> object:
    with opened(here / "file") as fd, select.epoll() as watch:
        return attempt(watch.register, fd, select.EPOLLIN) or "ok"


@limit("userfaultfd", ours=False, tmpfs=True)
def test_userfaultfd(here: Path) -> object:
    with opened(here / "file") as fd:
        os.ftruncate(fd, PAGE)
        with mmap.mmap(fd, PAGE) as shared:
            return userfaultfd_takes(shared)


@limit("identity of the file system", ours=(0, "ENOTTY", False), tmpfs=(True, "ok", True))
def test_identity(here: Path) -> object:
    number = os.statvfs(here).f_fsid
    with opened(here / "file") as fd:
        return (
            number and number != 0,
            _ioctl(fd, FS_IOC_GETFSUUID, bytes(17)),
            fanotify_watches_file_system(here),
        )


@limit("`FIBMAP`", ours="ok", tmpfs="EINVAL")
def test_block_numbers(here: Path) -> object:
    with opened(here / "file") as fd:
        return _ioctl(fd, FIBMAP, bytes(4))


@limit("`lseek` on a directory", ours=("ok", "ok"), tmpfs=("EINVAL", "EINVAL"))
def test_seeking_in_a_directory(here: Path) -> object:
    with opened(here, os.O_RDONLY) as fd:
        results = attempt(os.lseek, fd, 0, os.SEEK_END), attempt(os.lseek, fd, 0, os.SEEK_DATA)
        return tuple("ok" if isinstance(result, int) else result for result in results)


@limit("`RLIMIT_FSIZE` and `FALLOC_FL_KEEP_SIZE`", ours=None, tmpfs="EFBIG")
def test_allocating_beyond_the_limit_on_file_size(here: Path) -> object:
    def child() -> object:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE, PAGE))
        with opened(here / "file") as fd:
            return attempt(fallocate, fd, KEEP_SIZE, 0, 2 * PAGE)

    return in_child(child)


@limit("space of deleted files", ours=True, tmpfs=True)
def test_deleted_files_give_their_space_back(here: Path) -> object:
    """How soon cannot be proved, only that it comes."""
    with opened(here / "file") as fd:
        fallocate(fd, 0, 0, 100 * PAGE)
        os.unlink(here / "file")
    return is_empty(here)


@limit("truncating and the page cache", ours=(4, 0), tmpfs=(4, 4))
def test_truncating_empties_the_page_cache(here: Path) -> object:
    with opened(here / "file") as fd:
        os.pwrite(fd, b"x" * 4 * PAGE, 0)
        with mmap.mmap(fd, 4 * PAGE) as shared:
            address = ctypes.addressof(ctypes.c_char.from_buffer(shared))
            before = sum(mincore(address, 4))
            os.ftruncate(fd, 5 * PAGE)
            return before, sum(mincore(address, 4))
