"""A tmpfs of the daemon's own, mounted nowhere: one file of it for each inode on the direct path.

The kernel lets processes reach such a file without us (FUSE passthrough), and frees everything when
the daemon lets go of it. A file is reached by its name, so that a million cost no descriptors.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from vfs_volatile.core.held import last_few_pages
from vfs_volatile.core.pages import LAST_PAGE, Data, Extent, PageSpan, in_memory
from vfs_volatile.errors import REFUSALS
from vfs_volatile.store.arena import fallocate_keeping_size, punch
from vfs_volatile.units import PAGE_SIZE, pages_for

# System calls since Linux 5.2, with the same number on every machine (<asm-generic/unistd.h>), and
# their constants (<linux/mount.h>).
_FSOPEN, _FSCONFIG, _FSMOUNT, _FSPICK = 430, 431, 432, 433
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = _FSPICK_CLOEXEC = 1
_FSPICK_EMPTY_PATH = 8
_SET_STRING, _CMD_CREATE, _CMD_RECONFIGURE = 1, 6, 7
_NOSUID_NODEV, _NOATIME = 0x2 | 0x4, 0x10

_CACHESTAT = 451
"""cachestat(2), Linux 6.5, with the same number on every machine too."""
_CACHESTAT_RANGE = struct.Struct("=QQ")
_CACHESTAT_FOUND = ctypes.c_uint64 * 5
"""<linux/mman.h>: nr_cache, nr_dirty, nr_writeback, nr_evicted, nr_recently_evicted."""

_FREED_AT_ONCE = 1 << 14
"""Pages: some five milliseconds."""
_BEYOND = (1 << 63) // PAGE_SIZE - 1
"""A page that no file reaches."""
_MAX_OPEN = 256
"""Descriptors kept open, of the files used last."""

_libc = ctypes.CDLL(None, use_errno=True)


def _system_call(number: int, *arguments: object) -> int:
    """Raises OSError."""
    try:
        result: int = _libc.syscall(number, *arguments)
    except ctypes.ArgumentError:  # all are of the right types
        raise MemoryError from None
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _held_in(fd: int, span: PageSpan) -> int:
    """How many pages of ``span`` of a file hold memory, or a place in swap. Raises OSError.

    SEEK_DATA passes over what fallocate(2) gave and nobody has touched; SEEK_HOLE goes on to the
    next hole, however far that is, and takes ten times as long for a page.
    """
    found = _CACHESTAT_FOUND()
    first, end = span
    _system_call(
        _CACHESTAT,
        fd,
        _CACHESTAT_RANGE.pack(first * PAGE_SIZE, (end - first) * PAGE_SIZE),
        found,
        0,
    )
    return int(found[0] + found[3])


def in_use(fd: int) -> bool:
    """Does anybody else have it open or mapped?

    The kernel grants a write lease only to the sole opener (check_conflicting_open in
    linux/fs/locks.c).
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return True
        raise
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _require_cachestat() -> None:
    """Raises OSError: ENOSYS before Linux 6.5, or if a filter of system calls does not know it."""
    fd = os.memfd_create("vfs-volatile", os.MFD_CLOEXEC)
    try:
        _held_in(fd, PageSpan(0, 1))
    finally:
        os.close(fd)


class DetachedTmpfs:
    """The tmpfs. To make one raises OSError: EPERM without CAP_SYS_ADMIN, ENOSYS before 6.5."""

    def __init__(self, limit_pages: int, *, sets_atime: bool = True) -> None:
        _require_cachestat()
        context = _system_call(_FSOPEN, b"tmpfs", _FSOPEN_CLOEXEC)
        try:
            settings = {
                b"size": str(limit_pages * PAGE_SIZE).encode(),
                b"nr_inodes": b"0",  # as many as the mount has
                b"huge": b"never",  # a page purged must free a page
                b"mode": b"700",
            }
            for key, value in settings.items():
                _system_call(_FSCONFIG, context, _SET_STRING, key, value, 0)
            _system_call(_FSCONFIG, context, _CMD_CREATE, None, None, 0)
            flags = _NOSUID_NODEV | (0 if sets_atime else _NOATIME)
            self._root = _system_call(_FSMOUNT, context, _FSMOUNT_CLOEXEC, flags)
        finally:
            os.close(context)
        self._limit_pages = limit_pages
        self.used = False
        """Has a file ever been made?"""
        self._open: OrderedDict[str, int] = OrderedDict()
        self.left: list[int] = []
        """Descriptors of removed files that hold much: nothing is freed while they are open."""
        self.when_left: Callable[[], object] = self.free_all
        """Called when one was left: it is to be freed soon. It must not raise."""

    def make_file(self, ino: int) -> DetachedFile:
        """A new, empty file for inode ``ino``. Raises OSError."""
        self.used = True
        name = str(ino)
        self._keep(name, self._opened(name, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        return DetachedFile(self, name)

    def held_pages(self) -> int:
        """Pages that all files hold together."""
        found = os.fstatvfs(self._root)
        return (found.f_blocks - found.f_bfree) * found.f_frsize // PAGE_SIZE

    def limit(self, pages: int) -> None:
        """Let the files hold ``pages`` together, or what they hold already: then ENOSPC."""
        if pages == self._limit_pages:
            return
        pages = max(pages, self.held_pages(), 1)  # 0 would mean no limit
        flags = _FSPICK_CLOEXEC | _FSPICK_EMPTY_PATH
        context = _system_call(_FSPICK, self._root, b"", flags)
        try:
            value = str(pages * PAGE_SIZE).encode()
            _system_call(_FSCONFIG, context, _SET_STRING, b"size", value, 0)
            _system_call(_FSCONFIG, context, _CMD_RECONFIGURE, None, None, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:  # somebody has just stored more
                raise
        else:
            self._limit_pages = pages
        finally:
            os.close(context)

    def descriptor(self, name: str) -> int:
        """A descriptor of a file; it may be closed when the next is asked for. Raises OSError."""
        fd = self._open.get(name)
        if fd is None:
            fd = self._opened(name, os.O_RDWR)
            self._keep(name, fd)
        else:
            self._open.move_to_end(name)
        return fd

    def remove(self, name: str) -> None:
        """Free a file, now or soon if it holds much; who has it mapped keeps it."""
        with contextlib.suppress(*REFUSALS):  # then all of it goes when the last who has it ends
            self.descriptor(name)
        fd = self._open.pop(name, None)
        try:
            os.unlink(name, dir_fd=self._root)
        finally:
            if fd is not None:
                self._leave(fd)

    def free_some(self, fd: int) -> bool:
        """Free _FREED_AT_ONCE pages of a file that was left, the last first; does it hold more?

        Nobody else may have it. Raises OSError.
        """
        end = pages_for(os.fstat(fd).st_size)
        if _held_in(fd, PageSpan(end, _BEYOND)):
            end = _BEYOND
        keep = last_few_pages(partial(_held_in, fd), end, _FREED_AT_ONCE)
        os.ftruncate(fd, keep * PAGE_SIZE)
        return keep > 0

    def free_all(self) -> None:
        """Free all files that were left."""
        while self.left:
            os.close(self.left.pop())

    def close(self) -> None:
        for fd in (*self.left, *self._open.values(), self._root):
            os.close(fd)

    def _leave(self, fd: int) -> None:
        with contextlib.suppress(*REFUSALS):
            if os.fstat(fd).st_blocks * 512 > _FREED_AT_ONCE * PAGE_SIZE:
                self.left.append(fd)
                self.when_left()
                return
        os.close(fd)

    def _opened(self, name: str, flags: int) -> int:
        """A descriptor; where there is no other left, in the place of one that is kept."""
        while True:
            try:
                flags |= os.O_CLOEXEC | os.O_NOATIME
                return os.open(name, flags, 0o600, dir_fd=self._root)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._open:
                    raise
            os.close(self._open.popitem(last=False)[1])

    def _keep(self, name: str, fd: int) -> None:
        self._open[name] = fd
        if len(self._open) > _MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])


class DetachedFile:
    """A :class:`~vfs_volatile.core.pages.DirectStore`: one file of the tmpfs."""

    __slots__ = ("_name", "_tmpfs")

    def __init__(self, tmpfs: DetachedTmpfs, name: str) -> None:
        self._tmpfs = tmpfs
        self._name = name

    def fileno(self) -> int:
        """Its descriptor, until that of another file is asked for."""
        return self._tmpfs.descriptor(self._name)

    def size(self) -> int:
        return os.lseek(self.fileno(), 0, os.SEEK_END)  # a quarter of what fstat(2) takes

    def stat(self) -> os.stat_result:
        return os.fstat(self.fileno())

    def set_times(self, atime_ns: int, mtime_ns: int) -> None:
        os.utime(self.fileno(), ns=(atime_ns, mtime_ns))

    def held(self) -> int:
        return os.fstat(self.fileno()).st_blocks * 512 // PAGE_SIZE

    def in_use(self) -> bool:
        """Does anybody else have it open or mapped?"""
        return in_use(self.fileno())

    def held_in(self, span: PageSpan) -> int:
        return _held_in(self.fileno(), span)

    def next_data(self, page: int) -> int | None:
        try:
            found = os.lseek(self.fileno(), page * PAGE_SIZE, os.SEEK_DATA) // PAGE_SIZE
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            raise
        return found if found < LAST_PAGE else None

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self.fileno(), length, offset).ljust(length, b"\0")

    def extent(self, offset: int, length: int) -> Extent | None:
        return None  # the kernel reads it without us

    def write(self, offset: int, data: Data) -> int:
        return os.pwrite(self.fileno(), in_memory(data), offset)

    def zero(self, offset: int, length: int) -> None:
        punch(self.fileno(), offset, length)

    def allocate(self, span: PageSpan) -> None:
        """Such a page is made zero when it is touched: warm in the cache for whoever touches it."""
        start, end = span.first * PAGE_SIZE, span.end * PAGE_SIZE
        fallocate_keeping_size(self.fileno(), start, end - start)

    def drop(self, span: PageSpan) -> None:
        before = self.stat()
        punch(self.fileno(), span.first * PAGE_SIZE, (span.end - span.first) * PAGE_SIZE)
        with contextlib.suppress(OSError):  # what has gone has to be told, whatever the times say
            self.set_times(before.st_atime_ns, before.st_mtime_ns)  # a purge is no write

    def truncate(self, size: int) -> None:
        os.ftruncate(self.fileno(), size)

    def close(self) -> None:
        self._tmpfs.remove(self._name)
