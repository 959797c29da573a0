"""The log: where the next record goes, and when its segment becomes volatile.

Each priority fills a segment of its own from the front; a full one is marked volatile as a whole,
so the purger takes the oldest records first, a segment at a time. Everything here runs under the
lock of writers. A crash between two steps leaves pages plain that could be volatile, until the
cache is opened again; or pages volatile that are still written, so that their entries go early.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

from vfs_volatile.abi.ioctls import (
    VEC_MAX,
    VRANGE_NONVOLATILE,
    VRANGE_VOLATILE,
    VRANGE_ZERO,
    vrange_priority,
)
from vfs_volatile.client.cache.layout import (
    PRIORITIES,
    RECORD_ALIGNMENT,
    Age,
    Filling,
    Geometry,
    State,
    pack_age,
    unpack_ages,
)
from vfs_volatile.client.cache.memory import Store
from vfs_volatile.client.calls import fvrange, fvrange_many
from vfs_volatile.units import PAGE_SIZE

Span = tuple[int, int]
"""(start, length) in bytes of the file."""
Read = Callable[[int, int], bytes]
Write = Callable[[Sequence[Store]], None]

_SYNC_FILE_RANGE_WRITE = 2
_libc = ctypes.CDLL(None)
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


class Log:
    """The segments of the file behind ``fd``, which stays the caller's."""

    def __init__(self, fd: int, geometry: Geometry, read: Read, store: Write) -> None:
        self._fd = fd
        self._geometry = geometry
        self._read = read
        self._store = store

    def place(self, state: State, length: int, priority: int) -> tuple[int, Span | None]:
        """(offset, bytes to mark when the record is stored) for a record of ``length`` bytes.

        Changes ``state``, which is to be stored before the record. Raises OSError.
        """
        segment_bytes = self._geometry.segment_bytes
        if length > segment_bytes:
            span = self._take(state, -(-length // segment_bytes), priority)
            return span[0], span
        filling = state.filling[priority]
        if filling is None or filling.used + length > segment_bytes:
            if filling is not None:
                state.filling[priority] = None
                start = self._geometry.segment_at(filling.segment)
                self.mark((start + filling.marked, segment_bytes - filling.marked), priority)
            start, _ = self._take(state, 1, priority)
            filling = Filling((start - self._geometry.segments_at) // segment_bytes, 0, 0)
        state.filling[priority] = filling._replace(
            used=_up(filling.used + length, RECORD_ALIGNMENT)
        )
        return self._geometry.segment_at(filling.segment) + filling.used, None

    def mark(self, span: Span, priority: int) -> None:
        """Let the mount drop these pages whole, before those of higher priority.

        They are dirty in the kernel; until it writes them back the mount does not count them. So
        it is asked to begin, and not waited for; if it fails it does so later by itself.
        """
        if span[1]:
            fvrange(self._fd, *span, VRANGE_VOLATILE, VRANGE_ZERO | vrange_priority(priority))
            _libc.sync_file_range(self._fd, *span, _SYNC_FILE_RANGE_WRITE)

    def seal(self, state: State) -> None:
        """Mark all that is written; what comes goes to the pages behind. Changes ``state``."""
        for priority, filling in enumerate(state.filling):
            if filling is not None and filling.used > filling.marked:
                end = _up(filling.used, PAGE_SIZE)
                start = self._geometry.segment_at(filling.segment)
                self.mark((start + filling.marked, end - filling.marked), priority)
                state.filling[priority] = filling._replace(used=end, marked=end)

    def mark_again(self, state: State) -> None:
        """Mark all that should be marked, oldest first; what is so already does not change.

        Marks may be gone: somebody unmarked the file, a crash came before a mark, or all closed the
        file of a mount with ``--lifetime=last-close``.
        """
        for priority in range(PRIORITIES):
            spans = self._finished(state, priority)
            for first in range(0, len(spans), VEC_MAX):
                behavior = VRANGE_ZERO | vrange_priority(priority)
                part = spans[first : first + VEC_MAX]
                fvrange_many(self._fd, part, VRANGE_VOLATILE, behavior)

    def forget(self, state: State) -> None:
        """Make every segment free. Changes ``state``."""
        state.filling = [None] * PRIORITIES
        ages = bytes(8) * self._geometry.segments
        self._store([(self._geometry.ages_at, [ages])])

    # ---- helpers ----

    def _take(self, state: State, count: int, priority: int) -> Span:
        """Take ``count`` neighbouring segments back from the mount: those that are least worth."""
        geometry = self._geometry
        ages = self._ages()
        busy = {filling.segment for filling in state.filling if filling is not None}
        runs = [range(first, first + count) for first in range(0, len(ages) - count + 1, count)]
        free = [run for run in runs if busy.isdisjoint(run)]
        first = min(free, key=lambda run: max(ages[number] for number in run))[0]
        span = geometry.segment_at(first), count * geometry.segment_bytes
        fvrange(self._fd, *span, VRANGE_NONVOLATILE)
        age = pack_age(Age(taken=True, priority=priority, clock=state.clock))
        self._store([(geometry.ages_at + first * len(age), [age] * count)])
        return span

    def _finished(self, state: State, priority: int) -> list[Span]:
        """The bytes of each segment of ``priority`` that no record will be written to any more."""
        marked = {f.segment: f.marked for f in state.filling if f is not None}
        ages = self._ages()
        numbers = [n for n, age in enumerate(ages) if age.taken and age.priority == priority]
        spans = [
            (self._geometry.segment_at(n), marked.get(n, self._geometry.segment_bytes))
            for n in sorted(numbers, key=lambda n: ages[n])
        ]
        return [span for span in spans if span[1]]

    def _ages(self) -> list[Age]:
        geometry = self._geometry
        wanted = geometry.segments * 8
        return unpack_ages(self._read(geometry.ages_at, wanted).ljust(wanted, b"\0"))


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
