"""Requests about extended attributes: ours are for control, others are kept as tmpfs keeps them."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from vfs_volatile.native import shim  # isort: skip  # must come before pyfuse3

from pyfuse3 import InodeT, RequestContext, XAttrNameT

from vfs_volatile.abi import xattrs
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs import acls
from vfs_volatile.fs.answers import Answers, space_of
from vfs_volatile.fs.attributes import is_private
from vfs_volatile.fs.inode import Inode
from vfs_volatile.processes.identity import keeps_set_group_id


class ExtendedAttributes(Answers):
    """user.fvrange.* and user.vfs_volatile.*, access control lists, and all others."""

    # ---- the control interface, from the shim ----

    async def set_control(self, ino: int, name: str, value: bytes, caller: shim.Caller) -> None:
        found = self._tree.get(ino)
        if _is_of_mount(name):
            self._require_owner(found, caller)
            await self._xattrs.set_of_mount(name, value, caller.tid)
        else:
            space = space_of(found, errno.EOPNOTSUPP)
            await self._xattrs.set_of_file(space, name, value, caller.tid)

    async def get_control(self, ino: int, name: str, caller: shim.Caller) -> bytes:
        found = self._tree.get(ino)
        if _is_of_mount(name) or is_private(name):
            self._require_owner(found, caller)
        if _is_of_mount(name):
            return await self._xattrs.get_of_mount(name)
        if name == xattrs.DATA_PATH and found.space is not None:
            path = self._direct.path_of(found)
            return f"{path.name}: {path.why}".encode()
        return await self._xattrs.get_of_file(space_of(found, errno.ENODATA), name)

    async def remove_control(self, ino: int, name: str, caller: shim.Caller) -> None:
        found = self._tree.get(ino)
        if _is_of_mount(name):
            raise SyscallError(errno.EPERM)
        await self._xattrs.remove_of_file(space_of(found, errno.ENODATA), name, caller.tid)

    # ---- what the kernel checks permissions with: the shim's, answered at once ----

    def get_acl(self, ino: int, name: bytes) -> bytes:
        return self._value(ino, name)

    # ---- all others, and changes of access control lists, from pyfuse3 ----

    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        found = self._tree.get(inode)
        if name in acls.NAMES:
            keeps = not shim.kills_set_group_id()
            acls.give(self._tree.room, found, bytes(name), value, keeps_set_group_id=keeps)
            return
        _require_namespace(name)
        self._tree.room.set_attribute(found, bytes(name), value)

    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        _require_namespace(name)
        return self._value(inode, name)

    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        # Ours are never listed: cp -a and rsync -X would copy the state of the file.
        names = self._tree.get(inode).xattrs
        hidden = b"trusted." if ctx.uid else b"\0"
        return [XAttrNameT(name) for name in names if not name.startswith(hidden)]

    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        found = self._tree.get(inode)
        if name in acls.NAMES:
            keeps = keeps_set_group_id(ctx.pid, found.gid)  # of this the kernel tells nothing
            acls.take_away(self._tree.room, found, bytes(name), keeps_set_group_id=keeps)
            return
        _require_namespace(name)
        self._tree.room.remove_attribute(found, bytes(name))

    def _value(self, ino: int, name: bytes) -> bytes:
        try:
            return self._tree.get(ino).xattrs[name]
        except KeyError:
            raise SyscallError(errno.ENODATA) from None

    @staticmethod
    def _require_owner(inode: Inode, caller: shim.Caller) -> None:
        if caller.uid not in (0, os.getuid(), inode.uid):
            raise SyscallError(errno.EPERM)


def _require_namespace(name: bytes) -> None:
    """Raise SyscallError: EOPNOTSUPP for namespaces tmpfs lacks too, EINVAL for a bare prefix."""
    prefix, dot, rest = name.partition(b".")
    if not dot or prefix not in (b"user", b"trusted", b"security"):
        raise SyscallError(errno.EOPNOTSUPP)
    if not rest:
        raise SyscallError(errno.EINVAL)


def _is_of_mount(name: str) -> bool:
    """Is it one of the mount's root? (The shim asks us about these there alone.)"""
    return name.startswith(xattrs.MOUNT_PREFIX)
