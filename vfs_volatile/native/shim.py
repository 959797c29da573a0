"""The shim: what a file system is told of the session, and what it may ask of it.

Import this module before pyfuse3: :func:`took_hold` tells whether the session came through.
"""

from __future__ import annotations

import errno
import os

# Each defines functions that the compiled part calls.
from vfs_volatile.native import data as _data  # noqa: F401
from vfs_volatile.native import names as _names  # noqa: F401
from vfs_volatile.native.answering import (
    NAME_SECONDS,
    Attributes,
    Bytes,
    Caller,
    Handlers,
    Opened,
    install,
)
from vfs_volatile.native.library import lib
from vfs_volatile.native.shortage import keep_reserve

__all__ = [
    "NAME_SECONDS",
    "Attributes",
    "Bytes",
    "Caller",
    "Handlers",
    "Opened",
    "install",
    "keep_reserve",
]


def took_hold() -> bool:
    """Did the session that pyfuse3 made come through the shim?"""
    return bool(lib.shim_took_hold())


def invalidate(ino: int, offset: int, length: int) -> None:
    """Make the kernel drop its copy of bytes of an inode; what it does not know is no error.

    Blocks until their dirty pages are written back, so never call it on the thread that serves
    the session. Raises OSError. (``FUSE_NOTIFY_INVAL_INODE``, linux/fs/fuse/dev.c)
    """
    code = -lib.shim_invalidate(ino, offset, length)
    if code not in (0, errno.ENOENT):
        raise OSError(code, os.strerror(code))


def want_acls() -> None:
    """Ask the kernel for access control lists, when the mount is made: else nobody has any."""
    lib.shim_want_acls()


def want_passthrough() -> None:
    """Ask the kernel for FUSE passthrough, when the mount is made."""
    lib.shim_want_passthrough()


def has_passthrough() -> bool:
    """Has the kernel granted it? Not before the first request has been served."""
    return bool(lib.shim_has_passthrough())


def backing_open(fd: int) -> int:
    """Let the kernel serve files from ``fd``; the id to open them with (:class:`Opened`).

    Raises OSError: EPERM without CAP_SYS_ADMIN, ENOMEM. (FUSE_DEV_IOC_BACKING_OPEN)
    """
    found = lib.shim_backing_open(fd)
    if found < 0:
        raise OSError(-found, os.strerror(-found))
    return int(found)


def backing_close(backing_id: int) -> None:
    """No file will be opened with this id any more; those that are stay open."""
    code = -lib.shim_backing_close(backing_id)
    if code:
        raise OSError(code, os.strerror(code))


def kills_privileges() -> bool:
    """Does the SETATTR that has just arrived ask for set-id bits to be cleared?

    To be asked before the first await. (FATTR_KILL_SUIDGID, which libfuse does not hand on)
    """
    return bool(lib.shim_kills_privileges())


def kills_set_group_id() -> bool:
    """Does the SETXATTR that has just arrived ask for the set-group-ID bit to be cleared?

    So it does when it sets an access control list, and its caller is not of the group.

    To be asked before the first await. (FUSE_SETXATTR_ACL_KILL_SGID, which libfuse does not know)
    """
    return bool(lib.shim_kills_set_group_id())


def end_turn() -> None:
    """Let other tasks run after the request under way; else that may wait for some more requests.

    To be called by a handler when it has given them something to do.
    """
    lib.shim_end_turn()


def set_hurry(on: bool) -> None:
    """Let other tasks run after each request, or no longer, while they have much to do soon."""
    lib.shim_set_hurry(on)
