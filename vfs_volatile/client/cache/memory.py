"""Bytes of a file, read and stored by system calls alone: a page that cannot be had is an errno.

A load or a store through a mapping would be SIGBUS when somebody else marks the page VRANGE_SIGBUS
and it is purged, or truncates the file. ``pread`` fails then with ENODATA or is short. For stores
``pwrite`` would ask the daemon each time (some 100 us); instead the kernel copies them from a memfd
into a shared mapping, which fails with EFAULT where a store were SIGBUS, and costs 2 us.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Sequence

from vfs_volatile.client.cache.codec import Buffer

Store = tuple[int, Sequence[Buffer]]
"""Offset in the file, and the bytes to store there."""

_SCRATCH_KEPT = 1 << 20
"""Bytes of the memfd that are kept for the next stores."""


class QuietMemory:
    """The file behind ``fd``, which stays the caller's, up to ``size`` bytes."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        """-1 when closed."""
        self._size = size
        # -- mutable, under the lock of writers --
        self._mapping: mmap.mmap | None = None
        """Made by the first store: whoever only reads needs none."""
        self._scratch = -1
        """A memfd. INVARIANT: never shared with another process, or it would write into ours."""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes, fewer if some of them cannot be had.

        Raises OSError (ENOTCONN: no daemon), ValueError (closed).
        """
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            if error.errno == errno.ENODATA:  # purged, and somebody marked it VRANGE_SIGBUS
                return b""
            if self._fd < 0:
                raise ValueError("the cache is closed") from None
            raise

    def store(self, stores: Sequence[Store]) -> None:
        """Store everything in this order, each byte once. Callers take turns.

        Raises OSError(EFAULT) when a page cannot be had; those before it are stored.
        """
        if self._mapping is None:
            self._mapping = self._map()
        if self._scratch < 0:
            self._scratch = os.memfd_create("vfs-volatile-cache", os.MFD_CLOEXEC)
        pieces = [piece for _, pieces in stores for piece in pieces]
        view = memoryview(self._mapping)
        targets = [view[offset : offset + sum(map(len, pieces))] for offset, pieces in stores]
        total = os.pwritev(self._scratch, pieces, 0)
        if os.preadv(self._scratch, targets, 0) != total:
            raise _fault()
        if total > _SCRATCH_KEPT:
            os.ftruncate(self._scratch, 0)

    def _map(self) -> mmap.mmap:
        try:
            return mmap.mmap(self._fd, self._size)
        except ValueError:  # the file was truncated
            raise _fault() from None

    def forked(self) -> None:
        """We are a child now: the mapping may be shared with the parent, the memfd not."""
        if self._scratch >= 0:
            os.close(self._scratch)
            self._scratch = -1

    def close(self) -> None:
        self._fd = -1
        self.forked()
        if self._mapping is not None:
            with contextlib.suppress(BufferError):  # a traceback may still hold a part of it
                self._mapping.close()
            self._mapping = None


def _fault() -> OSError:
    return OSError(errno.EFAULT, os.strerror(errno.EFAULT))
