"""The file of a cache: made, checked, mended, and written by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from vfs_volatile.abi.ioctls import VRANGE_NONVOLATILE
from vfs_volatile.abi.xattrs import VOLATILE, format_ranges
from vfs_volatile.client.cache.layout import HEAD_BYTES, STATE_AT, Geometry, State
from vfs_volatile.client.cache.locks import ByteLocks, close_quietly
from vfs_volatile.client.cache.log import Log
from vfs_volatile.client.cache.memory import QuietMemory, Store
from vfs_volatile.client.calls import fvrange, fvrange_purge
from vfs_volatile.errors import CacheFormatError
from vfs_volatile.mountinfo import FSTYPE, read_mounts
from vfs_volatile.units import PAGE_SIZE

DEFAULT_SIZE = 1 << 30

_WRITERS = 1 << 62
"""The byte whose lock writers take. Bytes above it belong to the builders of keys."""
_KEYS = (1 << 60) - 1
_NAME = "volatile.cache"
"""Of the file, where a directory is given."""
_CHUNK = 1 << 16


class SharedFile:
    """An open cache file of a mount."""

    def __init__(self, path: str, size: int | None, entries: int | None) -> None:
        """Open ``path``, or make it. Raises OSError, ValueError, CacheFormatError."""
        self.path = os.path.join(path, _NAME) if os.path.isdir(path) else path
        _require_mount(self.path)
        if not os.path.exists(self.path):
            _make(self.path, Geometry.of(DEFAULT_SIZE if size is None else size, entries))
        self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        """-1 when closed. Its description is shared with children, and holds no lock."""
        self.locks = ByteLocks(self.fd)
        try:
            with self.locks.held(_WRITERS):
                self.geometry = self._prepare(size, entries)
                self.memory = QuietMemory(self.fd, self.geometry.file_bytes)
                self.log = Log(self.fd, self.geometry, self.memory.read, self.store)
                self.log.mark_again(State.unpack(self.memory.read(0, HEAD_BYTES)))
        except BaseException:
            self.locks.close()
            os.close(self.fd)
            raise
        _open_files.add(self)

    @contextmanager
    def writing(self, *, wait: bool = True) -> Iterator[State]:
        """Be the only writer. Raises OSError, ValueError (closed), CacheFormatError."""
        with self.locks.held(_WRITERS, wait=wait):
            yield self._state()

    @contextmanager
    def building(self, hashed: bytes) -> Iterator[None]:
        """Be the only one to build the value of a key. Raises RuntimeError, OSError."""
        number = int.from_bytes(hashed[:8], "little") & _KEYS
        with self.locks.held(_WRITERS + 1 + number):
            yield

    def store(self, stores: Sequence[Store]) -> None:
        """Store as a writer. Raises OSError (ENOSPC: the mount is full of what is not volatile).

        Other pages that cannot be had were marked by somebody else and purged, or truncated: then
        the file is mended, which loses entries, and they are stored all the same.
        """
        try:
            self.memory.store(stores)
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
            for offset, pieces in stores:
                os.posix_fallocate(self.fd, offset, sum(map(len, pieces)))
            self._mend()
            self.memory.store(stores)

    def clear(self, state: State) -> None:
        """Empty the index and let all records go, as a writer. Raises OSError."""
        for at in range(self.geometry.index_at, self.geometry.index_end, _CHUNK):
            length = min(_CHUNK, self.geometry.index_end - at)
            if any(self.memory.read(at, length)):  # a hole stays one
                self.store([(at, [bytes(length)])])
        self.log.seal(state)
        self.log.forget(state)
        self.store([(STATE_AT, [state.pack()])])
        fvrange_purge(self.fd, self.geometry.segments_at, self.geometry.size)

    def close(self, *, wait: bool = True) -> None:
        """Mark what was written, unless that were to wait and shall not, and let go of it all."""
        if self.fd < 0:
            return
        # The mount may be gone.
        with contextlib.suppress(OSError, CacheFormatError), self.writing(wait=wait) as state:
            self.log.seal(state)
            self.store([(STATE_AT, [state.pack()])])
        fd, self.fd = self.fd, -1
        self.locks.close()
        self.memory.close()
        close_quietly(fd)

    def forked(self) -> None:
        """We are a child now."""
        self.locks.forked()
        self.memory.forked()

    # ---- helpers ----

    def _prepare(self, size: int | None, entries: int | None) -> Geometry:
        """Check the file; an empty one is made a cache. Under the lock: others may do the same."""
        found = os.fstat(self.fd).st_size
        if not found:
            geometry = Geometry.of(DEFAULT_SIZE if size is None else size, entries)
            os.pwrite(self.fd, geometry.constants.ljust(PAGE_SIZE, b"\0"), 0)
        else:
            geometry = self._check(size, entries)
        if found < geometry.file_bytes:  # it was empty, or whoever filled it died just here
            os.ftruncate(self.fd, geometry.file_bytes)
        return geometry

    def _check(self, size: int | None, entries: int | None) -> Geometry:
        head = os.pread(self.fd, HEAD_BYTES, 0).ljust(HEAD_BYTES, b"\0")
        try:
            geometry = Geometry.read(head)
            State.unpack(head).check(geometry)
        except CacheFormatError as error:
            raise CacheFormatError(f"{self.path} {error}; give another path") from None
        wanted = Geometry.of(geometry.size if size is None else size, entries)
        if (size is not None and wanted.size != geometry.size) or (
            entries is not None and wanted.buckets != geometry.buckets
        ):
            raise ValueError(
                f"{self.path} was made with another size or entries; leave them out, or delete it"
            )
        return geometry

    def _state(self) -> State:
        """The state, which the lock of writers guards."""
        head = self.memory.read(0, HEAD_BYTES)
        if len(head) < HEAD_BYTES or not head.startswith(self.geometry.constants):
            self._mend()
            head = self.memory.read(0, HEAD_BYTES)
        return State.unpack(head)

    def _mend(self) -> None:
        """Take back what others marked or truncated: entries are lost, the cache goes on."""
        if os.fstat(self.fd).st_size < self.geometry.file_bytes:
            os.ftruncate(self.fd, self.geometry.file_bytes)
        fvrange(self.fd, 0, 0, VRANGE_NONVOLATILE)
        head = self.memory.read(0, PAGE_SIZE)
        if not head.startswith(self.geometry.constants):
            if any(head[:STATE_AT]):
                raise CacheFormatError(f"{self.path} was overwritten by somebody; delete it")
            self.memory.store([(0, [self.geometry.constants])])
        self.log.mark_again(State.unpack(self.memory.read(0, HEAD_BYTES)))


def _make(path: str, geometry: Geometry) -> None:
    """Make a cache under a name of its own and then give it ``path``, unless that is there by now.

    It is marked while it is opened, so that it takes the passthrough path where there is one: the
    daemon is not asked for pages then, and the kernel holds no second copy. Raises OSError.
    """
    new = f"{path}.{os.urandom(4).hex()}.new"
    os.mknod(new, stat.S_IFREG | 0o600)
    try:
        os.truncate(new, geometry.file_bytes)
        segments = format_ranges([(geometry.segments_at, geometry.size)])
        os.setxattr(new, VOLATILE, f"{segments};zero".encode())
        fd = os.open(new, os.O_WRONLY | os.O_CLOEXEC)
        try:
            fvrange(fd, 0, 0, VRANGE_NONVOLATILE)
            os.pwrite(fd, geometry.constants.ljust(PAGE_SIZE, b"\0"), 0)
        finally:
            os.close(fd)
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
    finally:
        os.unlink(new)


def _require_mount(path: str) -> None:
    """Raise OSError(ENOTTY) unless ``path`` lies on a mount: elsewhere nothing gives way."""
    found = os.stat(os.path.dirname(os.path.abspath(path)))
    device = (os.major(found.st_dev), os.minor(found.st_dev))
    if not any(mount.device == device and mount.fstype == FSTYPE for mount in read_mounts()):
        raise OSError(
            errno.ENOTTY,
            "not on a vfs-volatile mount; mount one with: vfs-volatile mount DIR",
            path,
        )


_open_files: weakref.WeakSet[SharedFile] = weakref.WeakSet()


def _after_fork() -> None:
    for file in list(_open_files):
        file.forked()


os.register_at_fork(after_in_child=_after_fork)
