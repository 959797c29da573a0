"""The ioctls between ``libfvrange`` and the daemon; ``libfvrange/protocol.h`` is the same in C.

They are internal: library and daemon come in one package, and may change together.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

VERSION = 1
CHUNK_PAGES = 32768
"""Pages that one report describes."""
MAX_RUNS = 1024
MAX_RANGES = 512
LAST = 1
"""Flag of a report: all that had changed has been told."""

_WRITE, _READ = 1, 2
_ATTACH = struct.Struct("=QII")
_FORK = struct.Struct("=Q")
_REGION = struct.Struct("=QQII")
_RANGE = struct.Struct("=IIII")
_MARK = struct.Struct("=II")
_MARKS = struct.Struct("=IIII")
_ORDER = struct.Struct("=QIIII")
_RUN = struct.Struct("=II")
_REPORT = struct.Struct("=QIIII")
_MAP_BYTES = CHUNK_PAGES // 8


def _ioc(direction: int, number: int, size: int) -> int:
    """``_IOC(direction, 0xF5, number, size)`` of <linux/ioctl.h>."""
    return (direction << 30) | (size << 16) | (0xF5 << 8) | number


ANON_ATTACH = _ioc(_WRITE, 16, _ATTACH.size)
ANON_FORK = _ioc(_READ, 17, _FORK.size)
ANON_ALLOC = _ioc(_WRITE | _READ, 18, _REGION.size)
ANON_FREE = _ioc(_WRITE, 19, _REGION.size)
ANON_MARK = _ioc(_WRITE, 20, _MARK.size + _RANGE.size)
ANON_MARKS = _ioc(_WRITE, 21, _MARKS.size + MAX_RANGES * _RANGE.size)
ANON_FETCH = _ioc(_READ, 22, _ORDER.size + MAX_RUNS * _RUN.size)
ANON_REPORT = _ioc(_WRITE, 23, _REPORT.size + 3 * _MAP_BYTES)

COMMANDS = frozenset(
    (ANON_ATTACH, ANON_FORK, ANON_ALLOC, ANON_FREE, ANON_MARK, ANON_MARKS, ANON_FETCH, ANON_REPORT)
)


class OrderKind(IntEnum):
    """What a process is asked to do."""

    LOOK = 1
    """Report what has changed."""
    DROP = 2
    """Drop pages that are marked; touching them is SIGBUS."""
    ZERO = 3
    """The same; touching them reads zeros."""


class Attach(NamedTuple):
    """``struct anon_attach``."""

    token: int
    """0, or what ANON_FORK gave the parent."""
    version: int

    @classmethod
    def unpack(cls, raw: bytes) -> Attach:
        token, version, _ = _ATTACH.unpack(raw)
        return cls(token, version)


def pack_fork(token: int) -> bytes:
    """``struct anon_fork``."""
    return _FORK.pack(token)


class Region(NamedTuple):
    """``struct anon_region``: an allocation; ``address`` is for whoever looks at it."""

    address: int
    pages: int
    region: int

    @classmethod
    def unpack(cls, raw: bytes) -> Region:
        address, pages, region, _ = _REGION.unpack(raw)
        return cls(address, pages, region)

    def pack(self) -> bytes:
        return _REGION.pack(*self, 0)


class Range(NamedTuple):
    """``struct anon_range``: pages [first, end) of a region."""

    region: int
    first: int
    end: int


class Marks(NamedTuple):
    """``struct anon_mark`` and ``struct anon_marks``."""

    mode: int
    behavior: int
    ranges: list[Range]

    @classmethod
    def unpack_one(cls, raw: bytes) -> Marks:
        mode, behavior = _MARK.unpack_from(raw)
        return cls(mode, behavior, [Range(*_RANGE.unpack_from(raw, _MARK.size)[:3])])

    @classmethod
    def unpack(cls, raw: bytes) -> Marks:
        """Raises ValueError if more are meant than there are."""
        mode, behavior, count, _ = _MARKS.unpack_from(raw)
        if count > MAX_RANGES:
            raise ValueError(f"{count} ranges")
        packed = raw[_MARKS.size : _MARKS.size + count * _RANGE.size]
        return cls(mode, behavior, [Range(*entry[:3]) for entry in _RANGE.iter_unpack(packed)])


def pack_order(number: int, kind: OrderKind, region: int, runs: Sequence[tuple[int, int]]) -> bytes:
    """``struct anon_order``."""
    packed = b"".join(_RUN.pack(*run) for run in runs)
    head = _ORDER.pack(number, kind, region, len(runs), 0)
    return head + packed.ljust(MAX_RUNS * _RUN.size, b"\0")


class Report(NamedTuple):
    """``struct anon_report``; a bitmap has the lowest page in the lowest bit of its first byte."""

    order: int
    region: int
    first: int
    pages: int
    flags: int
    held: bytes
    exclusive: bytes
    purged: bytes

    @classmethod
    def unpack(cls, raw: bytes) -> Report:
        maps = (raw[at : at + _MAP_BYTES] for at in range(_REPORT.size, len(raw), _MAP_BYTES))
        return cls(*_REPORT.unpack_from(raw), *maps)
