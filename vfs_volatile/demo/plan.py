"""What is to be done: which modules, in which order, which of them are held. Fixed by the seed."""

from __future__ import annotations

import json
import os
import random
import sysconfig
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vfs_volatile.errors import UserError
from vfs_volatile.units import PAGE_SIZE

BUDGET_SHARE = 8
"""The default budget is the size of the sources over this. What is compiled from them takes about
1.6 times their size: the cache is some twelve times the budget, and large enough on a slow machine
that gets through a fifth of the modules."""
HELD_SHARE = 3
"""Held entries take at most the budget over this: the purger must be able to reach the budget."""
MAX_HELD = 16
COMPILED_PER_SOURCE = 2
"""Compiled bytes per byte of source, at most, for most modules."""

_NOT_STANDARD = frozenset({"__pycache__", "dist-packages", "site-packages"})


@dataclass(frozen=True, slots=True)
class Plan:
    """One run; every worker gets all of it."""

    mountpoint: str
    records: str
    """Path of the record of each entry, outside the mount."""
    sources: list[str]
    """Paths of modules; an entry of the cache is known by its index here."""
    held: list[int]
    """Entries that one process has mapped private all the time."""
    workers: int
    """Builders, and then readers."""
    build_seconds: float
    """Builders take no new module after so long."""
    lookup_seconds: float
    """Nor do readers look up another entry."""
    seed: int

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Plan:
        return cls(**json.loads(path.read_text()))

    def entry_path(self, index: int) -> str:
        """The file of the mount that caches ``sources[index]``."""
        return os.path.join(self.mountpoint, f"{index:04d}-{Path(self.sources[index]).stem}")

    def rng(self, role: str, number: int) -> random.Random:
        """The random numbers of one worker: the same in each run with this seed."""
        return random.Random(f"{self.seed} {role} {number}")


def find_sources(seed: int, most: int | None) -> list[str]:
    """Modules of the standard library of this interpreter, shuffled; ``most`` of them, or all.

    Raises UserError if there are none.
    """
    root = sysconfig.get_path("stdlib")
    found = []
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = [name for name in subdirectories if name not in _NOT_STANDARD]
        found += [os.path.join(directory, name) for name in names if name.endswith(".py")]
    if not found:
        raise UserError(f"no Python sources below {root}; run it with a Python that has them")
    found.sort()
    random.Random(seed).shuffle(found)
    return found[:most]


def default_budget(sizes: Sequence[int]) -> int:
    """Bytes, whole pages, for sources of these sizes."""
    return max(1, sum(sizes) // BUDGET_SHARE // PAGE_SIZE) * PAGE_SIZE


def choose_held(sizes: Sequence[int], budget: int) -> list[int]:
    """The first sources of some pages that together stay well below ``budget``; at least one."""
    room = budget // HELD_SHARE
    held: list[int] = []
    for index, size in enumerate(sizes):
        need = size * COMPILED_PER_SOURCE
        if size >= PAGE_SIZE and need <= room and len(held) < MAX_HELD:
            held.append(index)
            room -= need
    return held or [min(range(len(sizes)), key=lambda index: sizes[index])]
