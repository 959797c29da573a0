"""VolatileFile: the data of a file that may be purged, without a SIGBUS.

Whoever loads from a mapping of purged pages gets SIGBUS, and Python has no way to survive it. So
a VolatileFile has no buffer: its data are read by system calls, or through the memoryview of a
:class:`~vfs_volatile.client.pinned.Pinned` range, whose pages are not volatile.
"""

from __future__ import annotations

import errno
import mmap
import os
from types import TracebackType
from typing import Self

from vfs_volatile.abi.ioctls import STATE_PURGED, VRANGE_VOLATILE, FvrangeInfo
from vfs_volatile.client.calls import FileDescriptor, fvrange, fvrange_next
from vfs_volatile.client.pinned import Pinned
from vfs_volatile.client.unmark import Span, unmark_runs
from vfs_volatile.errors import PurgedError
from vfs_volatile.units import PAGE_SIZE

_MADV_POPULATE_READ = 22


class VolatileFile:
    """A file of a mount, open for reading and writing.

    ::

        with VolatileFile("/mnt/cache/table", size=1 << 20) as file:
            file.write(data)
            file.mark()                              # may be purged from now on
            try:
                file.read(0, 4096)
            except PurgedError as error:
                rebuild(error.ranges)
            with file.pinned() as pin:               # not while this lasts
                for start, length in pin.purged:     # what was purged until now
                    pin.view[start : start + length] = rebuilt(start, length)
                numpy.frombuffer(pin.view, "f8").sum()

    ``start`` and ``length`` are bytes of the file; a length of 0 reaches to its end. All methods
    raise OSError: ENOTTY (the file is on no vfs-volatile mount), ENOTCONN (the daemon has gone);
    and ValueError when the file is closed.
    """

    def __init__(
        self, file: str | os.PathLike[str] | FileDescriptor, *, size: int | None = None
    ) -> None:
        """Open a path, or use a copy of a descriptor that is open for reading and writing.

        ``size``: make the file if it is not there, and grow it to so many bytes. Raises OSError.
        """
        if isinstance(file, (str, os.PathLike)):
            flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if size is not None else 0)
            self._fd = os.open(file, flags, 0o666)
        else:
            self._fd = os.dup(file if isinstance(file, int) else file.fileno())
        if size is not None and self.size < size:
            os.ftruncate(self._fd, size)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self.fileno()).st_size

    def fileno(self) -> int:
        """The descriptor, for ``fvrange_purge`` and the like. Raises ValueError when closed."""
        if self._fd < 0:
            raise ValueError("the file is closed")
        return self._fd

    # ---- volatility ----

    def mark(self, start: int = 0, length: int = 0, behavior: int = 0) -> int:
        """Let the mount drop the whole pages of a range. Returns the bytes purged already.

        ``behavior``: VRANGE_* flags, as for ``fvrange``.
        """
        return fvrange(self.fileno(), start, length, VRANGE_VOLATILE, behavior)

    def unmark(self, start: int = 0, length: int = 0) -> list[Span]:
        """Take every page of a range back. Returns what was purged, and holds zeros now."""
        return list(unmark_runs(self.fileno(), start, length))

    def ranges(self) -> list[FvrangeInfo]:
        """The volatile runs of the file, each in one state."""
        return list(fvrange_next(self.fileno()))

    def purged(self, start: int = 0, length: int = 0) -> list[Span]:
        """The parts of a range that are purged now."""
        end = start + length if length else self.size
        found = []
        for run in fvrange_next(self.fileno(), start):
            if run.start >= end:
                break
            if run.state == STATE_PURGED:
                first = max(start, run.start)
                found.append(Span(first, min(end, run.start + run.length) - first))
        return found

    # ---- data ----

    def read(self, start: int = 0, length: int = 0) -> bytes:
        """The bytes of a range, fewer at the end of the file.

        Raises PurgedError if any of them are purged, also where touching them reads zeros.
        """
        end = min(start + length, self.size) if length else self.size
        parts = []
        position = start
        while position < end:
            try:
                part = os.pread(self.fileno(), end - position, position)
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise
                # What was purged when it failed may have been taken back since: read it again.
                self._require_intact(start, end)
                continue
            if not part:  # truncated meanwhile
                break
            parts.append(part)
            position += len(part)
        # Asked last: what is purged before its bytes are read is so still.
        if position > start:
            self._require_intact(start, position)
        return b"".join(parts)

    def write(self, data: bytes | bytearray | memoryview, start: int = 0) -> int:
        """Store ``data`` at ``start``, all of it; returns its length.

        A purged page that is covered whole becomes intact. Raises PurgedError for one that is
        covered in part: pages before it are stored.
        """
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            try:
                done += os.pwrite(self.fileno(), view[done:], start + done)
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise
                self._require_intact(start + done, start + len(view))
        return done

    def populate(self, start: int = 0, length: int = 0) -> None:
        """Bring a range into memory, as a test of its presence that needs no signal.

        Raises PurgedError if any of it is purged (madvise(2), MADV_POPULATE_READ, says EFAULT
        then, unless purged pages read as zeros), and OSError(EINVAL) before Linux 5.14.
        """
        end = min(start + length, self.size) if length else self.size
        first = start - start % PAGE_SIZE
        if first < end:
            with mmap.mmap(
                self.fileno(), end - first, prot=mmap.PROT_READ, offset=first
            ) as mapping:
                try:
                    mapping.madvise(_MADV_POPULATE_READ)
                except OSError as error:
                    if error.errno == errno.EFAULT:
                        self._require_intact(start, end)
                    raise
            self._require_intact(start, end)

    def pinned(self, start: int = 0, length: int = 0) -> Pinned:
        """A context manager that keeps a range from being purged, and hands out its memory.

        The range has to begin and end with a page, or with the file: of a purged page one cannot
        rebuild a part. Raises ValueError for another one.
        """
        size = self.size
        end = start + length if length else size
        if not 0 <= start <= end <= size:
            raise ValueError(f"bytes {start} to {end} are not within a file of {size} bytes")
        if start % PAGE_SIZE or (end % PAGE_SIZE and end != size):
            raise ValueError(f"bytes {start} to {end} are not whole pages of {PAGE_SIZE} bytes")
        return Pinned(self.fileno(), start, end - start)

    # ---- the object ----

    def close(self) -> None:
        """Close the file; ranges that are pinned stay so until they are let go. Twice is once."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)

    def _require_intact(self, start: int, end: int) -> None:
        if purged := self.purged(start, end - start):
            raise PurgedError(purged)
