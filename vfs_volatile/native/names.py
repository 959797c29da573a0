"""Requests about names, attributes, and opening: all answered at once."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from vfs_volatile.native import answering
from vfs_volatile.native.answering import (
    NAME_SECONDS,
    Attributes,
    Opened,
    answer_later,
    caller_of,
    errno_of,
)
from vfs_volatile.native.library import ffi, lib
from vfs_volatile.units import PAGE_SIZE

_ATTRIBUTES = struct.Struct("=3Q3q10I")
"""struct fuse_attr of <linux/fuse.h>."""
_SECOND = 10**9


def _told(inode: Attributes) -> tuple[bytes, int]:
    """What answers say: struct fuse_attr, and for how many seconds the kernel may trust it."""
    atime_ns, mtime_ns, ctime_ns = inode.atime_ns, inode.mtime_ns, inode.ctime_ns
    packed = _ATTRIBUTES.pack(
        inode.ino,
        inode.size,
        inode.blocks,
        atime_ns // _SECOND,
        mtime_ns // _SECOND,
        ctime_ns // _SECOND,
        atime_ns % _SECOND,
        mtime_ns % _SECOND,
        ctime_ns % _SECOND,
        inode.mode,
        inode.nlink,
        inode.uid,
        inode.gid,
        inode.rdev,
        PAGE_SIZE,
        0,
    )
    return packed, inode.timeout


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_lookup(req: Any, parent: int, name: Any) -> None:
    try:
        told = _told(answering.handlers.lookup(parent, ffi.string(name)))
    except Exception as error:
        lib.fuse_reply_err(req, errno_of(error))
    else:
        lib.shim_reply_entry(req, *told, NAME_SECONDS)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_forget(ino: int, lookups: int) -> None:
    try:
        answering.handlers.forget(ino, lookups)
    except Exception as error:
        errno_of(error)  # of this request the kernel takes no answer


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_getattr(req: Any, ino: int) -> None:
    try:
        told = _told(answering.handlers.getattr(ino))
    except Exception as error:
        lib.fuse_reply_err(req, errno_of(error))
    else:
        lib.shim_reply_attributes(req, *told)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_statx(req: Any, ino: int) -> None:
    try:
        told = _told(answering.handlers.getattr(ino))
        birth = divmod(answering.handlers.birth_ns(ino), _SECOND)
    except Exception as error:
        lib.fuse_reply_err(req, errno_of(error))
    else:
        lib.shim_reply_statx(req, *told, *birth)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_unlink(req: Any, parent: int, name: Any) -> None:
    try:
        answering.handlers.unlink(parent, ffi.string(name))
    except Exception as error:
        lib.fuse_reply_err(req, errno_of(error))
    else:
        lib.fuse_reply_err(req, 0)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_open(req: Any, ino: int, flags: int) -> None:
    try:
        opened = answering.handlers.open(ino, flags, lib.shim_tid(req))
    except Exception as error:
        lib.fuse_reply_err(req, errno_of(error))
    else:
        lib.shim_reply_open(req, *opened)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_create(req: Any, parent: int, name: Any, mode: int, flags: int) -> None:
    _answer_created(
        req,
        lambda: answering.handlers.create(parent, ffi.string(name), mode, flags, caller_of(req)),
    )


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_tmpfile(req: Any, parent: int, mode: int, flags: int) -> None:
    _answer_created(req, lambda: answering.handlers.tmpfile(parent, mode, flags, caller_of(req)))


def _answer_created(req: Any, make: Callable[[], tuple[Attributes, Opened]]) -> None:
    """Answer with a new file, and the handle that it is open as."""
    try:
        made, opened = make()
        told = _told(made)
    except Exception as error:
        lib.fuse_reply_err(req, errno_of(error))
    else:
        lib.shim_reply_created(req, *told, NAME_SECONDS, *opened)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_release(req: Any, fh: int) -> None:
    try:
        later = answering.handlers.release(fh)
    except Exception as error:
        lib.fuse_reply_err(req, errno_of(error))
        return
    if later is None:
        lib.fuse_reply_err(req, 0)
    else:
        answer_later("release", req, lambda: later, lambda _: lib.fuse_reply_err(req, 0))
