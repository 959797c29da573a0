"""Every row of ``docs/limits.md``, proved on both sides, so that the list stays true."""

from __future__ import annotations

import ctypes
import faulthandler
import fcntl
import mmap
import os
import re
import resource
import select
import signal
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import vfs_volatile
from tests.parity.calls import (
    STATX_BTIME,
    fanotify_watches_file_system,
    mincore,
    statx_mask,
    userfaultfd_takes,
)
from tests.parity.sides import Sides, as_user, attempt, in_child, is_empty, made, opened, try_open
from tests.parity.test_permissions import OTHER, owned
from tests.support.files import FALLOC_FL_ZERO_RANGE, fallocate
from tests.support.mount import MountFactory

PAGE = 4096
KEEP = 1
PUNCH = 3
OLD = 10**18
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_GETFSUUID, FIBMAP = 0x80086601, 0x40086602, 0x80111500, 1
FS_APPEND_FL = 0x20
F_ADD_SEALS, F_GET_SEALS, F_SEAL_SEAL = 1033, 1034, 1
DOCUMENT = Path(vfs_volatile.__file__).parent / "docs" / "limits.md"

ROWS: list[str] = []
"""First cells of the rows that a test below proves."""


def limit(row: str, *, ours: object, tmpfs: object) -> Callable[..., Callable[[Sides], None]]:
    """A test that a scene ends so on our mount, and so on tmpfs, as the row ``row`` says."""
    ROWS.append(row)

    def decorate(scene: Callable[[Path], object]) -> Callable[[Sides], None]:
        def test(sides: Sides) -> None:
            assert (scene(sides.ours), scene(sides.tmpfs)) == (ours, tmpfs)

        test.__name__ = scene.__name__
        return test

    return decorate


def test_the_document_lists_what_is_proved_here() -> None:
    rows = re.findall(r"^\| (.+?) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(row for row in rows if row != "what" and set(row) != {"-"}) == sorted(set(ROWS))


# ---- what the FUSE protocol, or libfuse, has no call for ----


@limit("`O_TMPFILE`", ours="ENOTSUP", tmpfs="ok")
def test_unnamed_temporary_files(here: Path) -> object:
    return try_open(here, os.O_TMPFILE | os.O_RDWR)


@limit("seals", ours=("EINVAL", "EINVAL"), tmpfs=(F_SEAL_SEAL, "EPERM"))
def test_seals(here: Path) -> object:
    with opened(here / "file") as fd:
        return attempt(fcntl.fcntl, fd, F_GET_SEALS), attempt(fcntl.fcntl, fd, F_ADD_SEALS, 1)


@limit("birth time", ours=0, tmpfs=STATX_BTIME)
def test_birth_time(here: Path) -> object:
    return statx_mask(made(here / "file"), STATX_BTIME)


@limit("POSIX ACLs", ours=("ENOTSUP", True), tmpfs=(None, True))
def test_access_control_lists(here: Path) -> object:
    user_obj, user, group_obj, mask, other = 1, 2, 4, 16, 32  # <linux/posix_acl.h>
    entries = ((user_obj, 6, -1), (user, 7, 5), (group_obj, 4, -1), (mask, 7, -1), (other, 4, -1))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    path, name = made(here / "file"), "system.posix_acl_access"
    return attempt(os.setxattr, path, name, acl), attempt(os.getxattr, path, name) in (
        "ENOTSUP",
        acl,
    )


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


# ---- what the kernel's side of FUSE does otherwise ----


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
            return attempt(fallocate, fd, KEEP, 0, 2 * PAGE)

    return in_child(child)


@limit("set-group-ID without execution by the group", ours="-rw-rwSrw-", tmpfs="-rw-rw-rw-")
def test_set_group_id_without_execution(here: Path) -> object:
    path = owned(here / "file", 0, 0o2666, OTHER)
    os.chmod(here, 0o777)
    as_user(lambda at: [attempt(os.truncate, at / "file", 3)], here)
    return stat.filemode(os.stat(path).st_mode)


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


# ---- times ----


@contextmanager
def changes(path: Path, seen: list[str]) -> Iterator[None]:
    """Which of its times change: appends for instance ``mc``."""
    before = os.stat(path)
    time.sleep(0.01)  # two ticks of the clock of tmpfs
    yield
    after = os.stat(path)
    names = {"a": "st_atime_ns", "m": "st_mtime_ns", "c": "st_ctime_ns"}
    seen.append("".join(k for k, n in names.items() if getattr(before, n) != getattr(after, n)))


@limit("atime of cached reads", ours=["", "", "a"], tmpfs=["a", "a", "a"])
def test_reading_from_the_page_cache(here: Path) -> object:
    seen: list[str] = []
    for offset, cached in ((0, True), (10 * PAGE, True), (0, False)):
        path = made(here / f"{offset}{cached}", b"x" * PAGE)
        os.utime(path, ns=(OLD, OLD + 1))
        with opened(path, os.O_RDONLY) as fd:
            if not cached:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            with changes(path, seen):
                os.pread(fd, 1, offset)
    return seen


@limit("atime of `mmap`", ours=[""], tmpfs=["a"])
def test_mapping_and_atime(here: Path) -> object:
    seen: list[str] = []
    path = made(here / "file", b"x" * PAGE)
    os.utime(path, ns=(OLD, OLD + 1))
    with opened(path) as fd, changes(path, seen):
        mmap.mmap(fd, PAGE).close()
    return seen


@limit("times of FIFOs and sockets", ours=["", "", ""], tmpfs=["mc", "a", "a"])
def test_using_fifos_and_sockets(here: Path) -> object:
    seen: list[str] = []
    os.mkfifo(here / "fifo")
    with opened(here / "fifo", os.O_RDWR) as fd:
        with changes(here / "fifo", seen):
            os.write(fd, b"x")
        os.utime(here / "fifo", ns=(OLD, OLD + 1))
        with changes(here / "fifo", seen):
            os.read(fd, 1)
    start = os.open(".", os.O_PATH)
    os.chdir(here)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("socket")
            server.listen()
            with changes(here / "socket", seen):
                client.connect("socket")
    finally:
        os.fchdir(start)
        os.close(start)
    return seen


@limit("`O_NOATIME` on a directory", ours=["a"], tmpfs=[""])
def test_reading_a_directory_without_a_trace(here: Path) -> object:
    seen: list[str] = []
    os.utime(here, ns=(OLD, OLD + 1))
    with opened(here, os.O_RDONLY | os.O_NOATIME) as fd, changes(here, seen):
        os.listdir(fd)
    return seen


ROWS.append("`-o noatime`, `-o nodiratime`")


def test_the_option_noatime(mount: MountFactory) -> None:
    mounted = mount(**{"allow-other": "-onoatime"})
    assert os.statvfs(mounted.path).f_flag & os.ST_NOATIME
    path = made(mounted.path / "file", b"x" * PAGE)
    seen: list[str] = []
    os.utime(path, ns=(OLD, OLD + 1))
    with opened(path, os.O_RDONLY) as fd:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        with changes(path, seen):
            os.pread(fd, 1, 0)
    assert seen == ["a"]


# ---- stores through a mapping: the kernel tells of them when it writes them back ----


@limit("times and blocks after a store", ours=("", 0, "mc", 8), tmpfs=("mc", 8, "", 8))
def test_a_store_is_seen_at_write_back(here: Path) -> object:
    path = here / "file"
    seen: list[str] = []
    with opened(path) as fd:
        os.ftruncate(fd, PAGE)
        with mmap.mmap(fd, PAGE) as shared:
            with changes(path, seen):
                shared[0] = 1
            before = os.stat(path).st_blocks
            with changes(path, seen):
                shared.flush()
            return seen[0].strip("a"), before, seen[1], os.stat(path).st_blocks


@limit("a store beyond the end of file", ours=(5, 0), tmpfs=(5, 5))
def test_storing_beyond_the_end(here: Path) -> object:
    with opened(here / "file") as fd:
        os.ftruncate(fd, PAGE)
        with mmap.mmap(fd, PAGE) as shared:
            os.ftruncate(fd, 100)
            shared[120] = 5
            before = shared[120]
            shared.flush()
            return before, shared[120]


@limit("a store when the mount is full", ours=("stored", "ENOSPC"), tmpfs=("SIGBUS", None))
def test_storing_on_a_full_mount(here: Path) -> object:
    assert is_empty(here)
    with opened(here / "most") as most, opened(here / "file") as fd:
        fallocate(most, 0, 0, os.statvfs(here).f_bfree * PAGE)
        os.ftruncate(fd, PAGE)
        with mmap.mmap(fd, PAGE) as shared:
            pid = os.fork()
            if pid == 0:
                faulthandler.disable()
                shared[0] = 1
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            result = attempt(shared.flush)
    return ("SIGBUS" if os.WIFSIGNALED(status) else "stored"), result


# ---- chosen, not forced ----


@limit("loading a hole through a mapping", ours=(0, "ENXIO"), tmpfs=(8, 0))
def test_a_loaded_hole_stays_a_hole(here: Path) -> object:
    with opened(here / "file") as fd:
        os.ftruncate(fd, PAGE)
        with mmap.mmap(fd, PAGE) as shared:
            assert shared[0] == 0
        return os.fstat(fd).st_blocks, attempt(os.lseek, fd, 0, os.SEEK_DATA)


@limit("pages that are allocated and not written", ours=0, tmpfs="ENXIO")
def test_what_is_allocated_is_data(here: Path) -> object:
    """linux/mm/filemap.c, mapping_seek_hole_data: a folio that is not uptodate is no data."""
    with opened(here / "file") as fd:
        fallocate(fd, 0, 0, PAGE)
        return attempt(os.lseek, fd, 0, os.SEEK_DATA)


@limit("blocks of long symbolic links", ours=[0, 0], tmpfs=[0, 8])
def test_long_symbolic_links(here: Path) -> object:
    """linux/mm/shmem.c, SHORT_SYMLINK_LEN."""
    for length in (127, 128):
        os.symlink("t" * length, here / f"{length}")
    return [os.lstat(here / f"{length}").st_blocks for length in (127, 128)]


@limit("files larger than 16 TiB", ours=("EFBIG", "EFBIG", 2), tmpfs=(None, 3, 3))
def test_the_largest_file(here: Path) -> object:
    largest = 1 << 44
    with opened(here / "file") as fd:
        return (
            attempt(os.ftruncate, fd, largest + 1),
            attempt(os.pwrite, fd, b"abc", largest),
            attempt(os.pwrite, fd, b"abc", largest - 2),
        )


@limit("`FALLOC_FL_ZERO_RANGE`", ours=None, tmpfs="ENOTSUP")
def test_zero_range(here: Path) -> object:
    with opened(here / "file") as fd:
        return attempt(fallocate, fd, FALLOC_FL_ZERO_RANGE, 0, PAGE)


@limit("our own attributes", ours=("ENODATA", "ENOTSUP"), tmpfs=("ENODATA", None))
def test_reserved_attributes(here: Path) -> object:
    path, name = made(here / "file"), "user.fvrange.other"
    return attempt(os.getxattr, path, name), attempt(os.setxattr, path, name, b"1")


ROWS.append("set-id programs, devices, other users")


def test_mount_options(mount: MountFactory) -> None:
    """The same hardly differs from any FUSE mount: libfuse mounts nosuid,nodev."""
    mounted = mount()
    flags = os.statvfs(mounted.path).f_flag
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NODEV
    os.chmod(mounted.path, 0o777)
    assert as_user(_look_around, mounted.path.parent) == ["EACCES"]


def _look_around(at: Path) -> list[object]:
    return [attempt(os.listdir, at / "mnt")]
