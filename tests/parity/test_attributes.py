"""Extended attributes, locks between processes, leases and other fcntl(2) and ioctl(2) calls."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

from tests.parity.calls import raw_getxattr, raw_listxattr
from tests.parity.sides import (
    as_user,
    attempt,
    in_child,
    made,
    on_both,
    opened,
)

F_GETLEASE, F_SETLEASE = 1025, 1024
F_OFD_GETLK, F_OFD_SETLK = 36, 37
FIONREAD, FIGETBSZ, FIBMAP = 0x541B, 2, 1


def attributes(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in sorted(os.listxattr(path))}


@on_both
def test_extended_attributes(here: Path) -> Iterator[object]:
    made(here / "file")
    (here / "dir").mkdir()
    os.mkfifo(here / "fifo")
    names = ("user.a", "user." + "n" * 250, "user." + "n" * 251, "user.", "user", "a", "",
             "trusted.t", "security.s", "system.s", "system.posix_acl_unknown", "user.\xe9",
             "other.x", "user.fuse")  # fmt: skip
    for file, name in product(("file", "dir", "fifo"), names):
        path = here / file
        yield file, name, attempt(os.getxattr, path, name), attempt(os.removexattr, path, name)
        yield attempt(os.setxattr, path, name, b"1", os.XATTR_REPLACE)
        for value, flags in (
            (b"2", os.XATTR_CREATE),
            (b"3", os.XATTR_CREATE),
            (b"4", os.XATTR_REPLACE),
        ):
            yield attempt(os.setxattr, path, name, value, flags), attempt(os.getxattr, path, name)
        yield attempt(os.setxattr, path, name, b""), attempt(os.getxattr, path, name)
        yield attempt(os.setxattr, path, name, b"5", 3), attempts_list(path)
    for file in ("file", "dir", "fifo"):
        yield as_user(partial(_lists, file), here)
        for name in os.listxattr(here / file):
            os.removexattr(here / file, name)
        yield attempts_list(here / file)


def _lists(name: str, at: Path) -> list[object]:
    return [attempts_list(at / name)]


def attempts_list(path: Path) -> object:
    return attempt(lambda: sorted(os.listxattr(path)))


@on_both
def test_sizes_of_extended_attributes(here: Path) -> Iterator[object]:
    path = made(here / "file")
    for size in (0, 1, 255, 256, 4095, 4096, 65535, 65536, 65537):
        yield size, attempt(os.setxattr, path, f"user.s{size}", bytes(size))
    for name, value in attributes(path).items():
        yield name, len(value)
        for room in (0, 1, len(value) - 1, len(value)):
            yield room, attempt(raw_getxattr, path, name, room)
    for room in (0, 1, 20, 30, 1000):
        yield room, attempt(raw_listxattr, path, room)


@on_both
def test_attributes_move_with_the_inode(here: Path) -> Iterator[object]:
    path = made(here / "file")
    os.setxattr(path, "user.a", b"1")
    os.link(path, here / "link")
    os.rename(path, here / "new")
    yield attributes(here / "link"), attributes(here / "new")
    with opened(here / "new") as fd:
        os.unlink(here / "new")
        os.unlink(here / "link")
        os.setxattr(fd, "user.b", b"2")
        yield sorted(os.listxattr(fd)), os.getxattr(fd, "user.b")
    made(here / "file")
    yield attributes(here / "file")


@on_both
def test_locks(here: Path) -> Iterator[object]:
    """flock(2), fcntl(2) by process and by open file description, seen from another process."""
    path = made(here / "file", b"x" * 100)

    def other() -> list[object]:
        with opened(path) as fd:
            return [
                attempt(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
                attempt(fcntl.flock, fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
                attempt(fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0),
                attempt(fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 50),
                fcntl.fcntl(fd, fcntl.F_GETLK, _lock(fcntl.F_WRLCK, 0, 0))[:24],  # no process id
            ]

    with opened(path) as fd:
        yield in_child(other)
        for kind in (fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN):
            yield "flock", kind, attempt(fcntl.flock, fd, kind), in_child(other)
        for kind in (fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN):
            yield "lockf", kind, attempt(fcntl.lockf, fd, kind, 20, 5), in_child(other)
        for lock in (fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK):
            yield "OFD", attempt(_fcntl, fd, F_OFD_SETLK, _lock(lock, 50, 5)), in_child(other)
        fcntl.flock(fd, fcntl.LOCK_EX)
        fcntl.lockf(fd, fcntl.LOCK_EX)
    yield "closed", in_child(other)


def _lock(kind: int, start: int, length: int) -> bytes:
    return struct.pack("hhqqi", kind, os.SEEK_SET, start, length, 0)


def _fcntl(fd: int, command: int, argument: bytes) -> None:
    fcntl.fcntl(fd, command, argument)


@on_both
def test_other_calls_on_descriptors(here: Path) -> Iterator[object]:
    path = made(here / "file", b"x" * 5000)
    with opened(path) as fd, opened(here, os.O_RDONLY) as directory:
        os.lseek(fd, 1000, os.SEEK_SET)
        yield struct.unpack("i", fcntl.ioctl(fd, FIONREAD, bytes(4)))
        for request in (FIGETBSZ, 0x5401, 0xABCD):
            for on in (fd, directory):
                yield request, attempt(fcntl.ioctl, on, request, bytes(64))
        yield attempt(fcntl.fcntl, fd, F_GETLEASE), attempt(fcntl.fcntl, fd, 1026, 0)
        yield attempt(os.posix_fadvise, fd, 0, 0, os.POSIX_FADV_WILLNEED), os.isatty(fd)
        yield attempt(os.sync), attempt(os.fdatasync, directory)
        for name in ("PC_NAME_MAX", "PC_LINK_MAX", "PC_PIPE_BUF"):
            yield name, attempt(os.pathconf, path, name)
        yield os.fstat(fd).st_dev == os.fstat(directory).st_dev, os.path.ismount(here / "..")
