"""The extended attributes of a file and of the mount's root, and their syntax.

RANGES is ``START+LENGTH[,START+LENGTH...]`` or ``all``: decimal bytes, with K, M or G allowed
on input. A LENGTH of 0 reaches to the end of the file, as in the ioctl.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from vfs_volatile.abi import ioctls

FILE_PREFIX = "user.fvrange."
VOLATILE = FILE_PREFIX + "volatile"
NONVOLATILE = FILE_PREFIX + "nonvolatile"
PURGED = FILE_PREFIX + "purged"
LOST = FILE_PREFIX + "lost"
PURGE = FILE_PREFIX + "purge"
BLOCKERS = FILE_PREFIX + "blockers"
"""JSON: who forbids to purge it now. For its owner and that of the mount."""

DATA_PATH = FILE_PREFIX + "data_path"
"""``passthrough`` or ``cached``, a colon, and why."""

MOUNT_PREFIX = "user.vfs_volatile."
BUDGET = MOUNT_PREFIX + "budget"
MOUNT_PURGE = MOUNT_PREFIX + "purge"
MOUNT_RESIDENT = MOUNT_PREFIX + "resident"
MOUNT_VOLATILE = MOUNT_PREFIX + "volatile"
MOUNT_PURGED = MOUNT_PREFIX + "purged"
STATS = MOUNT_PREFIX + "stats"
EVENTS_FROM = MOUNT_PREFIX + "events."
"""And a number: JSON of the events from that one on."""
ANONYMOUS = MOUNT_PREFIX + "anonymous"
"""JSON: the processes with anonymous memory, and why what is marked there is kept."""
BLOCKED = MOUNT_PREFIX + "blocked"
"""JSON: what the last purges had to leave, and who forbade it."""
FILES = {MOUNT_PREFIX + f"files.{order}": order for order in ("volatile", "purged", "resident")}
"""JSON: the files with most of it; what volatile leaves out is purged already."""
SLOW_FAULTS = MOUNT_PREFIX + "slow_faults"
"""Seconds by which every READ is held back. An aid for tests, as is the next."""
PURGE_ON_MARK = MOUNT_PREFIX + "purge_on_mark"
"""1: whatever is marked is purged at once."""
MOUNT_VALUES = {
    BUDGET: "budget",
    MOUNT_RESIDENT: "resident",
    MOUNT_VOLATILE: "volatile",
    MOUNT_PURGED: "purged",
}
"""The attributes that hold one counter -> its name in ``statistics``."""

Span = tuple[int, int]
"""(start, length) in bytes; length 0 = to the end of the file."""

_VALUE_BYTES = 64 << 10
"""What the kernel lets a value hold (XATTR_SIZE_MAX)."""
_ITEM = re.compile(r"(\d+)([KMG]?)\+(\d+)([KMG]?)", re.ASCII)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_OPTIONS = {
    "full": (ioctls.VRANGE_PARTIAL, ioctls.VRANGE_FULL),
    "partial": (ioctls.VRANGE_PARTIAL, ioctls.VRANGE_PARTIAL),
    "zero": (ioctls.VRANGE_ZERO | ioctls.VRANGE_SIGBUS, ioctls.VRANGE_ZERO),
    "sigbus": (ioctls.VRANGE_ZERO | ioctls.VRANGE_SIGBUS, ioctls.VRANGE_SIGBUS),
    **{
        f"priority={n}": (ioctls.PRIORITY_MASK, ioctls.vrange_priority(n))
        for n in range(ioctls.PRIORITY_MAX + 1)
    },
}
"""Option -> (the bits it decides, their value): two options may not decide the same bit."""


def parse_ranges(text: str) -> list[Span]:
    """The spans that RANGES names, in the order given. Raises ValueError on bad syntax."""
    if text == "all":
        return [(0, 0)]
    spans = []
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ValueError(f"'{item}' is not START+LENGTH")
        start = int(match[1]) * _UNITS[match[2]]
        length = int(match[3]) * _UNITS[match[4]]
        if start + length > ioctls.U64_MAX:
            raise ValueError(f"'{item}' ends beyond 64 bits")
        spans.append((start, length))
    return spans


def parse_mark(text: str) -> tuple[list[Span], int]:
    """(spans, behavior) of a value for ``user.fvrange.volatile``: ``RANGES[;option...]``.

    Raises ValueError on bad syntax, unknown options and options that contradict each other.
    """
    ranges, *options = text.split(";")
    behavior = decided = 0
    for option in options:
        if option not in _OPTIONS:
            raise ValueError(f"'{option}' is not an option")
        mask, bits = _OPTIONS[option]
        if decided & mask:
            raise ValueError(f"'{option}' contradicts or repeats an earlier option")
        decided |= mask
        behavior |= bits
    return parse_ranges(ranges), behavior


def format_ranges(spans: Iterable[Span]) -> str:
    """RANGES for ``spans``; empty text for none. Raises ValueError for more than a value holds."""
    texts: list[str] = []
    left = _VALUE_BYTES + 1
    for start, length in spans:
        texts.append(f"{start}+{length}")
        left -= len(texts[-1]) + 1
        if left < 0:
            raise ValueError("too many ranges for an extended attribute")
    return ",".join(texts)
