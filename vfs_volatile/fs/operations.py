"""The pyfuse3 adapter: turns requests of the kernel into calls of tree, address_space and control.

Nothing is decided here. Every handler but those of xattrs and ioctls runs to its end without an
await, so it never sees a half-made change. The daemon never opens, stats or lists its own mount.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Coroutine, Sequence
from itertools import count
from typing import Any

from vfs_volatile.native import shim  # isort: skip  # must come before pyfuse3

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from vfs_volatile.abi import xattrs
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.semantics import Semantics
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.control import Control
from vfs_volatile.fs.guard import answers_errors
from vfs_volatile.fs.inode import FIRST_COOKIE, Handle, Inode
from vfs_volatile.fs.purges import Purges
from vfs_volatile.fs.tree import NAME_MAX, ROOT, Tree
from vfs_volatile.units import PAGE_SIZE, pages_for

_CACHE_SECONDS = 3600.0
"""How long the kernel may trust names and attributes: it alone changes them, so for long."""

# <linux/falloc.h>
_FALLOC_KEEP_SIZE = 0x01
_FALLOC_PUNCH_HOLE = 0x02
_FALLOC_ZERO_RANGE = 0x10


@answers_errors
class Operations(pyfuse3.Operations):
    """The requests that pyfuse3 hands on, and those of the shim (``shim.Handlers``)."""

    enable_writeback_cache = False
    supports_dot_lookup = True

    def __init__(
        self, rules: Semantics, tree: Tree, memory: Memory, control: Control, purges: Purges
    ) -> None:
        super().__init__()
        # -- dependencies --
        self._rules = rules
        self._tree = tree
        self._memory = memory
        self._control = control
        self._purges = purges
        # -- mutable --
        self._handles: dict[int, Handle] = {}
        self._directories: dict[int, Inode] = {}
        self._numbers = count(1)
        """Of handles, files and directories together: one is never taken for another."""

    # ---- names ----

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        inode = self._tree.lookup(parent_inode, name)
        if inode is None:
            return _no_entry()
        return self._found(inode)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for number, lookups in inode_list:
            self._tree.forget(number, lookups)

    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._found(self._tree.create(parent_inode, name, mode, ctx.uid, ctx.gid, rdev=rdev))

    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        return self._found(self._tree.create(parent_inode, name, mode, ctx.uid, ctx.gid))

    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        mode = stat.S_IFLNK | 0o777
        return self._found(
            self._tree.create(parent_inode, name, mode, ctx.uid, ctx.gid, target=target)
        )

    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        return self._found(self._tree.link(inode, new_parent_inode, new_name))

    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        self._tree.unlink(parent_inode, name)

    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        self._tree.rmdir(parent_inode, name)

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        self._tree.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        found = self._tree.get(inode)
        found.touch_read()
        return FileNameT(found.target)

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        found, _ = self._tree.directory(inode)
        fh = FileHandleT(next(self._numbers))
        self._directories[fh] = found
        return fh

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        directory = self._directories[fh]
        directory.touch_read()
        assert directory.directory is not None
        for cookie, name, inode in directory.directory.after(start_id, directory):
            if not pyfuse3.readdir_reply(token, FileNameT(name), _attributes(inode), cookie):
                return
            if cookie >= FIRST_COOKIE:  # of "." and ".." the kernel takes no reference
                inode.lookups += 1

    async def releasedir(self, fh: FileHandleT) -> None:
        del self._directories[fh]

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        raise SyscallError(errno.ENOSYS)  # nothing to sync: the kernel need not ask again

    # ---- attributes ----

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return _attributes(self._tree.get(inode))

    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        found = self._tree.get(inode)
        if fields.update_size:
            space = _space(found)
            space.truncate(attr.st_size)
            found.touch_written()
        if fields.update_mode:
            found.mode = stat.S_IFMT(found.mode) | stat.S_IMODE(attr.st_mode)
        if fields.update_uid:
            found.uid = attr.st_uid
        if fields.update_gid:
            found.gid = attr.st_gid
        if fields.update_atime:
            found.atime_ns = attr.st_atime_ns
        if fields.update_mtime:
            found.mtime_ns = attr.st_mtime_ns
        found.touch_changed()
        return _attributes(found)

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        data = StatvfsData()
        data.f_bsize = data.f_frsize = PAGE_SIZE
        data.f_blocks = self._memory.size_pages
        data.f_bfree = data.f_bavail = self._memory.room
        data.f_files = self._tree.max_inodes
        data.f_ffree = data.f_favail = self._tree.max_inodes - len(self._tree.inodes)
        data.f_namemax = NAME_MAX
        return data

    # ---- files ----

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        return self._opened(self._tree.get(inode), flags, ctx.pid)

    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        inode = self._tree.create(parent_inode, name, stat.S_IFREG | mode, ctx.uid, ctx.gid)
        return self._opened(inode, flags, ctx.pid), self._found(inode)

    def tmpfile(
        self, parent: int, mode: int, flags: int, caller: shim.Caller
    ) -> tuple[shim.NewFile, int]:
        """O_TMPFILE. Raises SyscallError."""
        inode = self._tree.create_unnamed(parent, mode, caller.uid, caller.gid)
        inode.lookups += 1
        new = shim.NewFile(
            inode.number, inode.mode, inode.uid, inode.gid, inode.mtime_ns, _CACHE_SECONDS
        )
        return new, self._opened(inode, flags, caller.tid).fh

    async def release(self, fh: FileHandleT) -> None:
        handle = self._handles.pop(fh)
        handle.inode.closed(writable=handle.writable)
        if self._rules.lifetime == "last-close" and handle.inode.space is not None:
            await self._purges.end_unused(handle.inode, handle.inode.space)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        handle = self._handles[fh]
        data = _space(handle.inode).read(off, size)
        if handle.touches_atime:
            handle.inode.touch_read()
        return data

    def write(  # type: ignore[override]  # the shim's: with write_back, and answered at once
        self, fh: int, offset: int, data: memoryview, *, write_back: bool
    ) -> int | Coroutine[Any, Any, int]:
        inode = self._handles[fh].inode
        if write_back:
            # Never to wait: the purger may be waiting for it.
            _space(inode).write_back(offset, data)
            inode.touch_written()
            return len(data)
        if self._memory.shortage(pages_for(len(data)) + 1):
            return self._write_after_making_room(inode, offset, bytes(data))
        return self._write(inode, offset, data)

    async def _write_after_making_room(self, inode: Inode, offset: int, data: bytes) -> int:
        await self._purges.make_room(pages_for(len(data)) + 1)
        return self._write(inode, offset, data)

    @staticmethod
    def _write(inode: Inode, offset: int, data: bytes | memoryview) -> int:
        stored = _space(inode).write(offset, data)
        inode.touch_written()
        return stored

    async def flush(self, fh: FileHandleT) -> None:
        raise SyscallError(errno.ENOSYS)  # the kernel writes back by itself and need not ask

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        raise SyscallError(errno.ENOSYS)  # the same

    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        """fallocate(2). Raises SyscallError: EOPNOTSUPP for other modes, ENOSPC, EFBIG."""
        inode = self._handles[fh].inode
        space = _space(inode)
        keep_size = bool(mode & _FALLOC_KEEP_SIZE)
        if not mode & _FALLOC_PUNCH_HOLE:
            await self._purges.make_room(pages_for(length) + 1)
        match mode & ~_FALLOC_KEEP_SIZE:
            case 0:
                space.allocate(offset, length, keep_size=keep_size)
            case _ if mode == _FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE:
                space.punch_hole(offset, length)
            case _ if mode & ~_FALLOC_KEEP_SIZE == _FALLOC_ZERO_RANGE:
                space.zero_range(offset, length, keep_size=keep_size)
            case _:
                raise SyscallError(errno.EOPNOTSUPP)
        inode.touch_written()

    async def lseek(self, fh: int, offset: int, whence: int) -> int:
        """SEEK_DATA or SEEK_HOLE. What is dirty in the kernel alone is data too, so it is fetched
        first; of a file that nobody can write there is none. Raises SyscallError(ENXIO).
        """
        inode = self._handles[fh].inode
        if inode.writers:
            await self._purges.flush(inode.number)
        return _space(inode).seek(offset, whence)

    async def ioctl(self, fh: int, command: int, data: bytes, tid: int) -> bytes:
        """The calls of fvrange.h. Raises SyscallError."""
        return await self._control.ioctl(self._handles[fh], command, data, tid)

    # ---- extended attributes ----

    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        found = self._tree.get(inode)
        if (mount := _mount_name(found, name)) is not None:
            self._require_owner(found, ctx)
            await self._control.set_mount_xattr(mount, value)
        elif (own := _file_name(name)) is not None:
            await self._control.set_file_xattr(_space(found, errno.EOPNOTSUPP), own, value)
        else:
            _require_namespace(name)
            found.xattrs[bytes(name)] = value
            found.touch_changed()

    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        found = self._tree.get(inode)
        if (mount := _mount_name(found, name)) is not None:
            return self._control.get_mount_xattr(mount)
        if (own := _file_name(name)) is not None:
            return await self._control.get_file_xattr(_space(found, errno.ENODATA), own)
        _require_namespace(name)
        try:
            return found.xattrs[name]
        except KeyError:
            raise SyscallError(errno.ENODATA) from None

    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        # Ours are never listed: cp -a and rsync -X would copy the state of the file.
        names = self._tree.get(inode).xattrs
        hidden = b"trusted." if ctx.uid else b"\0"
        return [XAttrNameT(name) for name in names if not name.startswith(hidden)]

    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        found = self._tree.get(inode)
        if _mount_name(found, name) is not None:
            raise SyscallError(errno.EPERM)
        if (own := _file_name(name)) is not None:
            await self._control.remove_file_xattr(_space(found, errno.ENODATA), own)
        else:
            _require_namespace(name)
            if found.xattrs.pop(name, None) is None:
                raise SyscallError(errno.ENODATA)
            found.touch_changed()

    # ---- helpers ----

    def _found(self, inode: Inode) -> EntryAttributes:
        """Answer with an inode: the kernel holds one more reference to it."""
        inode.lookups += 1
        return _attributes(inode)

    def _opened(self, inode: Inode, flags: int, tid: int) -> FileInfo:
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        fh = next(self._numbers)
        self._handles[fh] = Handle(inode, writable=writable, touches_atime=not flags & os.O_NOATIME)
        inode.opened(tid, writable=writable)
        return FileInfo(fh=FileHandleT(fh), keep_cache=True)

    @staticmethod
    def _require_owner(root: Inode, ctx: RequestContext) -> None:
        if ctx.uid not in (0, os.getuid(), root.uid):
            raise SyscallError(errno.EPERM)


def _space(inode: Inode, otherwise: int = errno.EINVAL) -> AddressSpace:
    """The address_space of a regular file. Raises SyscallError(otherwise) for other types."""
    if inode.space is None:
        raise SyscallError(otherwise)
    return inode.space


def _require_namespace(name: bytes) -> None:
    """Raise SyscallError: EOPNOTSUPP for namespaces tmpfs lacks too, EINVAL for a bare prefix."""
    prefix, dot, rest = name.partition(b".")
    if not dot or prefix not in (b"user", b"trusted", b"security"):
        raise SyscallError(errno.EOPNOTSUPP)
    if not rest:
        raise SyscallError(errno.EINVAL)


def _file_name(name: bytes) -> str | None:
    """``name`` as text if it is one of our attributes of a file."""
    return name.decode(errors="replace") if name.startswith(xattrs.FILE_PREFIX.encode()) else None


def _mount_name(inode: Inode, name: bytes) -> str | None:
    """``name`` as text if it is one of our attributes of the mount's root."""
    if inode.number == ROOT and name.startswith(xattrs.MOUNT_PREFIX.encode()):
        return name.decode(errors="replace")
    return None


def _no_entry() -> EntryAttributes:
    """A name that means nothing; the kernel may remember that."""
    entry = EntryAttributes()
    entry.st_ino = InodeT(0)
    entry.entry_timeout = _CACHE_SECONDS
    return entry


def _attributes(inode: Inode) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = InodeT(inode.number)
    entry.entry_timeout = entry.attr_timeout = _CACHE_SECONDS
    entry.st_mode = ModeT(inode.mode)
    entry.st_nlink = inode.nlink
    entry.st_uid = inode.uid
    entry.st_gid = inode.gid
    entry.st_rdev = inode.rdev
    entry.st_size = inode.size
    entry.st_blksize = PAGE_SIZE
    if inode.space is not None:
        entry.st_blocks = len(inode.space.resident) * (PAGE_SIZE // 512)
    entry.st_atime_ns = inode.atime_ns
    entry.st_mtime_ns = inode.mtime_ns
    entry.st_ctime_ns = inode.ctime_ns
    return entry
