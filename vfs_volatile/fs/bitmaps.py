"""Bitmaps as ``libfvrange`` sends them, made into sets of pages."""

from __future__ import annotations

import struct

from pyroaring import BitMap

from vfs_volatile.core.pages import PageSpan, page_set

_CONTAINER_PAGES = 1 << 16
_CONTAINER_BYTES = _CONTAINER_PAGES // 8
_DENSE = 4096
"""With more members than that, roaring keeps a container as a bitmap."""
_NO_RUNS = 12346
_HEAD = struct.Struct("<IIHHI")
"""Cookie, number of containers; of the one: its key, members - 1, and where it begins."""


def pages_in(raw: bytes, span: PageSpan) -> BitMap:
    """The pages of ``span`` whose bit is set: the first is the lowest bit of the first byte.

    ``span`` starts at a multiple of 8 and lies within 65536 pages that start at such a multiple. No
    content of ``raw`` makes this slow: a client chooses it.
    """
    length = span.end - span.first
    bits = int.from_bytes(raw[: (length + 7) // 8], "little") & ((1 << length) - 1)
    members = bits.bit_count()
    if members == length:
        return page_set(span)
    if members > _DENSE:
        return _dense(bits, members, span.first)
    pages = BitMap()
    for at, byte in enumerate(bits.to_bytes((length + 7) // 8, "little")) if members else ():
        if byte:
            first = span.first + 8 * at
            pages.update([first + bit for bit in range(8) if byte >> bit & 1])
    return pages


def _dense(bits: int, members: int, first: int) -> BitMap:
    """From the format that all roaring bitmaps share (RoaringFormatSpec)."""
    key, offset = divmod(first, _CONTAINER_PAGES)
    head = _HEAD.pack(_NO_RUNS, 1, key, members - 1, _HEAD.size)
    pages = BitMap.deserialize(head + (bits << offset).to_bytes(_CONTAINER_BYTES, "little"))
    pages.run_optimize()
    return pages
