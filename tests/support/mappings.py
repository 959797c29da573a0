"""Mappings, as a query (processes/maps.py) answers."""

from __future__ import annotations

from collections.abc import Sequence

from vfs_volatile.processes.maps import Columns
from vfs_volatile.units import PAGE_SIZE

AT = 0x10000

Row = tuple[int, int, int, int, int]
"""Start and end address, offset into the file in bytes, inode, 1 if it is shared."""


def mapping(first: int, pages: int, ino: int = 1, *, shared: bool = False, at: int = AT) -> Row:
    return at, at + pages * PAGE_SIZE, first * PAGE_SIZE, ino, int(shared)


def columns(rows: Sequence[Row]) -> Columns:
    starts, ends, offsets, inodes, shared = map(list, zip(*rows, strict=True))
    return starts, ends, offsets, inodes, shared
