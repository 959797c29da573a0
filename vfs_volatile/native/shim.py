"""Loads the shim, and turns its callbacks into calls of Python handlers.

Import this module before pyfuse3: :func:`took_hold` tells whether the session came through.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from vfs_volatile.errors import SyscallError

log = logging.getLogger(__name__)


def _load() -> ModuleType:
    if "pyfuse3" in sys.modules:
        raise ImportError("the shim must be imported before pyfuse3")
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
    try:
        return importlib.import_module("vfs_volatile.native._shim")
    finally:
        sys.setdlopenflags(flags)


_shim = _load()
ffi: Any = _shim.ffi
lib: Any = _shim.lib

Spawn = Callable[..., object]
"""``spawn(async_function, *arguments)`` starts a task that answers later."""


class Caller(NamedTuple):
    """Who makes a request."""

    uid: int
    gid: int
    tid: int


class NewFile(NamedTuple):
    """What the kernel is told of a file just made; all its times are ``now_ns``."""

    ino: int
    mode: int
    uid: int
    gid: int
    now_ns: int
    timeout: float


class Handlers(Protocol):
    """What a file system provides. Each may raise SyscallError; ``fh`` is a handle it gave out."""

    def write(
        self, fh: int, offset: int, data: memoryview, *, write_back: bool
    ) -> int | Coroutine[Any, Any, int]:
        """``data`` is gone when this returns; an answer that takes longer is a coroutine."""

    def tmpfile(self, parent: int, mode: int, flags: int, caller: Caller) -> tuple[NewFile, int]:
        """A new file without a name, and its handle (O_TMPFILE; libfuse 3.17)."""

    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None: ...

    async def lseek(self, fh: int, offset: int, whence: int) -> int: ...

    async def ioctl(self, fh: int, command: int, data: bytes, tid: int) -> bytes: ...


_handlers: Handlers
_spawn: Spawn


def install(handlers: Handlers, spawn: Spawn) -> None:
    """Serve the session's requests with ``handlers``; before the first request arrives."""
    global _handlers, _spawn
    _handlers, _spawn = handlers, spawn


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


def _errno_of(error: BaseException) -> int:
    """The errno to answer with; a bug is logged and answered with EIO, the daemon lives on."""
    if isinstance(error, SyscallError):
        return error.errno
    log.error("request failed unexpectedly", exc_info=error)
    return errno.EIO


async def _answer_later(
    req: Any, call: Callable[[], Awaitable[Any]], reply: Callable[[Any], object]
) -> None:
    try:
        result = await call()
    except Exception as error:
        lib.fuse_reply_err(req, _errno_of(error))
    else:
        reply(result)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_write(req: Any, fh: int, data: Any, size: int, offset: int, write_back: int) -> None:
    try:
        view = memoryview(ffi.buffer(data, size))
        stored = _handlers.write(fh, offset, view, write_back=bool(write_back))
    except Exception as error:
        lib.fuse_reply_err(req, _errno_of(error))
        return
    if isinstance(stored, int):
        lib.fuse_reply_write(req, stored)
    else:
        later = stored
        _spawn(_answer_later, req, lambda: later, lambda result: lib.fuse_reply_write(req, result))


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_tmpfile(req: Any, parent: int, mode: int, flags: int) -> None:
    caller = Caller(lib.shim_uid(req), lib.shim_gid(req), lib.shim_tid(req))
    try:
        new, fh = _handlers.tmpfile(parent, mode, flags, caller)
    except Exception as error:
        lib.fuse_reply_err(req, _errno_of(error))
    else:
        lib.shim_reply_tmpfile(req, *new, fh)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_fallocate(req: Any, fh: int, mode: int, offset: int, length: int) -> None:
    _spawn(
        _answer_later,
        req,
        lambda: _handlers.fallocate(fh, mode, offset, length),
        lambda _: lib.fuse_reply_err(req, 0),
    )


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_lseek(req: Any, fh: int, offset: int, whence: int) -> None:
    _spawn(
        _answer_later,
        req,
        lambda: _handlers.lseek(fh, offset, whence),
        lambda result: lib.fuse_reply_lseek(req, result),
    )


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_ioctl(
    req: Any, fh: int, cmd: int, data: Any, in_size: int, out_size: int, tid: int
) -> None:
    taken = bytes(ffi.buffer(data, in_size)) if in_size else b""
    _spawn(
        _answer_later,
        req,
        lambda: _handlers.ioctl(fh, cmd, taken, tid),
        lambda result: lib.fuse_reply_ioctl(req, 0, result, min(len(result), out_size)),
    )
