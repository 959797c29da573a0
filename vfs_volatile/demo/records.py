"""The independent record of each entry: length and SHA-256, in a file outside the mount.

All workers map it. A slot is read and written by whoever holds the lock of its entry.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from types import TracebackType
from typing import NamedTuple

_SLOT = struct.Struct("=Q32s")


class Record(NamedTuple):
    """What an entry must contain; ``length`` 0: there is no such entry."""

    length: int
    digest: bytes

    @classmethod
    def of(cls, content: bytes | mmap.mmap) -> Record:
        return cls(len(content), hashlib.sha256(content).digest())


class Records:
    """The records of all entries, by index."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._slots = mmap.mmap(file.fileno(), 0)

    @staticmethod
    def create(path: str, entries: int) -> None:
        """Make the file, with no record in it yet."""
        with open(path, "xb") as file:
            os.ftruncate(file.fileno(), entries * _SLOT.size)

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._slots.close()

    def __len__(self) -> int:
        return len(self._slots) // _SLOT.size

    def __getitem__(self, index: int) -> Record:
        return Record._make(_SLOT.unpack_from(self._slots, index * _SLOT.size))

    def __setitem__(self, index: int, record: Record) -> None:
        _SLOT.pack_into(self._slots, index * _SLOT.size, *record)

    def recorded(self) -> list[int]:
        """The entries that have a record."""
        return [index for index in range(len(self)) if self[index].length]

    def lengths(self) -> list[int]:
        """Bytes of each entry that has a record."""
        return [self[index].length for index in self.recorded()]
