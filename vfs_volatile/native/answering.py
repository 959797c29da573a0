"""Who answers the requests that the shim takes, at once or later, and with which errno."""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, Protocol

from vfs_volatile.core.pages import Extent, Lent
from vfs_volatile.errors import Seldom, SyscallError, refusal, refusal_reason, refusal_text
from vfs_volatile.native.library import ffi, lib
from vfs_volatile.native.requests import Request, Requests

log = logging.getLogger(__name__)

Spawn = Callable[..., object]
"""``spawn(async_function, *arguments)`` starts a task that answers later."""


class Caller(NamedTuple):
    """Who makes a request."""

    uid: int
    gid: int
    tid: int
    umask: int
    """0 unless something is made: then it is for us to apply."""


class Opened(NamedTuple):
    """An open file: the handle it is known by, and where the kernel finds its data."""

    fh: int
    backing_id: int
    """0: it asks us; else what :func:`backing_open` gave."""


class Attributes(NamedTuple):
    """What the kernel is told of an inode; times are ns since the epoch."""

    ino: int
    """0: the name means nothing."""
    size: int
    blocks: int
    """Of 512 bytes."""
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    timeout: int
    """Seconds for which the kernel may trust this."""


Bytes = bytes | Extent
"""What READ is answered with."""

NAME_SECONDS = 3600
"""How long the kernel may trust names: it alone changes them, so for long."""


class Handlers(Protocol):
    """What a file system provides. Each may raise SyscallError; ``fh`` is a handle it gave out."""

    def read(self, fh: int, offset: int, size: int) -> Bytes | Coroutine[Any, Any, Bytes]:
        """An answer that takes longer is a coroutine."""

    def write(
        self, fh: int, offset: int, data: memoryview | Lent, *, write_back: bool
    ) -> int | Coroutine[Any, Any, int]:
        """``data`` is gone when this returns; an answer that takes longer is a coroutine."""

    def lookup(self, parent: int, name: bytes) -> Attributes:
        """What a name means; that one means nothing is an answer too."""

    def forget(self, ino: int, lookups: int) -> None:
        """The kernel holds so many references less: of those that Attributes with a name give."""

    def getattr(self, ino: int) -> Attributes: ...

    def birth_ns(self, ino: int) -> int:
        """When it was made, as of stat(2)."""

    def unlink(self, parent: int, name: bytes) -> None: ...

    def open(self, ino: int, flags: int, tid: int) -> Opened: ...

    def release(self, fh: int) -> Coroutine[Any, Any, None] | None:
        """The last descriptor of an open file is gone; what takes longer is a coroutine."""

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[Attributes, Opened]: ...

    def tmpfile(
        self, parent: int, mode: int, flags: int, caller: Caller
    ) -> tuple[Attributes, Opened]:
        """A new file without a name (O_TMPFILE)."""

    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None: ...

    async def lseek(self, fh: int, offset: int, whence: int) -> int: ...

    def fvrange(
        self, fh: int, start: int, length: int, mode: int, behavior: int, tid: int
    ) -> int | None:
        """Bytes found purged by FVRANGE; None, and nothing has changed, if it may have to wait:
        then :meth:`ioctl` is called.
        """

    def ioctl(
        self, fh: int, command: int, data: bytes, tid: int
    ) -> bytes | Coroutine[Any, Any, bytes]:
        """An answer that takes longer is a coroutine."""

    # Extended attributes: that the kernel checks permissions with, and that are the control
    # interface. All others are pyfuse3's.

    def get_acl(self, ino: int, name: bytes) -> bytes: ...

    async def set_control(self, ino: int, name: str, value: bytes, caller: Caller) -> None: ...

    async def get_control(self, ino: int, name: str, caller: Caller) -> bytes: ...

    async def remove_control(self, ino: int, name: str, caller: Caller) -> None: ...


handlers: Handlers
_spawn: Spawn
_requests: Requests


def install(given: Handlers, spawn: Spawn, is_dying: Callable[[int], bool]) -> Requests:
    """Serve the session's requests with ``given``; those that may wait.

    To be called before the first arrives. ``is_dying(tid)``: has this thread been killed?
    """
    global handlers, _requests, _spawn
    handlers, _spawn, _requests = given, spawn, Requests(is_dying)
    return _requests


_refusals = Seldom()


def errno_of(error: BaseException) -> int:
    """The errno to answer with; a bug is logged and answered with EIO, the daemon lives on."""
    if isinstance(error, SyscallError):
        return error.errno
    code = refusal(error)
    if code is not None:
        if _refusals.is_due(refusal_reason(error)):
            log.warning("a request failed, more may: %s", refusal_text(error))
        return code
    log.error("request failed unexpectedly", exc_info=error)
    return errno.EIO


def answer_later(
    name: str,
    req: Any,
    call: Callable[[], Awaitable[Any]],
    reply: Callable[[Any], object],
) -> None:
    """Start a task that makes the call and answers, unless somebody else has to before."""
    lib.shim_end_turn()
    _spawn(_serve, name, req, call, reply)


async def _serve(
    name: str, req: Any, call: Callable[[], Awaitable[Any]], reply: Callable[[Any], object]
) -> None:
    request = Request(name, lib.shim_tid(req), lambda code: lib.fuse_reply_err(req, code))
    lib.shim_watch_interrupt(req)
    await _requests.serve(_key(req), request, call, reply, errno_of)


def _key(req: Any) -> int:
    return int(ffi.cast("uintptr_t", req))


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_interrupt(req: Any) -> None:
    # Nothing more here: libfuse holds a lock of the request.
    _spawn(_requests.interrupted, _key(req))


def caller_of(req: Any) -> Caller:
    return Caller(lib.shim_uid(req), lib.shim_gid(req), lib.shim_tid(req), lib.shim_umask(req))


def text_of(name: Any) -> str:
    return bytes(ffi.string(name)).decode(errors="replace")
