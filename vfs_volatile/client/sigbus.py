"""A mapping whose purged pages are SIGBUS, at the speed of tmpfs.

On the passthrough path the kernel gives zeros for a purged page without asking anybody. So the
process asks for SIGBUS itself, by userfaultfd(2): a page of the mapping that the file does not hold
is an error then. The daemon is told, and lets no page be missing but those that were purged.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import struct
import weakref
from typing import Literal

from vfs_volatile.abi.ioctls import FVRANGE_IOC_MAP, VRANGE_ZERO, FvrangeArgs
from vfs_volatile.client.calls import FileDescriptor, request
from vfs_volatile.client.mapped import address_of
from vfs_volatile.units import PAGE_SIZE

_USERFAULTFD = {"x86_64": 323, "i386": 374, "i686": 374, "armv7l": 388}.get(platform.machine(), 282)
"""The number of userfaultfd(2): newer architectures share one (<asm-generic/unistd.h>)."""

# <linux/userfaultfd.h>
_USER_MODE_ONLY = 1
_API_VERSION = 0xAA
_MISSING_SHMEM, _SIGBUS = 1 << 5, 1 << 7
_MODE_MISSING = 1
_API = struct.Struct("=QQQ")
_REGISTER = struct.Struct("=QQQQ")
_UFFDIO_API = 3 << 30 | _API.size << 16 | 0xAA << 8 | 0x3F
_UFFDIO_REGISTER = 3 << 30 | _REGISTER.size << 16 | 0xAA << 8 | 0x00

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class SigbusMapping(mmap.mmap):
    """A shared mapping. It cannot be resized: it would move away from where SIGBUS is asked for."""

    def resize(self, newsize: int, /) -> None:
        raise SystemError("a mapping with SIGBUS cannot be resized; map the file anew")


class _Registrar:
    """The userfaultfd of this process, and the mappings registered with it."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self._mappings: weakref.WeakSet[SigbusMapping] = weakref.WeakSet()
        os.register_at_fork(after_in_child=self._forked)

    def register(self, mapping: SigbusMapping) -> None:
        """Raises OSError."""
        if self._fd is None:
            self._fd = _open()
        self._register(mapping)
        self._mappings.add(mapping)

    def _register(self, mapping: SigbusMapping) -> None:
        assert self._fd is not None
        with address_of(mapping) as address:
            length = -(-len(mapping) // PAGE_SIZE) * PAGE_SIZE
            packed = bytearray(_REGISTER.pack(address, length, _MODE_MISSING, 0))
            fcntl.ioctl(self._fd, _UFFDIO_REGISTER, packed)

    def _forked(self) -> None:
        """A child inherits the mappings and not that they are registered.

        One that cannot be registered again is made inaccessible: better than zeros.
        """
        if self._fd is None:
            return
        os.close(self._fd)  # it is about the parent's memory
        self._fd = None
        for mapping in list(self._mappings):
            if mapping.closed:
                continue
            try:
                if self._fd is None:
                    self._fd = _open()
                self._register(mapping)
            except OSError:
                with address_of(mapping) as address:
                    _libc.mprotect(address, len(mapping), 0)


_registrar: _Registrar | None = None


def map_file(
    fd: FileDescriptor,
    length: int = 0,
    *,
    offset: int = 0,
    access: Literal["default", "sigbus"] = "default",
) -> mmap.mmap:
    """Map ``length`` bytes of a file of a mount (0: to its end), shared, for loads and stores.

    ``access="sigbus"``: touching a purged page is SIGBUS, whatever its range says; else it is what
    the range and the mount say. Holes of these bytes hold memory afterwards, so that only purged
    pages are missing, and so do pages that are unmarked or punched while the file is mapped. A
    child of fork(2) gets SIGBUS too. ``fd`` is open for reading and writing. Raises OSError: EBADF
    (it is not), EOPNOTSUPP (the file is on the cached path, and its purged pages read as zeros:
    mark it ``sigbus``), ENOSPC (no memory for the holes), EPERM and ENOSYS (no userfaultfd).
    """
    number = fd if isinstance(fd, int) else fd.fileno()
    if access == "default":
        return mmap.mmap(number, length, offset=offset)
    args = FvrangeArgs(offset, length)
    answer = FvrangeArgs.unpack(request(number, FVRANGE_IOC_MAP, args))
    mapping = SigbusMapping(number, length, offset=offset)
    if answer.behavior & VRANGE_ZERO:
        try:
            _this_process().register(mapping)
        except BaseException:
            mapping.close()
            raise
    return mapping


def _this_process() -> _Registrar:
    global _registrar
    if _registrar is None:
        _registrar = _Registrar()
    return _registrar


def _open() -> int:
    """A userfaultfd that needs no privilege. Raises OSError."""
    fd: int = _libc.syscall(_USERFAULTFD, os.O_CLOEXEC | _USER_MODE_ONLY)
    if fd < 0:
        raise _refused(ctypes.get_errno())
    try:
        api = _API.pack(_API_VERSION, _MISSING_SHMEM | _SIGBUS, 0)
        fcntl.ioctl(fd, _UFFDIO_API, bytearray(api))
    except OSError as error:
        os.close(fd)
        raise _refused(error.errno or errno.EINVAL) from None
    return fd


def _refused(code: int) -> OSError:
    if code == errno.ENOSYS:
        mend = "the kernel lacks CONFIG_USERFAULTFD"
    elif code == errno.EPERM:
        mend = "set the sysctl vm.unprivileged_userfaultfd to 1, or allow it in the seccomp profile"
    else:
        mend = (
            "UFFD_USER_MODE_ONLY needs Linux 5.11; else set the sysctl vm.unprivileged_userfaultfd"
        )
    return OSError(code, f"userfaultfd(2): {os.strerror(code)}; {mend}")
