"""Small files, and bytes at the borders of their pages: where the rules are decided."""

from __future__ import annotations

from hypothesis import strategies as st

from vfs_volatile.abi.ioctls import (
    VRANGE_FULL,
    VRANGE_PARTIAL,
    VRANGE_SIGBUS,
    VRANGE_ZERO,
    vrange_priority,
)
from vfs_volatile.core.pages import PageSpan
from vfs_volatile.units import PAGE_SIZE

MAX_PAGES = 4
FILES = 2

files = st.integers(0, FILES - 1)
pages = st.integers(0, MAX_PAGES)
borders = st.sampled_from(
    [
        *(page * PAGE_SIZE for page in range(MAX_PAGES + 1) for _ in range(3)),
        *(page * PAGE_SIZE - 1 for page in range(1, MAX_PAGES + 1)),
        *(page * PAGE_SIZE + 1 for page in range(MAX_PAGES)),
    ]
)
"""Bytes: borders of pages and, not as often, their neighbours."""
extents = st.tuples(borders, borders).map(lambda ends: (min(ends), abs(ends[1] - ends[0])))
"""(start, length) in bytes."""
ranges = st.one_of(st.just((0, 0)), extents)
"""As extents; length 0 means to the end of file, and half of them are the whole file."""
rows = st.lists(pages, min_size=2, max_size=6, unique=True).map(
    lambda ends: [
        (first * PAGE_SIZE, (end - first) * PAGE_SIZE)
        for first, end in zip(sorted(ends)[::2], sorted(ends)[1::2], strict=False)
    ]
)
"""Extents of whole pages in order, none of which meets another."""
some_bytes = extents.filter(lambda extent: extent[1] > 0)
behaviors = st.sampled_from(
    [
        how | touch | vrange_priority(priority)
        for priority in (0, 0, 1, 7)
        for touch in (0, VRANGE_ZERO, VRANGE_ZERO, VRANGE_SIGBUS)
        for how in (VRANGE_FULL, VRANGE_PARTIAL)
    ]
)
page_spans = st.tuples(pages, pages).filter(lambda ends: ends[0] < ends[1]).map(PageSpan._make)
