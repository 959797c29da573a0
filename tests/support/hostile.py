"""A client that means no good: it keeps thousands of files open, and does all at once to them.

    python -m tests.support.hostile DIRECTORY FILES SEED CALLS

Truncates, marks, unmarks, purges, stores and maps whatever file it comes upon, as others do with
the same files, and takes any error. After CALLS calls it says so, and goes on until it is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import resource
import signal
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from tests.support import fvrange
from tests.support.files import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate
from tests.support.fvrange import PAGE
from vfs_volatile.client.mapped import mvrange

MAPPINGS = 50
"""Kept at a time."""
_EDGES = (0, 1, PAGE - 1, PAGE, 3 * PAGE, 8 * PAGE, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)


class Hostile:
    """Its files, and what it does to them."""

    def __init__(self, directory: str, files: int, seed: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files + 100, files + 100))
        self._dice = random.Random(seed)
        flags = os.O_RDWR | os.O_CREAT
        self._files = [os.open(Path(directory, f"f{number}"), flags) for number in range(files)]
        self._mapped: deque[mmap.mmap] = deque(maxlen=MAPPINGS)
        self._zeros = os.open("/dev/zero", os.O_RDWR)

    def step(self) -> None:
        """One call, whatever becomes of it."""
        calls: tuple[Callable[[int], object], ...] = (
            self.truncate, self.truncate, self.write, self.write, self.mark, self.unmark,
            self.purge, self.punch, self.map, self.map, self.store, self.by_address,
        )  # fmt: skip
        with contextlib.suppress(OSError, ValueError, OverflowError):
            self._dice.choice(calls)(self._dice.choice(self._files))

    def truncate(self, fd: int) -> None:
        os.ftruncate(fd, self._dice.randrange(8 * PAGE))

    def write(self, fd: int) -> None:
        os.pwrite(fd, b"x" * self._dice.randrange(2 * PAGE), self._dice.randrange(4 * PAGE))

    def mark(self, fd: int) -> None:
        fvrange.mark(fd, *self._span(), self._dice.choice((0, 1, 2)))

    def unmark(self, fd: int) -> None:
        fvrange.unmark(fd, *self._span())

    def purge(self, fd: int) -> None:
        fvrange.purge(fd, *self._span())

    def punch(self, fd: int) -> None:
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PAGE // 2, 2 * PAGE)

    def map(self, fd: int) -> None:
        kind = self._dice.choice((mmap.MAP_SHARED, mmap.MAP_PRIVATE))
        self._mapped.append(mmap.mmap(fd, 4 * PAGE, kind))

    def store(self, _: int) -> None:
        """By system calls: beyond the end of file, and on purged pages, that is EFAULT."""
        memory = self._dice.choice(self._mapped or [None])
        if memory is not None:
            os.readv(self._zeros, [memory])
            os.write(self._zeros, memory)

    def by_address(self, fd: int) -> None:
        if self._mapped:
            mvrange(self._dice.choice(self._mapped), PAGE, self._dice.choice((0, 1)), 0, fd)

    def _span(self) -> tuple[int, int]:
        return self._dice.choice(_EDGES), self._dice.choice(_EDGES)


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the test
    hostile = Hostile(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    done = 0
    while True:
        hostile.step()
        done += 1
        if done == int(sys.argv[4]):
            print("done", flush=True)
