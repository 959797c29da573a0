"""The cache itself, as an application would write it: one volatile file for each compiled module.

flock(2) on the file of an entry keeps a reader from marking what another one still reads, and an
optimistic reader from seeing an entry half built. The purger knows nothing of these locks.
"""

from __future__ import annotations

import fcntl
import marshal
import mmap
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto

from vfs_volatile.abi.ioctls import VRANGE_NONVOLATILE, VRANGE_VOLATILE
from vfs_volatile.client.calls import fvrange
from vfs_volatile.demo.plan import Plan
from vfs_volatile.demo.records import Record, Records


class Found(Enum):
    """What a look-up met."""

    INTACT = auto()
    """It was reported intact, and its checksum is right."""
    PURGED = auto()
    """It was reported purged as a whole, as a range marked VRANGE_FULL is."""
    PURGED_IN_PART = auto()
    WRONG = auto()
    """It was reported intact, and is not what was stored."""


class Cache:
    """The entries of one run, from the point of view of one process."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.records = Records(plan.records)

    @contextmanager
    def locked(self, index: int, *, shared: bool = False) -> Iterator[int]:
        """The entry's file, open and locked, against everyone or (``shared``) against builders."""
        fd = os.open(self.plan.entry_path(index), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield fd
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)  # a mapping kept open would keep the lock as well
            os.close(fd)

    def build(self, index: int, fd: int) -> bool:
        """Store an entry and mark it volatile; False if it is no module that compiles.

        Its pages are dirty in the kernel when they are marked: unmapping hands them to the daemon.
        """
        stored = self.store(index, fd)
        if stored is None:
            return False
        with stored:
            mark(fd)
        return True

    def store(self, index: int, fd: int) -> mmap.mmap | None:
        """Compile an entry and store it through a shared mapping, which is handed back."""
        content = compile_source(self.plan.sources[index])
        if content is None:
            return None
        self.records[index] = Record.of(content)
        os.ftruncate(fd, len(content))
        mapping = mmap.mmap(fd, len(content))  # MAP_SHARED
        mapping[:] = content
        return mapping

    def pin(self, index: int, fd: int) -> Found:
        """End the entry's volatility and see what is left of it."""
        purged = fvrange(fd, 0, 0, VRANGE_NONVOLATILE)
        if purged:
            return Found.PURGED if purged == os.fstat(fd).st_size else Found.PURGED_IN_PART
        return Found.INTACT if self.matches(index, fd) else Found.WRONG

    def matches(self, index: int, fd: int) -> bool:
        """Has the entry, read through a shared mapping, the checksum of its record?"""
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapping:
            return Record.of(mapping) == self.records[index]


def mark(fd: int) -> None:
    """From now on the whole file may be purged."""
    fvrange(fd, 0, 0, VRANGE_VOLATILE)


def compile_source(path: str) -> bytes | None:
    """The code of a module, marshalled; None if it cannot be read or compiled."""
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return marshal.dumps(compile(file.read(), path, "exec", dont_inherit=True))
    except (OSError, SyntaxError, ValueError, RecursionError):  # there are some in its tests
        return None
