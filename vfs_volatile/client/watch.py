"""Watched memory: a page that cannot be had becomes zeros, and is remembered, instead of a SIGBUS.

Python cannot survive a SIGBUS, so the handler is C (``native/libfvrange/watch.c``). The watch is a
safety net: it is there for what a pin cannot keep others from.
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache

from vfs_volatile.client.unmark import Span
from vfs_volatile.units import PAGE_SIZE


class Watch:
    """Watches ``length`` bytes of memory from ``address`` until it is ended. Raises OSError."""

    def __init__(self, address: int, length: int) -> None:
        self._library = _library()
        pages = -(-length // PAGE_SIZE) * PAGE_SIZE
        self._number = self._library.fvrange_watch_start(address, pages)
        if self._number < 0:
            code = ctypes.get_errno()
            why = "too many ranges are pinned" if code == errno.ENOSPC else os.strerror(code)
            raise OSError(code, why)

    def lost(self) -> Span | None:
        """From the first to the last page that could not be had, in bytes from the address."""
        first, end = ctypes.c_uint64(), ctypes.c_uint64()
        if self._library.fvrange_watch_lost(self._number, first, end):
            return Span(first.value, end.value - first.value)
        return None

    def end(self) -> None:
        """Nobody touches the memory any more."""
        self._library.fvrange_watch_end(self._number)


@cache
def _library() -> ctypes.PyDLL:
    """The calls, with the GIL held: they must not run at the same time, and wait for nothing."""
    package = os.path.dirname(os.path.dirname(__file__))
    library = ctypes.PyDLL(os.path.join(package, "libfvrange.so"), use_errno=True)
    number = ctypes.POINTER(ctypes.c_uint64)
    library.fvrange_watch_start.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.fvrange_watch_lost.argtypes = [ctypes.c_int, number, number]
    library.fvrange_watch_end.argtypes = [ctypes.c_int]
    library.fvrange_watch_end.restype = None
    return library
