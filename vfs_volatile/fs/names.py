"""Requests about names and the attributes of inodes."""

from __future__ import annotations

import errno
import stat
from typing import Any

import trio

from vfs_volatile.native import shim  # isort: skip  # must come before pyfuse3

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileNameT,
    FlagT,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

from vfs_volatile.errors import SyscallError
from vfs_volatile.fs import acls
from vfs_volatile.fs.answers import NOTHING, Answers, attributes, entry, space_of
from vfs_volatile.fs.directory import FIRST_COOKIE, NAME_MAX, Listing
from vfs_volatile.fs.inode import Inode
from vfs_volatile.processes.identity import keeps_set_group_id
from vfs_volatile.units import PAGE_SIZE


class Names(Answers):
    """Directories, links, and what stat(2) and its kin ask and set."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._listings: dict[int, Listing] = {}

    # The shim's: answered at once.

    def lookup(self, parent: int, name: bytes) -> shim.Attributes:  # type: ignore[override]
        inode = self._tree.lookup(parent, name)
        return NOTHING if inode is None else self._known(inode)

    def forget(self, ino: int, lookups: int) -> None:  # type: ignore[override]
        self._tree.forget(ino, lookups)

    def getattr(self, ino: int) -> shim.Attributes:  # type: ignore[override]
        return attributes(self._tree.get(ino))

    def birth_ns(self, ino: int) -> int:
        return self._tree.get(ino).birth_ns

    def unlink(self, parent: int, name: bytes) -> None:  # type: ignore[override]
        self._tree.unlink(parent, name)

    # The others are pyfuse3's.

    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._found(
            self._tree.create(
                parent_inode, name, mode, ctx.uid, ctx.gid, umask=ctx.umask, rdev=rdev
            )
        )

    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        return self._found(
            self._tree.create(parent_inode, name, mode, ctx.uid, ctx.gid, umask=ctx.umask)
        )

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
        caller = (ctx.uid, ctx.gid)
        self._tree.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags, caller)

    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        found = self._tree.get(inode)
        if self._sets_atime:
            found.touch_read()
        return FileNameT(found.target)

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        found, _ = self._tree.directory(inode)
        fh = FileHandleT(next(self._numbers))
        self._listings[fh] = Listing(found)
        return fh

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        listing = self._listings[fh]
        if self._sets_atime:
            listing.inode.touch_read()
        for cookie, name, inode in listing.after(start_id):
            if not pyfuse3.readdir_reply(token, FileNameT(name), entry(attributes(inode)), cookie):
                return
            if cookie >= FIRST_COOKIE:  # of "." and ".." the kernel takes no reference
                inode.lookups += 1

    async def releasedir(self, fh: FileHandleT) -> None:
        del self._listings[fh]

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        raise SyscallError(errno.ENOSYS)  # nothing to sync: the kernel need not ask again

    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        nothing_set = not _any_field(fields)  # chown(2) to nobody
        found = self._tree.get(inode)
        # Of a directory chown(2) leaves them (linux/fs/open.c, chown_common).
        kills_privileges = found.directory is None and (shim.kills_privileges() or nothing_set)
        if kills_privileges and nothing_set and found.mode != _without_privileges(found, ctx):
            _require_writer(found, ctx)
        found.pull_times()
        if fields.update_size:
            space = space_of(found)
            for _ in space.truncating(attr.st_size):
                await trio.lowlevel.checkpoint()
            self._direct.count()
            found.touch_written()
        if fields.update_mode:
            acls.set_mode(found, stat.S_IFMT(found.mode) | stat.S_IMODE(attr.st_mode))
        if kills_privileges:
            found.mode = _without_privileges(found, ctx)
        if fields.update_uid:
            found.uid = attr.st_uid
        if fields.update_gid:
            found.gid = attr.st_gid
        if fields.update_atime:
            found.atime_ns = attr.st_atime_ns
        if fields.update_mtime:
            found.mtime_ns = attr.st_mtime_ns
        if fields.update_atime or fields.update_mtime:
            found.push_times()
        found.touch_changed()
        return entry(attributes(found))

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        self._direct.count()
        data = StatvfsData()
        data.f_bsize = data.f_frsize = PAGE_SIZE
        data.f_blocks = self._memory.size_pages
        data.f_bfree = data.f_bavail = self._memory.room
        data.f_files = self._tree.room.most
        data.f_ffree = data.f_favail = self._tree.room.free
        data.f_namemax = NAME_MAX
        return data


def _any_field(fields: SetattrFields) -> bool:
    """Does a SETATTR set anything? One that does not is file_remove_privs() of a write(2)."""
    return any(
        getattr(fields, name)
        for name in (
            "update_size",
            "update_mode",
            "update_uid",
            "update_gid",
            "update_atime",
            "update_mtime",
            "update_ctime",
        )
    )


def _require_writer(inode: Inode, ctx: RequestContext) -> None:
    """Raise SyscallError(EPERM) for a SETATTR of nothing that cannot be of a write(2): it is
    chown(2) to nobody, by somebody who may not.
    """
    if ctx.uid not in (0, inode.uid) and not inode.writers:
        raise SyscallError(errno.EPERM)


def _without_privileges(inode: Inode, ctx: RequestContext) -> int:
    """The mode of a file to which somebody has written who may not keep set-id bits.

    Set-group-ID without execution by the group is no privilege: who is of the group leaves it
    (setattr_should_drop_sgid in linux/fs/attr.c).
    """
    mode = inode.mode & ~stat.S_ISUID
    is_privilege = bool(mode & stat.S_IXGRP)
    if mode & stat.S_ISGID and (is_privilege or not keeps_set_group_id(ctx.pid, inode.gid)):
        mode &= ~stat.S_ISGID
    return mode
