"""Access control lists of inodes, and their modes, which follow each other.

The kernel has checked who may set them, and of what: fs/posix_acl.c of linux, where tmpfs has its
own from (simple_set_acl).
"""

from __future__ import annotations

import contextlib
import stat

from vfs_volatile.core import acl
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.tree import Tree

NAMES = (acl.ACCESS, acl.DEFAULT)
"""The attributes that carry them."""


def give(tree: Tree, inode: Inode, name: bytes, value: bytes, *, keeps_set_group_id: bool) -> None:
    """Set a list; the mode follows an access list. Raises SyscallError: EINVAL, ENOSPC."""
    if name == acl.DEFAULT:
        acl.parse(value)
        tree.set_attribute(inode, name, value)
        return
    mode, kept = acl.given(value, inode.mode)
    if kept is None:
        take_away(tree, inode, name, keeps_set_group_id=keeps_set_group_id)
    else:
        tree.set_attribute(inode, name, kept)
    inode.mode = mode if keeps_set_group_id else mode & ~stat.S_ISGID


def take_away(tree: Tree, inode: Inode, name: bytes, *, keeps_set_group_id: bool) -> None:
    """Remove a list, if there is one; the permissions stay as they are."""
    with contextlib.suppress(SyscallError):  # there is none
        tree.remove_attribute(inode, name)
    if name == acl.ACCESS and not keeps_set_group_id:
        inode.mode &= ~stat.S_ISGID
    inode.touch_changed()


def follow_mode(inode: Inode) -> None:
    """The mode has been set (chmod(2)): an access list says the same from now on."""
    value = inode.xattrs.get(acl.ACCESS)
    if value is not None:
        inode.xattrs[acl.ACCESS] = acl.after_chmod(value, inode.mode)
