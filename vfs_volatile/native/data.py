"""Requests about the data of open files, and the control interface."""

from __future__ import annotations

import errno
import os
from functools import partial
from typing import Any

from vfs_volatile.core.pages import Extent
from vfs_volatile.native import answering
from vfs_volatile.native.answering import Bytes, answer_later, caller_of, errno_of, text_of
from vfs_volatile.native.library import ffi, lib

_LATER: int = lib.SHIM_LATER


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_read(req: Any, fh: int, size: int, offset: int) -> None:
    try:
        found = answering.handlers.read(fh, offset, size)
    except Exception as error:
        lib.fuse_reply_err(req, errno_of(error))
        return
    if isinstance(found, Bytes):
        _reply_read(req, found)
    else:
        later = found
        answer_later("read", req, lambda: later, partial(_reply_read, req))


def _reply_read(req: Any, found: Bytes) -> None:
    if isinstance(found, Extent):
        lib.shim_reply_extent(req, *found)
    else:
        lib.fuse_reply_buf(req, found, len(found))


class _Lent:
    """A :class:`~vfs_volatile.core.pages.Lent`: the data of the WRITE under way."""

    def __init__(self, place: Any, size: int) -> None:
        self._place = place
        self._size = size

    def __len__(self) -> int:
        return self._size

    def fetch(self) -> memoryview:
        _require(lib.shim_fetch_lent())
        return memoryview(ffi.buffer(self._place, self._size))

    def move(self, fd: int, offset: int) -> int:
        return _require(lib.shim_move_lent(fd, offset))


def _require(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_write(
    req: Any, fh: int, place: Any, size: int, offset: int, write_back: int, is_lent: int
) -> None:
    try:
        data = _Lent(place, size) if is_lent else memoryview(ffi.buffer(place, size))
        stored = answering.handlers.write(fh, offset, data, write_back=bool(write_back))
    except Exception as error:
        lib.fuse_reply_err(req, errno_of(error))
        return
    if isinstance(stored, int):
        lib.fuse_reply_write(req, stored)
    else:
        later = stored
        answer_later("write", req, lambda: later, lambda result: lib.fuse_reply_write(req, result))


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_fallocate(req: Any, fh: int, mode: int, offset: int, length: int) -> None:
    answer_later(
        "fallocate",
        req,
        lambda: answering.handlers.fallocate(fh, mode, offset, length),
        lambda _: lib.fuse_reply_err(req, 0),
    )


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_lseek(req: Any, fh: int, offset: int, whence: int) -> None:
    answer_later(
        "lseek",
        req,
        lambda: answering.handlers.lseek(fh, offset, whence),
        lambda result: lib.fuse_reply_lseek(req, result),
    )


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_fvrange(fh: int, start: int, length: int, mode: int, behavior: int, tid: int) -> int:
    try:
        purged = answering.handlers.fvrange(fh, start, length, mode, behavior, tid)
    except Exception as error:
        return -errno_of(error)
    return _LATER if purged is None else purged


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_ioctl(
    req: Any, fh: int, cmd: int, data: Any, in_size: int, out_size: int, tid: int
) -> None:
    taken = bytes(ffi.buffer(data, in_size)) if in_size else b""

    def reply(result: bytes) -> None:
        lib.fuse_reply_ioctl(req, 0, result, min(len(result), out_size))

    try:
        answer = answering.handlers.ioctl(fh, cmd, taken, tid)
    except Exception as error:
        lib.fuse_reply_err(req, errno_of(error))
        return
    if isinstance(answer, bytes):
        reply(answer)
    else:
        later = answer
        answer_later(f"ioctl {cmd:#x}", req, lambda: later, reply)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_set_control(req: Any, ino: int, name: Any, value: Any, size: int) -> None:
    text, taken = text_of(name), bytes(ffi.buffer(value, size))
    caller = caller_of(req)
    answer_later(
        f"setxattr {text}",
        req,
        lambda: answering.handlers.set_control(ino, text, taken, caller),
        lambda _: lib.fuse_reply_err(req, 0),
    )


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_get_control(req: Any, ino: int, name: Any, size: int) -> None:
    text, caller = text_of(name), caller_of(req)
    answer_later(
        f"getxattr {text}",
        req,
        lambda: answering.handlers.get_control(ino, text, caller),
        lambda value: _reply_value(req, value, size),
    )


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_get_acl(req: Any, ino: int, name: Any, size: int) -> None:
    try:
        value = answering.handlers.get_acl(ino, ffi.string(name))
    except Exception as error:
        lib.fuse_reply_err(req, errno_of(error))
    else:
        _reply_value(req, value, size)


def _reply_value(req: Any, value: bytes, size: int) -> None:
    """Answer GETXATTR, of which the caller takes so many bytes; 0: it asks how many there are."""
    if not size:
        lib.fuse_reply_xattr(req, len(value))
    elif len(value) > size:
        lib.fuse_reply_err(req, errno.ERANGE)
    else:
        lib.fuse_reply_buf(req, value, len(value))


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_remove_control(req: Any, ino: int, name: Any) -> None:
    text, caller = text_of(name), caller_of(req)
    answer_later(
        f"removexattr {text}",
        req,
        lambda: answering.handlers.remove_control(ino, text, caller),
        lambda _: lib.fuse_reply_err(req, 0),
    )
