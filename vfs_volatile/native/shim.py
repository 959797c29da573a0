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

from vfs_volatile.core.pages import Extent
from vfs_volatile.errors import SyscallError
from vfs_volatile.native.requests import Request, Requests

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


class Opened(NamedTuple):
    """An open file: the handle it is known by, and where the kernel finds its data."""

    fh: int
    backing_id: int
    """0: it asks us; else what :func:`backing_open` gave."""


class NewFile(NamedTuple):
    """What the kernel is told of a file just made; all its times are ``now_ns``."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    now_ns: int
    name_timeout: int
    """Seconds for which the kernel may trust the name."""
    timeout: int
    """Seconds for which it may trust the attributes."""


Bytes = bytes | Extent
"""What READ is answered with."""


class Handlers(Protocol):
    """What a file system provides. Each may raise SyscallError; ``fh`` is a handle it gave out."""

    def read(self, fh: int, offset: int, size: int) -> Bytes | Coroutine[Any, Any, Bytes]:
        """An answer that takes longer is a coroutine."""

    def write(
        self, fh: int, offset: int, data: memoryview, *, write_back: bool
    ) -> int | Coroutine[Any, Any, int]:
        """``data`` is gone when this returns; an answer that takes longer is a coroutine."""

    def open(self, ino: int, flags: int, tid: int) -> Opened: ...

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[NewFile, Opened]: ...

    def tmpfile(self, parent: int, mode: int, flags: int, caller: Caller) -> tuple[NewFile, Opened]:
        """A new file without a name (O_TMPFILE; libfuse 3.17)."""

    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None: ...

    async def lseek(self, fh: int, offset: int, whence: int) -> int: ...

    def ioctl(
        self, fh: int, command: int, data: bytes, tid: int
    ) -> bytes | Coroutine[Any, Any, bytes]:
        """An answer that takes longer is a coroutine."""

    # Extended attributes that are the control interface; all others are pyfuse3's.

    async def set_control(self, ino: int, name: str, value: bytes, caller: Caller) -> None: ...

    async def get_control(self, ino: int, name: str, caller: Caller) -> bytes: ...

    async def remove_control(self, ino: int, name: str, caller: Caller) -> None: ...


_handlers: Handlers
_spawn: Spawn
requests: Requests
"""Those that may wait."""


def install(handlers: Handlers, spawn: Spawn, is_dying: Callable[[int], bool]) -> None:
    """Serve the session's requests with ``handlers``; before the first request arrives.

    ``is_dying(tid)``: has this thread been killed?
    """
    global _handlers, _spawn, requests
    _handlers, _spawn, requests = handlers, spawn, Requests(is_dying)


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


def end_turn() -> None:
    """Let other tasks run after the request under way; else that may wait for some more requests.

    To be called by a handler when it has given them something to do.
    """
    lib.shim_end_turn()


def _errno_of(error: BaseException) -> int:
    """The errno to answer with; a bug is logged and answered with EIO, the daemon lives on."""
    if isinstance(error, SyscallError):
        return error.errno
    log.error("request failed unexpectedly", exc_info=error)
    return errno.EIO


def _answer_later(
    name: str,
    req: Any,
    call: Callable[[], Awaitable[Any]],
    reply: Callable[[Any], object],
) -> None:
    """Start a task that makes the call and answers, unless somebody else has to before."""
    end_turn()
    _spawn(_serve, name, req, call, reply)


async def _serve(
    name: str, req: Any, call: Callable[[], Awaitable[Any]], reply: Callable[[Any], object]
) -> None:
    request = Request(name, lib.shim_tid(req), lambda code: lib.fuse_reply_err(req, code))
    lib.shim_watch_interrupt(req)
    await requests.serve(_key(req), request, call, reply, _errno_of)


def _key(req: Any) -> int:
    return int(ffi.cast("uintptr_t", req))


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_interrupt(req: Any) -> None:
    # Nothing more here: libfuse holds a lock of the request.
    _spawn(requests.interrupted, _key(req))


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_read(req: Any, fh: int, size: int, offset: int) -> None:
    def reply(found: Bytes) -> None:
        if isinstance(found, Extent):
            lib.shim_reply_extent(req, *found)
        else:
            lib.fuse_reply_buf(req, found, len(found))

    try:
        found = _handlers.read(fh, offset, size)
    except Exception as error:
        lib.fuse_reply_err(req, _errno_of(error))
        return
    if isinstance(found, Bytes):
        reply(found)
    else:
        later = found
        _answer_later("read", req, lambda: later, reply)


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
        _answer_later("write", req, lambda: later, lambda result: lib.fuse_reply_write(req, result))


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_open(req: Any, ino: int, flags: int) -> None:
    try:
        opened = _handlers.open(ino, flags, lib.shim_tid(req))
    except Exception as error:
        lib.fuse_reply_err(req, _errno_of(error))
    else:
        lib.shim_reply_open(req, *opened)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_create(req: Any, parent: int, name: Any, mode: int, flags: int) -> None:
    try:
        new, opened = _handlers.create(parent, ffi.string(name), mode, flags, _caller(req))
    except Exception as error:
        lib.fuse_reply_err(req, _errno_of(error))
    else:
        lib.shim_reply_created(req, *new, *opened)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_tmpfile(req: Any, parent: int, mode: int, flags: int) -> None:
    try:
        new, opened = _handlers.tmpfile(parent, mode, flags, _caller(req))
    except Exception as error:
        lib.fuse_reply_err(req, _errno_of(error))
    else:
        lib.shim_reply_created(req, *new, *opened)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_fallocate(req: Any, fh: int, mode: int, offset: int, length: int) -> None:
    _answer_later(
        "fallocate",
        req,
        lambda: _handlers.fallocate(fh, mode, offset, length),
        lambda _: lib.fuse_reply_err(req, 0),
    )


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_lseek(req: Any, fh: int, offset: int, whence: int) -> None:
    _answer_later(
        "lseek",
        req,
        lambda: _handlers.lseek(fh, offset, whence),
        lambda result: lib.fuse_reply_lseek(req, result),
    )


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_ioctl(
    req: Any, fh: int, cmd: int, data: Any, in_size: int, out_size: int, tid: int
) -> None:
    taken = bytes(ffi.buffer(data, in_size)) if in_size else b""

    def reply(result: bytes) -> None:
        lib.fuse_reply_ioctl(req, 0, result, min(len(result), out_size))

    try:
        answer = _handlers.ioctl(fh, cmd, taken, tid)
    except Exception as error:
        lib.fuse_reply_err(req, _errno_of(error))
        return
    if isinstance(answer, bytes):
        reply(answer)
    else:
        later = answer
        _answer_later(f"ioctl {cmd:#x}", req, lambda: later, reply)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_set_control(req: Any, ino: int, name: Any, value: Any, size: int) -> None:
    text, taken = _text(name), bytes(ffi.buffer(value, size))
    caller = _caller(req)
    _answer_later(
        f"setxattr {text}",
        req,
        lambda: _handlers.set_control(ino, text, taken, caller),
        lambda _: lib.fuse_reply_err(req, 0),
    )


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_get_control(req: Any, ino: int, name: Any, size: int) -> None:
    text, caller = _text(name), _caller(req)

    def reply(value: bytes) -> None:
        if not size:
            lib.fuse_reply_xattr(req, len(value))
        elif len(value) > size:
            lib.fuse_reply_err(req, errno.ERANGE)
        else:
            lib.fuse_reply_buf(req, value, len(value))

    _answer_later(f"getxattr {text}", req, lambda: _handlers.get_control(ino, text, caller), reply)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_remove_control(req: Any, ino: int, name: Any) -> None:
    text, caller = _text(name), _caller(req)
    _answer_later(
        f"removexattr {text}",
        req,
        lambda: _handlers.remove_control(ino, text, caller),
        lambda _: lib.fuse_reply_err(req, 0),
    )


def _caller(req: Any) -> Caller:
    return Caller(lib.shim_uid(req), lib.shim_gid(req), lib.shim_tid(req))


def _text(name: Any) -> str:
    return bytes(ffi.string(name)).decode(errors="replace")
