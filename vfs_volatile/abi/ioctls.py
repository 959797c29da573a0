"""The ioctls of ``fvrange.h``: numbers, structs and argument bits.

A request carries its struct in and out by value (``_IOWR``), so it holds no pointers.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from typing import NamedTuple

VRANGE_NONVOLATILE = 0
VRANGE_VOLATILE = 1

VRANGE_FULL = 0
"""A range chosen by the purger goes as a whole."""
VRANGE_PARTIAL = 1
"""Page by page, only as much as is needed."""
VRANGE_ZERO = 2
"""Touching a purged page reads zeros."""
VRANGE_SIGBUS = 4
"""Touching a purged page is an error (neither flag: the mount's default)."""

PRIORITY_SHIFT = 8
PRIORITY_MAX = 7
PRIORITY_MASK = PRIORITY_MAX << PRIORITY_SHIFT
BEHAVIOR_MASK = VRANGE_PARTIAL | VRANGE_ZERO | VRANGE_SIGBUS | PRIORITY_MASK

STATE_VOLATILE = 1
STATE_PURGED = 3

U64_MAX = (1 << 64) - 1

_ARGS = struct.Struct("=QQIIQ")
_INFO = struct.Struct("=QQIIQ")
_VEC_HEAD = struct.Struct("=IIIIQ")
_VEC_RANGE = struct.Struct("=QQQ")
VEC_MAX = 512
"""Ranges that one call of FVRANGE_IOC_VEC takes."""
FVRANGE_VEC_BYTES = _VEC_HEAD.size + VEC_MAX * _VEC_RANGE.size
"""Of ``struct fvrange_vec``: its head, the sum and 512 entries."""


def vrange_priority(n: int) -> int:
    """The behavior bits of priority ``n`` (0..7; 0 is purged first). Raises ValueError."""
    if not 0 <= n <= PRIORITY_MAX:
        raise ValueError(f"priority {n} is not between 0 and {PRIORITY_MAX}")
    return n << PRIORITY_SHIFT


def _iowr(number: int, size: int) -> int:
    """``_IOWR(0xF5, number, struct of size bytes)`` of <linux/ioctl.h>."""
    return (3 << 30) | (size << 16) | (0xF5 << 8) | number


FVRANGE_IOC_FVRANGE = _iowr(1, _ARGS.size)
FVRANGE_IOC_MVRANGE = _iowr(2, _ARGS.size)
FVRANGE_IOC_NEXT = _iowr(3, _INFO.size)
FVRANGE_IOC_PURGE = _iowr(4, _ARGS.size)
FVRANGE_IOC_MAP = _iowr(6, _ARGS.size)
"""``fvrange_map.h``: these bytes are about to be mapped by a process for which a page that the file
does not hold is an error; the answer's behavior is VRANGE_ZERO if it must see to that itself."""
FVRANGE_IOC_VEC = _iowr(5, FVRANGE_VEC_BYTES)


class FvrangeArgs(NamedTuple):
    """``struct fvrange_args``: what FVRANGE, MVRANGE and PURGE take and answer."""

    start: int
    length: int
    mode: int = 0
    behavior: int = 0
    purged: int = 0

    @classmethod
    def unpack(cls, raw: bytes) -> FvrangeArgs:
        return cls._make(_ARGS.unpack(raw))

    def pack(self) -> bytes:
        return _ARGS.pack(*self)


class FvrangeInfo(NamedTuple):
    """``struct fvrange_info``: what NEXT takes (``start``) and answers."""

    start: int
    length: int = 0
    behavior: int = 0
    state: int = 0
    reserved: int = 0

    @classmethod
    def unpack(cls, raw: bytes) -> FvrangeInfo:
        return cls._make(_INFO.unpack(raw))

    def pack(self) -> bytes:
        return _INFO.pack(*self)


class FvrangeVec(NamedTuple):
    """``struct fvrange_vec``: ranges of one file, and bytes purged in each.

    In columns, which many ranges are faster to work on in: without a step for each.
    """

    mode: int
    behavior: int
    starts: Sequence[int]
    lengths: Sequence[int]
    purged: Sequence[int] = ()
    """Of each range; none: nothing is."""
    counted: int | None = None
    """How many ranges the sender says are meant; only what was unpacked has it."""
    reserved: int = 0

    @classmethod
    def of(cls, mode: int, behavior: int, spans: Sequence[tuple[int, int]]) -> FvrangeVec:
        """To be sent: each of ``spans`` is (start, length)."""
        starts, lengths = zip(*spans, strict=True) if spans else ((), ())
        return cls(mode, behavior, starts, lengths)

    @classmethod
    def unpack(cls, raw: bytes) -> FvrangeVec:
        """All that ``raw`` holds of the ranges it says are meant, at most VEC_MAX."""
        count, mode, behavior, reserved, _ = _VEC_HEAD.unpack_from(raw)
        held = min(count, VEC_MAX, (len(raw) - _VEC_HEAD.size) // _VEC_RANGE.size)
        flat = array("Q", raw[_VEC_HEAD.size : _VEC_HEAD.size + held * _VEC_RANGE.size])
        starts, lengths, purged = (flat[field::3].tolist() for field in range(3))
        return cls(mode, behavior, starts, lengths, purged, count, reserved)

    def pack(self) -> bytes:
        """Raises struct.error for what it cannot hold, and ValueError for too many ranges."""
        count = len(self.starts)
        if count > VEC_MAX:
            raise ValueError(f"{count} ranges; one call takes {VEC_MAX} at most")
        flat = array("Q", bytes(count * _VEC_RANGE.size))
        try:
            for field, column in enumerate((self.starts, self.lengths, self.purged)):
                if column:
                    flat[field::3] = array("Q", column)
        except (OverflowError, TypeError) as error:
            raise struct.error(*error.args) from None
        head = _VEC_HEAD.pack(count, self.mode, self.behavior, 0, sum(self.purged))
        return (head + flat.tobytes()).ljust(FVRANGE_VEC_BYTES, b"\0")
