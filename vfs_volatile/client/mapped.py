"""mvrange: mark and unmark memory that is a mapping of files of a mount, by its address."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from vfs_volatile.abi.ioctls import FVRANGE_IOC_MVRANGE, FvrangeArgs
from vfs_volatile.client.calls import FileDescriptor, request

_LINE = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ (\d+) *(.*)")


class _PyBuffer(ctypes.Structure):
    """``Py_buffer`` (Include/cpython/pybuffer.h): ctypes finds no address of read-only memory."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


def mvrange(
    buffer: Any, length: int, mode: int, behavior: int = 0, fd: FileDescriptor | None = None
) -> int:
    """Mark or unmark ``length`` bytes of mapped memory; the bytes of them found purged.

    ``buffer`` is a contiguous buffer (mmap, memoryview, numpy array) or an address. It must be a
    shared mapping of one or more files of a mount, or AnonymousMemory. ``fd``: any file of that
    mount open for writing; without it the file is found in /proc/self/maps. Raises OSError: ENOMEM
    (a part is not mapped), EINVAL (memory that is no such mapping; mode, behavior), EACCES (a file
    neither fd's own nor mapped writable), ENOENT (no fd, and the file is unlinked), ENOTCONN (the
    mount has gone).
    """
    with address_of(buffer) as address:
        anonymous = sys.modules.get("vfs_volatile.client.anonymous")  # else there is no such memory
        if anonymous is not None and anonymous.owns(address):
            found: int = anonymous.change(address, length, mode, behavior)
            return found
        args = FvrangeArgs(address, length, mode, behavior)
        if fd is not None:
            return FvrangeArgs.unpack(request(fd, FVRANGE_IOC_MVRANGE, args)).purged
        own = _open_mapped(address)
        try:
            return FvrangeArgs.unpack(request(own, FVRANGE_IOC_MVRANGE, args)).purged
        except OSError as error:
            if error.errno == errno.ENOTTY:  # a file, but of another file system
                raise _os_error(errno.EINVAL) from None
            raise
        finally:
            os.close(own)


@contextlib.contextmanager
def address_of(buffer: Any) -> Iterator[int]:
    """The address of ``buffer``, which stays where it is meanwhile."""
    if isinstance(buffer, int):
        yield buffer
        return
    view = _PyBuffer()
    api = ctypes.pythonapi
    api.PyObject_GetBuffer(ctypes.py_object(buffer), ctypes.byref(view), 0)  # PyBUF_SIMPLE
    try:
        yield view.buf or 0
    finally:
        api.PyBuffer_Release(ctypes.byref(view))


def _open_mapped(address: int) -> int:
    """A descriptor, open for writing, of the file that is mapped at ``address``."""
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            match = _LINE.match(line)
            if match and int(match[1], 16) <= address < int(match[2], 16):
                return _open_same(match[4].replace(b"\\012", b"\n"), int(match[3]))
    raise _os_error(errno.ENOMEM)


def _open_same(path: bytes, ino: int) -> int:
    """Open ``path`` for writing if it is still file number ``ino``."""
    if not path.startswith(b"/"):  # anonymous memory, [heap], [stack]
        raise _os_error(errno.EINVAL)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    if os.fstat(fd).st_ino != ino:
        os.close(fd)
        raise _os_error(errno.ENOENT)
    return fd


def _os_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
