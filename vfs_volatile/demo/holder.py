"""The process that has some entries mapped private (MAP_PRIVATE) as long as the demo runs.

Their pages must not be purged while it lives: neither those it wrote to (the copies are its own,
COWed, but the mapping covers the file's pages all the same) nor those it only mapped.
"""

from __future__ import annotations

import hashlib
import mmap
import sys
from dataclasses import dataclass

from vfs_volatile.abi.ioctls import STATE_PURGED
from vfs_volatile.client.calls import fvrange_next
from vfs_volatile.demo.cache import Cache, mark
from vfs_volatile.demo.plan import Plan
from vfs_volatile.demo.tally import fail, say
from vfs_volatile.units import PAGE_SIZE, pages_for

_OWN_WORDS = b"written by the holder"


@dataclass(frozen=True, slots=True)
class _Held:
    """One private mapping, and the SHA-256 of what it must show."""

    index: int
    mapping: mmap.mmap
    digest: bytes
    cowed: int
    """Pages written to: every other one."""


def hold(plan: Plan, number: int) -> None:
    """Build and map the held entries, wait until stdin is closed, and verify them."""
    cache = Cache(plan)
    held = [one for index in plan.held if (one := _build_and_map(cache, index))]
    say(
        held=len(held),
        held_pages=sum(pages_for(len(one.mapping)) for one in held),
        cowed_pages=sum(one.cowed for one in held),
    )
    sys.stdin.read()
    for one in held:
        _verify(cache, one)


def _build_and_map(cache: Cache, index: int) -> _Held | None:
    """Map it before it is marked, so that no purge can have begun; None: it does not compile."""
    with cache.locked(index) as fd:
        stored = cache.store(index, fd)
        if stored is None:
            say(skipped=1)
            return None
        with stored:
            expected = bytearray(stored)
            mapping = mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)  # MAP_PRIVATE
            starts = range(0, len(expected), 2 * PAGE_SIZE)
            for start in starts:
                words = _OWN_WORDS[: len(expected) - start]
                mapping[start : start + len(words)] = words
                expected[start : start + len(words)] = words
            mark(fd)
    say(built=1)
    return _Held(index, mapping, hashlib.sha256(expected).digest(), len(starts))


def _verify(cache: Cache, one: _Held) -> None:
    """The mapping shows the copies and the file's pages; the file is whole, without the copies."""
    source = cache.plan.sources[one.index]
    with cache.locked(one.index) as fd:
        if any(run.state == STATE_PURGED for run in fvrange_next(fd)):
            fail(f"{source} has purged pages, though a process has it mapped private")
        elif hashlib.sha256(one.mapping).digest() != one.digest:
            fail(f"{source} has changed under a private mapping")
        elif not cache.matches(one.index, fd):
            fail(f"{source} is held by a private mapping, but its checksum is wrong")
        else:
            say(kept=1, kept_pages=pages_for(len(one.mapping)), verified=2)
