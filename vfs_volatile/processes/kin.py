"""Which stacks any process has: fork(2) copies its address, so what descends from whom."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from vfs_volatile.processes.identity import ProcessId, who_may_fork

_MOST_LISTS = 20
"""Of processes, until there is none that was not seen before: on a busy machine perhaps never."""


class Living(NamedTuple):
    """All processes (of a user) that may still fork."""

    stacks: set[int]
    unseen: int
    """When the youngest was born whose stack may not be seen, in clock ticks since boot; or -1."""

    def may_have_child(self, stack: int, born: int) -> bool:
        """May one of them descend from a process with that stack, and born then?"""
        return stack in self.stacks or born <= self.unseen


def look_at_living(
    only_uid: int | None,
    pids: Callable[[], set[int]],
    look: Callable[[int], ProcessId | None] = who_may_fork,
) -> Living | None:
    """None if it cannot be told: there were others each time one looked.

    A process that is forked meanwhile is in the next list, or its parent still is.
    """
    stacks: set[int] = set()
    unseen = -1
    seen: set[int] = set()
    for _ in range(_MOST_LISTS):
        new = pids() - seen
        if not new:
            return Living(stacks, unseen)
        seen |= new
        for pid in new:
            if only_uid is not None and _owner(pid) != only_uid:
                continue
            process = look(pid)
            if process is None:
                continue
            if process.stack:
                stacks.add(process.stack)
            else:
                unseen = max(unseen, process.born)
    return None


def _owner(pid: int) -> int | None:
    """None if it has ended."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except (FileNotFoundError, ProcessLookupError):
        return None
