"""Access control lists of inodes, and their modes, which follow each other.

The kernel has checked who may set them, and of what: fs/posix_acl.c of linux, where tmpfs has its
own from (simple_set_acl).
"""

from __future__ import annotations

import stat

from vfs_volatile.core import acl
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.room import Room

NAMES = (acl.ACCESS, acl.DEFAULT)
"""The attributes that carry them."""


def give(room: Room, inode: Inode, name: bytes, value: bytes, *, keeps_set_group_id: bool) -> None:
    """Set a list; the mode follows an access list. Raises SyscallError: EINVAL, ENOSPC."""
    if name == acl.DEFAULT:
        acl.parse(value)
        room.set_attribute(inode, name, value)
        return
    mode, kept = acl.given(value, inode.mode)
    if not keeps_set_group_id:
        mode &= ~stat.S_ISGID
    if kept is None:
        _drop(room, inode, name)
    else:
        room.set_attribute(inode, name, kept)
    inode.mode = mode


def take_away(room: Room, inode: Inode, name: bytes, *, keeps_set_group_id: bool) -> None:
    """Remove a list, if there is one; the permissions stay as they are."""
    drops = name == acl.ACCESS and not keeps_set_group_id
    mode = inode.mode & ~stat.S_ISGID if drops else inode.mode
    _drop(room, inode, name)
    inode.mode = mode


def _drop(room: Room, inode: Inode, name: bytes) -> None:
    inode.touch_changed()
    if name in inode.xattrs:
        room.remove_attribute(inode, name)


def set_mode(inode: Inode, mode: int) -> None:
    """chmod(2): an access list says the same from then on."""
    value = inode.xattrs.get(acl.ACCESS)
    if value is not None:
        inode.xattrs[acl.ACCESS] = acl.after_chmod(value, mode)
    inode.mode = mode
