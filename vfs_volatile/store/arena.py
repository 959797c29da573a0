"""Page data of all files in one memfd, so that a file costs no descriptor of its own.

The memfd is a sparse arena of chunks. A file is given a chunk of it for each chunk of its own
offsets where it stores something, and gives the chunk back when the file is cut or closed.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import deque
from collections.abc import Callable, Iterator

from vfs_volatile.core.pages import CHUNK_PAGES, Data, Extent, PageSpan, in_memory
from vfs_volatile.errors import REFUSALS
from vfs_volatile.units import PAGE_SIZE

_CHUNK = CHUNK_PAGES * PAGE_SIZE
"""Bytes: large enough that few reads cross a border, small enough that the kernel's index of a
small file stays small (two nodes of the xarray of the memfd)."""
CHUNKS_AT_ONCE = 32
"""So many are freed at once: up to 40 ms. What a file has more is freed after it has been cut."""
_FEW = 4
"""So many are freed whenever one is given back: more than come, so that none stays for long."""

# <linux/falloc.h>
_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), whose modes Python lacks. Raises OSError."""
    try:
        while _libc.fallocate(fd, mode, offset, length) != 0:
            code = ctypes.get_errno()
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code))
    except ctypes.ArgumentError:  # all are of the right types
        raise MemoryError from None


def fallocate_keeping_size(fd: int, offset: int, length: int) -> None:
    """Hold memory for bytes of a file. Raises OSError."""
    _fallocate(fd, _KEEP_SIZE, offset, length)


def punch(fd: int, offset: int, length: int) -> None:
    """Free the whole pages of bytes of a file, make the rest zero. Raises OSError."""
    _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)


class Arena:
    """The memory of one mount's files."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("vfs-volatile", os.MFD_CLOEXEC)
        # INVARIANT: a chunk below _top is in use by exactly one file, or free and holds nothing, or
        # soiled: no file uses it, but it holds something yet, as the system would not free that, or
        # there was much to free.
        self._free: list[int] = []
        self._soiled: deque[int] = deque()
        self._top = 0
        os.ftruncate(self.fd, (1 << 63) - _CHUNK)
        self.when_left: Callable[[], object] = self.free_all
        """Called when chunks were left: they are to be freed soon. It must not raise."""

    def take_chunk(self) -> int:
        """The offset of a chunk that holds nothing."""
        if self._free:
            return self._free.pop()
        self._top += _CHUNK
        return self._top - _CHUNK

    def give_chunk(self, offset: int) -> None:
        """Free a chunk and what it holds: with the next one, if the system refuses it now.

        At worst, if there is no memory to say so, its place is not used again.
        """
        self.leave_chunk(offset)
        self.free_some(_FEW)

    def leave_chunk(self, offset: int) -> None:
        """As :meth:`give_chunk`, but what it holds is freed later: see ``when_left``."""
        try:  # noqa: SIM105  # suppress() would need memory
            self._soiled.append(offset)
        except MemoryError:
            pass

    def free_some(self, most: int) -> bool:
        """Free what up to ``most`` chunks hold that no file uses, the last first; should it be
        called again?
        """
        try:
            while self._soiled and most:
                self.punch(self._soiled[-1], _CHUNK)
                self._free.append(self._soiled.pop())
                most -= 1
        except REFUSALS:
            return False
        return bool(self._soiled)

    def free_all(self) -> None:
        """As :meth:`free_some`, all."""
        while self.free_some(CHUNKS_AT_ONCE):
            pass

    def punch(self, offset: int, length: int) -> None:
        """Free the whole pages of bytes, make the rest zero."""
        punch(self.fd, offset, length)

    def make_store(self) -> ArenaStore:
        """The store of a new file."""
        return ArenaStore(self)

    def close(self) -> None:
        os.close(self.fd)


class ArenaStore:
    """A :class:`~vfs_volatile.core.pages.PageStore`: one file's part of an arena."""

    __slots__ = ("_arena", "_chunks")

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._chunks: dict[int, int] = {}
        """Number of a chunk in the file -> its offset in the arena."""

    def read(self, offset: int, length: int) -> bytes:
        if offset // _CHUNK == (offset + length - 1) // _CHUNK:
            return self._read_piece(offset, length)
        return b"".join(self._read_piece(*piece) for piece in _pieces(offset, length))

    def extent(self, offset: int, length: int) -> Extent | None:
        number, start = divmod(offset, _CHUNK)
        base = self._chunks.get(number)
        if base is None or start + length > _CHUNK:
            return None
        return Extent(self._arena.fd, base + start, length, start, _CHUNK - start - length)

    def write(self, offset: int, data: Data) -> int:
        if offset % _CHUNK + len(data) <= _CHUNK:
            fd, place = self._arena.fd, self._place(offset)
            if isinstance(data, bytes | memoryview):
                return os.pwrite(fd, data, place)
            return data.move(fd, place)
        view = memoryview(in_memory(data))
        stored = 0
        for start, length in _pieces(offset, len(view)):
            try:
                stored += self.write(start, view[stored : stored + length])
            except OSError:
                if not stored:
                    raise
            if offset + stored != start + length:
                break
        return stored

    def zero(self, offset: int, length: int) -> None:
        for start, size in self._held_pieces(offset, length):
            self._arena.punch(start, size)

    def allocate(self, span: PageSpan) -> None:
        for start, length in _pieces(*_bytes(span)):
            fallocate_keeping_size(self._arena.fd, self._place(start), length)

    def drop(self, span: PageSpan) -> None:
        self.zero(*_bytes(span))

    def truncate(self, size: int) -> None:
        keep = -(-size // _CHUNK)
        beyond = [number for number in self._chunks if number >= keep]
        self.zero(size, keep * _CHUNK - size)  # the last thing here that may be refused
        if len(beyond) <= CHUNKS_AT_ONCE:
            for number in beyond:
                self._arena.give_chunk(self._chunks.pop(number))
            return
        for number in beyond:
            self._arena.leave_chunk(self._chunks.pop(number))
        self._arena.when_left()

    def close(self) -> None:
        self.truncate(0)

    def _place(self, offset: int) -> int:
        """Where byte ``offset`` is in the arena; takes a chunk if there is none yet."""
        number = offset // _CHUNK
        base = self._chunks.get(number)
        if base is None:
            base = self._chunks[number] = self._arena.take_chunk()
        return base + offset % _CHUNK

    def _read_piece(self, offset: int, length: int) -> bytes:
        base = self._chunks.get(offset // _CHUNK)
        if base is None:
            return bytes(length)
        return os.pread(self._arena.fd, length, base + offset % _CHUNK)

    def _held_pieces(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """The parts of the bytes that have a chunk, as (offset in the arena, length)."""
        if length <= 0:
            return
        end = offset + length
        numbers = range(offset // _CHUNK, -(-end // _CHUNK))
        for number in numbers if len(numbers) < len(self._chunks) else self._chunks:
            base = self._chunks.get(number)
            start = max(offset, number * _CHUNK)
            stop = min(end, (number + 1) * _CHUNK)
            if base is not None and start < stop:
                yield base + start % _CHUNK, stop - start


def _bytes(span: PageSpan) -> tuple[int, int]:
    return span.first * PAGE_SIZE, (span.end - span.first) * PAGE_SIZE


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Bytes cut at the borders of chunks, as (offset, length)."""
    end = offset + length
    while offset < end:
        stop = min(end, (offset // _CHUNK + 1) * _CHUNK)
        yield offset, stop - offset
        offset = stop
