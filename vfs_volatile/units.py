"""Units: the page, and sizes as people write them. Standard library only."""

from __future__ import annotations

import mmap
import os
import re

from vfs_volatile.cgroups import memory_limit

PAGE_SIZE = mmap.PAGESIZE
"""Bytes of one page: the unit of residency, volatility and purging."""

_SUFFIXES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(?:iB)?", re.ASCII)
_PERCENT = re.compile(r"(\d+)%", re.ASCII)


def pages_for(size_bytes: int) -> int:
    """Number of pages that hold ``size_bytes`` bytes, the last one perhaps in part."""
    return -(-size_bytes // PAGE_SIZE)


def total_memory() -> int:
    """Bytes of memory that we may have (what a percentage is a percentage of).

    Those of this machine, or what our cgroup may have.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE
    limit = memory_limit()
    return machine if limit is None else min(machine, limit)


def parse_size(text: str) -> int:
    """Bytes meant by ``text``: ``4096``, ``64K``, ``512M``, ``2G``, ``1T`` or ``25%`` of memory.

    Raises ValueError for anything else.
    """
    if match := _SIZE.fullmatch(text.strip()):
        return int(match[1]) * _SUFFIXES[match[2]]
    if match := _PERCENT.fullmatch(text.strip()):
        return total_memory() * int(match[1]) // 100
    raise ValueError(f"'{text}' is not a size; write bytes, or a number with K, M, G, T or %")


def format_size(size_bytes: int) -> str:
    """``size_bytes`` for people: ``512 B``, ``64.0 KiB``, ``1.5 GiB``."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"
