"""Anonymous memory that may be purged, from Python: ``libfvrange`` by ctypes."""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import sys
from pathlib import Path
from typing import Any, NoReturn, Self

from vfs_volatile.abi.ioctls import U64_MAX
from vfs_volatile.client.mapped import address_of
from vfs_volatile.units import PAGE_SIZE

_LIBRARY = Path(__file__).parents[1] / "libfvrange.so"
_INT_MAX = (1 << 31) - 1


class AnonymousMemory(mmap.mmap):
    """``size`` bytes of private memory that count into the budget of a mount; zeros at first.

    It is an mmap object and used as one: a buffer, with slices. ``mvrange(memory, ...)`` marks it
    volatile and takes it back. The marks belong to the process; os.fork() copies them. Touching a
    purged page is SIGBUS, which ends Python, so either take memory back before it is touched, or
    mark it VRANGE_ZERO and look at what mvrange() reports.

    All that a process has is of one mount. Raises OSError: ENOTTY (``mount`` is no directory of a
    vfs-volatile mount), EACCES (no file may be created there), EBUSY (the process has memory of
    another mount), ENOTCONN (the mount has gone), ENOMEM; ValueError (size).
    """

    _adopted = False

    def __new__(cls, size: int, *, mount: str | os.PathLike[str]) -> Self:
        if size <= 0:
            raise ValueError(f"{size} bytes are no memory")
        library = _library()
        if library.fvrange_attach(os.fsencode(mount)) < 0:
            _fail(mount)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        memory = super().__new__(cls, -1, size, flags, mmap.PROT_READ | mmap.PROT_WRITE)
        with address_of(memory) as address:
            if library.fvrange_adopt_(address, _whole(size)) < 0:
                _fail()
        memory._adopted = True
        return memory

    def close(self) -> None:
        """Free the memory. Raises BufferError while a view of it exists, as mmap does."""
        if self._adopted:
            _require_no_views(self)
            self._disown()
        super().close()

    def resize(self, newsize: int) -> NoReturn:
        """Raises OSError(EINVAL): such memory has one size."""
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._adopted and not sys.is_finalizing():  # mmap unmaps it after this
            self._disown()

    def _disown(self) -> None:
        self._adopted = False
        with address_of(self) as address:
            _library().fvrange_disown_(address, _whole(len(self)))


def owns(address: int) -> bool:
    """Is this an address of such memory?"""
    return bool(_library().fvrange_owns_(address))


def change(address: int, length: int, mode: int, behavior: int) -> int:
    """mvrange() for such memory: the bytes found purged. Raises OSError."""
    purged = ctypes.c_uint64()
    fits = 0 <= length <= U64_MAX and 0 <= mode <= _INT_MAX and 0 <= behavior <= _INT_MAX
    if not fits:  # ctypes would cut them
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    call = _library().fvrange_mvrange
    if call(address, length, mode, behavior, ctypes.byref(purged)) < 0:
        _fail()
    return purged.value


def _require_no_views(memory: AnonymousMemory) -> None:
    """Raise BufferError if somebody has a view of it: then it cannot be unmapped."""
    try:
        mmap.mmap.resize(memory, -1)
    except ValueError:  # nobody has: it looked at the size next
        return


def _whole(size: int) -> int:
    """The bytes of the pages that ``size`` bytes take."""
    return -(-size // PAGE_SIZE) * PAGE_SIZE


def _fail(name: str | os.PathLike[str] | None = None) -> NoReturn:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code), *([] if name is None else [os.fspath(name)]))


@functools.cache
def _library() -> Any:
    """Raises OSError if it was not built."""
    library = ctypes.CDLL(str(_LIBRARY), use_errno=True)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.fvrange_attach.argtypes = [ctypes.c_char_p]
    library.fvrange_adopt_.argtypes = [pointer, size]
    library.fvrange_disown_.argtypes = [pointer, size]
    library.fvrange_owns_.argtypes = [pointer]
    library.fvrange_mvrange.argtypes = [pointer, size, ctypes.c_int, ctypes.c_int, pointer]
    return library
