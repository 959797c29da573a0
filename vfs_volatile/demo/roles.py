"""What the processes do, but for those with a module of their own (``holder``, ``optimist``)."""

from __future__ import annotations

import json
import os
import random
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vfs_volatile.abi import xattrs
from vfs_volatile.demo.cache import Cache, Found, mark
from vfs_volatile.demo.plan import Plan
from vfs_volatile.demo.tally import fail, say

_SAMPLE_SECONDS = 0.02

_WRONG = {
    Found.WRONG: "was reported intact, but its checksum is wrong",
    Found.PURGED_IN_PART: "was purged in part, though marked to go as a whole",
}


def build(plan: Plan, number: int) -> None:
    """Build every entry of our share that nobody holds."""
    cache = Cache(plan)
    until = time.monotonic() + plan.build_seconds
    for index in range(number, len(plan.sources), plan.workers):
        if time.monotonic() > until:
            return
        if index in plan.held:
            continue
        with cache.locked(index) as fd:
            say(built=1) if cache.build(index, fd) else say(skipped=1)


def read(plan: Plan, number: int) -> None:
    """Look entries up: pin, verify what is intact, rebuild what is not, mark again."""
    cache = Cache(plan)
    rng = plan.rng("read", number)
    until = time.monotonic() + plan.lookup_seconds
    entries = cache.records.recorded()
    for _ in entries:
        if time.monotonic() > until:
            return
        look_up(cache, pick(rng, entries))


def look_up(cache: Cache, index: int) -> None:
    """One look-up, and what became of it."""
    with cache.locked(index) as fd:
        found = cache.pin(index, fd)
        if found is Found.INTACT:
            mark(fd)
            say(looked_up=1, hits=1, verified=1)
            return
        complain(cache.plan, index, found)
        cache.build(index, fd)
        say(looked_up=1, rebuilt=1)


def complain(plan: Plan, index: int, found: Found) -> None:
    """Report what may not be."""
    if found in _WRONG:
        fail(f"{plan.sources[index]} {_WRONG[found]}")
    elif found is Found.PURGED and index in plan.held:
        fail(f"{plan.sources[index]} was purged, though a process has it mapped private")


def pick(rng: random.Random, entries: Sequence[int]) -> int:
    """One of ``entries``: as with real modules, some are asked for much more often."""
    return entries[int(len(entries) * rng.random() ** 3)]


def sweep(plan: Plan, number: int) -> None:
    """Take every entry out of the cache: it must be right, or reported purged."""
    cache = Cache(plan)
    for index in cache.records.recorded():
        with cache.locked(index) as fd:
            found = cache.pin(index, fd)
            complain(plan, index, found)
            say(swept=1, verified=int(found is Found.INTACT))
            os.unlink(plan.entry_path(index))


def sample(plan: Plan, number: int) -> None:
    """Report the mount's own account again and again, until stdin is closed."""
    while not select.select([sys.stdin], [], [], _SAMPLE_SECONDS)[0]:
        say(sample=json.loads(os.getxattr(Path(plan.mountpoint), xattrs.STATS)))
