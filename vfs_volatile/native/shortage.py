"""When memory runs out requests fail with ENOMEM, and the daemon lives: see shortage.c."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pyroaring

from vfs_volatile.errors import MENDS, Seldom
from vfs_volatile.native.library import ffi, lib

log = logging.getLogger(__name__)

_FIRST_CALL = 4096
"""More than a thread takes for its first native call: cffi has an errno for each."""

_refusals = Seldom()


def keep_reserve() -> None:
    """Once, on the thread that serves the mount. Threads that start after it have small stacks."""
    threading.stack_size(lib.THREAD_STACK)
    lib.shim_keep_reserve(str(pyroaring.__file__).encode())


def make_room_for_thread() -> bool:
    """Call it when there was none for a thread; whether there may be now."""
    return bool(lib.shim_give_for_thread())


def require_memory() -> None:
    """Raises MemoryError if nothing more is to be taken for good now.

    To be called between steps that take memory: a single one has the reserve.
    """
    if not lib.shim_is_memory_left():
        raise MemoryError


def require_spare() -> None:
    """Raises MemoryError if whoever looks at processes has to leave the rest to others.

    To be called between steps that take memory.
    """
    if not lib.shim_is_spare():
        raise MemoryError


def enter_native() -> None:
    """To be called before the first native call of a thread. Raises MemoryError.

    That call asks malloc(3), and the process ends if it has none: here it gets some, if need be of
    the reserve.
    """
    bytes(_FIRST_CALL)
    lib.shim_does_job(0)


@contextmanager
def doing_job() -> Iterator[None]:
    """The body leaves memory to the thread that serves the mount, when it gets scarce."""
    enter_native()
    lib.shim_does_job(1)
    try:
        yield
    finally:
        lib.shim_does_job(0)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def shim_on_refusal() -> None:
    if _refusals.is_due("memory"):
        log.warning("requests fail: the system refused memory; %s", MENDS[errno.ENOMEM])
