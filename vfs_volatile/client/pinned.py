"""Pinned: pages of a file that are not purged while somebody works on their memory.

What keeps SIGBUS away from the view:

* The pages are unmarked before it is handed out, so the mount does not purge them.
* Should another process mark them meanwhile, a private mapping of the same pages, which nobody
  touches (the *shield*), keeps them from being purged: rule 9, on mounts with ``--private=block``.
* Where nothing keeps others from it (``--private=keep``, or they truncate the file), a page that is
  touched becomes zeros for us (the *watch*), and the end of the pin tells that it was lost.
* The view is released when the ``with`` ends. Where an array still uses it, it cannot be; then the
  pages stay pinned until the last such object is gone.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import weakref
from types import TracebackType
from typing import NamedTuple, Self

from vfs_volatile.abi.ioctls import (
    STATE_PURGED,
    VEC_MAX,
    VRANGE_NONVOLATILE,
    VRANGE_VOLATILE,
)
from vfs_volatile.client.calls import fvrange_many, fvrange_next, fvrange_purge
from vfs_volatile.client.mapped import address_of
from vfs_volatile.client.unmark import Span
from vfs_volatile.client.watch import Watch
from vfs_volatile.errors import PurgedError
from vfs_volatile.units import PAGE_SIZE


class _Run(NamedTuple):
    """Whole pages that are volatile, in bytes."""

    start: int
    length: int
    behavior: int
    state: int

    @property
    def end(self) -> int:
        return self.start + self.length


class _Hold:
    """Keeps pages unmarked, and knows how they were marked. Used once."""

    def __init__(self, fd: int, whole: Span) -> None:
        """Of whole pages, or to the end of the file. Raises OSError."""
        self._pid = os.getpid()
        self._whole = whole
        start, length = whole
        with contextlib.ExitStack() as undo:
            self._fd = os.dup(fd)
            undo.callback(os.close, self._fd)
            self._shield = mmap.mmap(
                self._fd, length, mmap.MAP_PRIVATE, mmap.PROT_READ, offset=start
            )
            self.memory = mmap.mmap(self._fd, length, offset=start)
            with address_of(self.memory) as address:
                self._watch = Watch(address, length)
            undo.callback(self._watch.end)
            runs = _volatile_runs(self._fd, start, start + length)
            self._marks = _marks(runs)
            self.purged = _take_back(self._fd, runs, whole)
            undo.pop_all()
        self.failed = False
        """Was what was purged not rebuilt? Then it shall be purged again."""

    def end(self) -> None:
        """Mark again what was marked. Nobody uses the memory any more.

        Raises PurgedError for what was lost in spite of all, OSError.
        """
        lost = self._watch.lost()
        self._watch.end()
        try:
            self._shield.close()
            if os.getpid() != self._pid:  # a child inherited it; it is still its parent's
                return
            start, length = self._whole
            runs = _volatile_runs(self._fd, start, start + length)
            purged = [Span(run.start, run.length) for run in runs if run.state == STATE_PURGED]
            self._mark_again()
        finally:
            os.close(self._fd)
        if not purged and lost is not None:  # truncated, or taken back by others since
            purged = [Span(start + lost.start, lost.length)]
        if purged:
            raise PurgedError(purged)

    def _mark_again(self) -> None:
        unbuilt = [span for span in self.purged if self.failed]
        for start, length in unbuilt:  # as a hole it could not be purged (rule 11)
            os.pwrite(self._fd, bytes(min(length, os.fstat(self._fd).st_size - start)), start)
        for behavior, spans in self._marks.items():
            _many(self._fd, spans, VRANGE_VOLATILE, behavior)
        for span in unbuilt:
            fvrange_purge(self._fd, *span)


class Pinned:
    """The memory of some pages of a file; made by ``VolatileFile.pinned``.

    They are pinned when the ``with`` begins. When it ends, every part is marked again as it was
    before, with the age of a new mark. If it ends with an exception, what was found purged is
    purged again: it may not have been rebuilt. If others purged or truncated the pages in spite
    of the pin, the view shows zeros there, and the ``with`` ends with PurgedError. From Python
    3.12 on this object is a buffer itself, as ``view`` is.
    """

    def __init__(self, fd: int, start: int, length: int) -> None:
        # -- constant --
        self._fd = fd
        self._start = start
        self._length = length
        # -- while it is pinned --
        self._hold: _Hold | None = None
        self._view: memoryview | None = None
        self.purged: list[Span] = []
        """The parts of the view that had been purged, and hold zeros now. If a purge came while it
        was pinned, also intact pages marked with those that it took: which is not known."""

    @property
    def view(self) -> memoryview:
        """The bytes, which may be stored to. Raises ValueError when they are not pinned."""
        if self._view is None:
            raise ValueError("the range is not pinned")
        return self._view

    def __buffer__(self, flags: int) -> memoryview:
        return self.view

    def __len__(self) -> int:
        return self._length

    def __enter__(self) -> Self:
        if self._view is not None:
            raise ValueError("the range is pinned already")
        if not self._length:
            self._view = memoryview(b"")
            return self
        self._hold = _Hold(self._fd, Span(self._start, self._length))
        self._view = memoryview(self._hold.memory)
        self.purged = [Span(start - self._start, length) for start, length in self._hold.purged]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        view, self._view = self._view, None
        hold, self._hold = self._hold, None
        if view is None or hold is None:
            return
        hold.failed = kind is not None
        memory = hold.memory
        del hold.memory
        try:
            view.release()
            memory.close()
        except BufferError:  # something still uses it: wait until the last is gone
            weakref.finalize(memory, hold.end)
            return
        hold.end()


def _volatile_runs(fd: int, start: int, end: int) -> list[_Run]:
    """What is volatile of the pages between ``start`` and ``end``."""
    runs: list[_Run] = []
    for run in fvrange_next(fd, start):
        first, stop = max(start, run.start), min(_page_up(end), _page_up(run.start + run.length))
        if first < stop:
            runs.append(_Run(first, stop - first, run.behavior, run.state))
        if stop >= end:
            break
    return runs


def _marks(runs: list[_Run]) -> dict[int, list[Span]]:
    """What to mark again, by behavior.

    A range of which a part is purged is told as several runs: they are put together again.
    """
    merged: list[_Run] = []
    for run in runs:
        last = merged[-1] if merged else None
        if (
            last is not None
            and (last.end, last.behavior) == (run.start, run.behavior)
            and last.state != run.state
        ):
            merged[-1] = run._replace(start=last.start, length=last.length + run.length)
        else:
            merged.append(run)
    marks: dict[int, list[Span]] = {}
    for run in merged:
        marks.setdefault(run.behavior, []).append(Span(run.start, run.length))
    return marks


def _take_back(fd: int, runs: list[_Run], whole: Span) -> list[Span]:
    """End the volatility of ``whole``; what of it was purged. A purge that comes between leaves
    a run, or all, in doubt: then that is told.
    """
    spans = [Span(run.start, min(run.end, sum(whole)) - run.start) for run in runs]
    found = _many(fd, [*spans, whole], VRANGE_NONVOLATILE, 0)
    if found.pop():  # what somebody has marked since, and has been purged already
        return [whole]
    return [span for span, purged in zip(spans, found, strict=True) if purged]


def _many(fd: int, spans: list[Span], mode: int, behavior: int) -> list[int]:
    """The bytes found purged in each."""
    return [
        purged
        for first in range(0, len(spans), VEC_MAX)
        for purged in fvrange_many(fd, spans[first : first + VEC_MAX], mode, behavior)
    ]


def _page_up(offset: int) -> int:
    return -(-offset // PAGE_SIZE) * PAGE_SIZE
