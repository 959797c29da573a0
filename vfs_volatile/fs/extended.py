"""Requests about extended attributes: ours go to control, others are kept as tmpfs keeps them."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from vfs_volatile.native import shim  # noqa: F401  # isort: skip  # must come before pyfuse3

from pyfuse3 import InodeT, RequestContext, XAttrNameT

from vfs_volatile.abi import xattrs
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.answers import Answers, space_of
from vfs_volatile.fs.control import is_private
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.tree import ROOT


class ExtendedAttributes(Answers):
    """user.fvrange.* and user.vfs_volatile.*, and all others."""

    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        found = self._tree.get(inode)
        if (mount := _mount_name(found, name)) is not None:
            self._require_owner(found, ctx)
            await self._control.set_mount_xattr(mount, value, ctx.pid)
        elif (own := _file_name(name)) is not None:
            await self._control.set_file_xattr(
                space_of(found, errno.EOPNOTSUPP), own, value, ctx.pid
            )
        else:
            _require_namespace(name)
            found.xattrs[bytes(name)] = value
            found.touch_changed()

    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        found = self._tree.get(inode)
        if (mount := _mount_name(found, name)) is not None:
            if is_private(mount):
                self._require_owner(found, ctx)
            return await self._control.get_mount_xattr(mount)
        if (own := _file_name(name)) is not None:
            if is_private(own):
                self._require_owner(found, ctx)
            return await self._control.get_file_xattr(space_of(found, errno.ENODATA), own)
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
            await self._control.remove_file_xattr(space_of(found, errno.ENODATA), own, ctx.pid)
        else:
            _require_namespace(name)
            if found.xattrs.pop(name, None) is None:
                raise SyscallError(errno.ENODATA)
            found.touch_changed()

    @staticmethod
    def _require_owner(inode: Inode, ctx: RequestContext) -> None:
        if ctx.uid not in (0, os.getuid(), inode.uid):
            raise SyscallError(errno.EPERM)


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
