"""Requests about open files: their data, and the calls of fvrange.h."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Coroutine
from typing import Any

import trio

from vfs_volatile.native import shim  # isort: skip  # must come before pyfuse3

from pyfuse3 import FileHandleT, InodeT, PollHandle, RequestContext

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.pages import MAX_BYTES, Data, Lent, in_memory
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.answers import Answers, space_of
from vfs_volatile.fs.inode import Handle, Inode
from vfs_volatile.units import pages_for

# <linux/falloc.h>
_FALLOC_KEEP_SIZE = 0x01
_FALLOC_PUNCH_HOLE = 0x02
_FALLOC_ZERO_RANGE = 0x10


class Files(Answers):
    """Open files. Those with a tid or without an await are the shim's (``shim.Handlers``)."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._handles: dict[int, Handle] = {}

    def open(self, ino: int, flags: int, tid: int) -> shim.Opened:  # type: ignore[override]
        return self._opened(self._tree.get(ino), flags, tid, new=False)

    def create(  # type: ignore[override]
        self, parent: int, name: bytes, mode: int, flags: int, caller: shim.Caller
    ) -> tuple[shim.Attributes, shim.Opened]:
        mode |= stat.S_IFREG
        inode = self._tree.create(parent, name, mode, caller.uid, caller.gid, umask=caller.umask)
        try:
            return self._created(inode, flags, caller)
        except BaseException:
            self._tree.unlink(parent, name)  # who is told that it failed need not look for it
            raise

    def tmpfile(
        self, parent: int, mode: int, flags: int, caller: shim.Caller
    ) -> tuple[shim.Attributes, shim.Opened]:
        """O_TMPFILE. Raises SyscallError."""
        inode = self._tree.create_unnamed(parent, mode, caller.uid, caller.gid, caller.umask)
        try:
            return self._created(inode, flags, caller)
        except BaseException:
            self._tree.forget(inode.number, 0)  # it has no name either
            raise

    def release(self, fh: int) -> Coroutine[Any, Any, None] | None:  # type: ignore[override]
        handle = self._handles.pop(fh)
        inode = handle.inode
        self._polls.closed(fh, inode.number)
        inode.closed(writable=handle.writable)
        if handle.attachment is not None:
            self._control.detached(handle.attachment)
        return self._end_of_use(inode) if self._direct.closed(inode) else None

    async def unused(self, inode: Inode) -> None:
        """Nobody has ``inode`` open or mapped any more."""
        end = self._end_of_use(inode)
        if end is not None:
            await end

    def _end_of_use(self, inode: Inode) -> Coroutine[Any, Any, None] | None:
        """What is to be done when nobody has ``inode`` open or mapped any more."""
        if self._rules.lifetime == "last-close" and inode.space is not None:
            return self._purges.end_unused(inode, inode.space)
        return None

    def read(  # type: ignore[override]  # the shim's: answered at once
        self, fh: int, offset: int, size: int
    ) -> shim.Bytes | Coroutine[Any, Any, shim.Bytes]:
        if self._aids.may_hold_reads:
            return self._read_later(fh, offset, size)
        return self._read(self._handles[fh], offset, size)

    async def _read_later(self, fh: int, offset: int, size: int) -> shim.Bytes:
        await self._aids.hold_read()
        return self._read(self._handles[fh], offset, size)

    @staticmethod
    def _read(handle: Handle, offset: int, size: int) -> shim.Bytes:
        space = space_of(handle.inode)
        found = space.locate(offset, size)
        if handle.touches_atime:
            handle.inode.touch_read()
        return space.read(offset, size) if found is None else found

    def write(  # type: ignore[override]  # the shim's: with write_back, and answered at once
        self, fh: int, offset: int, data: memoryview | Lent, *, write_back: bool
    ) -> int | Coroutine[Any, Any, int]:
        inode = self._handles[fh].inode
        if write_back:
            # Never to wait: the purger may be waiting for it.
            space_of(inode).write_back(offset, data)
            inode.touch_written()
            return len(data)
        if self._memory.shortage(pages_for(len(data)) + 1):
            return self._write_after_making_room(inode, offset, bytes(in_memory(data)))
        return self._write(inode, offset, data)

    async def _write_after_making_room(self, inode: Inode, offset: int, data: bytes) -> int:
        await self._purges.make_room(pages_for(len(data)) + 1)
        return self._write(inode, offset, data)

    @staticmethod
    def _write(inode: Inode, offset: int, data: Data) -> int:
        stored = space_of(inode).write(offset, data)
        inode.touch_written()
        return stored

    async def poll(
        self, inode: InodeT, fh: FileHandleT, poll_handle: PollHandle | None, ctx: RequestContext
    ) -> int:
        handle = self._handles[fh]
        if handle.attachment is not None:
            return handle.attachment.poll(poll_handle)
        return self._polls.poll(fh, handle, poll_handle)

    async def flush(self, fh: FileHandleT) -> None:
        raise SyscallError(errno.ENOSYS)  # the kernel writes back by itself and need not ask

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        raise SyscallError(errno.ENOSYS)  # the same

    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        """fallocate(2). Raises SyscallError: EOPNOTSUPP for other modes, ENOSPC, EFBIG."""
        inode = self._handles[fh].inode
        space = space_of(inode)
        keep_size = bool(mode & _FALLOC_KEEP_SIZE)
        if not mode & _FALLOC_PUNCH_HOLE:
            await self._purges.make_room(pages_for(length) + 1)
        match mode & ~_FALLOC_KEEP_SIZE:
            case 0:
                steps = space.allocating(offset, length, keep_size=keep_size)
            case _ if mode == _FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE:
                self._punch_beyond(inode, offset, length)
                steps = space.punching(offset, length)
            case _ if mode & ~_FALLOC_KEEP_SIZE == _FALLOC_ZERO_RANGE:
                steps = space.zeroing(offset, length, keep_size=keep_size)
            case _:
                raise SyscallError(errno.EOPNOTSUPP)
        for _ in steps:
            await trio.lowlevel.checkpoint()
        inode.touch_written()

    @staticmethod
    def _punch_beyond(inode: Inode, offset: int, length: int) -> None:
        """Where a file has grown unseen; nothing is marked or purged there."""
        beyond = max(offset, MAX_BYTES)
        if inode.file is not None and offset + length > beyond:
            inode.file.zero(beyond, offset + length - beyond)

    async def lseek(self, fh: int, offset: int, whence: int) -> int:
        """SEEK_DATA or SEEK_HOLE. What is dirty in the kernel alone is data too, so it is fetched
        first; of a file that nobody can write there is none. Raises SyscallError(ENXIO).
        """
        inode = self._handles[fh].inode
        if inode.writers and inode.file is None:
            await self._purges.drains.flush(inode.number)
        space = space_of(inode)
        if inode.file is None or inode.file.size() <= MAX_BYTES:
            return await _seek(space, offset, whence)
        if offset < MAX_BYTES:
            with contextlib.suppress(SyscallError):  # no data below: perhaps beyond
                if (found := await _seek(space, offset, whence)) < MAX_BYTES:
                    return found
        try:  # nothing there can be marked or purged: the file itself knows
            return os.lseek(inode.file.fileno(), max(offset, MAX_BYTES), whence)
        except OSError as error:
            raise SyscallError(error.errno or errno.EIO) from None

    def fvrange(
        self, fh: int, start: int, length: int, mode: int, behavior: int, tid: int
    ) -> int | None:
        """FVRANGE, if it has nothing to wait for. Raises SyscallError."""
        handle = self._handles[fh]
        return self._control.fvrange_at_once(handle, start, length, mode, behavior, tid)

    def ioctl(
        self, fh: int, command: int, data: bytes, tid: int
    ) -> bytes | Coroutine[Any, Any, bytes]:
        """The calls of fvrange.h. Raises SyscallError."""
        handle = self._handles[fh]
        answer = self._control.ioctl_at_once(handle, command, data, tid)
        return self._control.ioctl(handle, command, data, tid) if answer is None else answer

    def _created(
        self, inode: Inode, flags: int, caller: shim.Caller
    ) -> tuple[shim.Attributes, shim.Opened]:
        opened = self._opened(inode, flags, caller.tid, new=True)
        return self._known(inode), opened

    def _opened(self, inode: Inode, flags: int, tid: int, *, new: bool) -> shim.Opened:
        backing = self._direct.opening(inode, new=new)
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        fh = next(self._numbers)
        touches_atime = self._sets_atime and not flags & os.O_NOATIME
        self._handles[fh] = Handle(inode, writable=writable, touches_atime=touches_atime)
        inode.opened(tid, writable=writable)
        return shim.Opened(fh, backing)


async def _seek(space: AddressSpace, offset: int, whence: int) -> int:
    """Raises SyscallError(ENXIO)."""
    steps = space.seeking(offset, whence)
    while True:
        try:
            next(steps)
        except StopIteration as found:
            return int(found.value)
        await trio.lowlevel.checkpoint()
