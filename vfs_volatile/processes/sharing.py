"""Which processes share memory without being threads of one: vfork(2), clone(2) with CLONE_VM."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cmp_to_key
from itertools import pairwise

from vfs_volatile.processes.kernel import COMES_AFTER, COMES_BEFORE, SAME_MEMORY, Kernel

_PASSES = 10
_ORDER = {COMES_BEFORE: -1, SAME_MEMORY: 0, COMES_AFTER: 1}


class UncertainError(Exception):
    """Who uses what memory changes faster than it can be told."""


def not_sharing(kernel: Kernel, pids: set[int], others: set[int], seen: set[int]) -> set[int]:
    """Those of ``pids`` that share their memory neither with each other nor with ``others``.

    ``seen`` are all processes that are known of; who is born meanwhile is compared with too. Those
    of ``pids`` have memory. The answer is right only for those of them that sleep all the while,
    and only if all of them do. A process that may not be looked at is left out: docs/semantics.md.

    Raises UncertainError, or OSError if one of ``pids`` has ended.
    """
    order = _different(kernel, pids)
    shared: set[int] = set()
    fresh = others - pids
    for _ in range(_PASSES):
        for pid in fresh:
            shared |= _users(kernel, pid, order)
        seen = seen | fresh
        fresh = kernel.pids() - seen
        if not fresh:
            return set(order) - shared
    raise UncertainError


def _different(kernel: Kernel, pids: Iterable[int]) -> list[int]:
    """Those of ``pids`` that share memory with no other of them, in the kernel's order."""

    def compare(one: int, other: int) -> int:
        return _compare(kernel, one, other)

    order = sorted(pids, key=cmp_to_key(compare))
    shared: set[int] = set()
    for one, other in pairwise(order):
        answer = compare(one, other)
        if answer > 0:
            raise UncertainError
        if answer == 0:
            shared |= {one, other}
    return [pid for pid in order if pid not in shared]


def _users(kernel: Kernel, pid: int, order: Sequence[int]) -> set[int]:
    """Who of ``order`` uses the memory of process ``pid``."""
    for tid in kernel.threads(pid):
        try:
            found = _find(kernel, tid, order)
            if kernel.has_memory(pid, tid):  # so it had it when it was compared
                return found
        except PermissionError:
            return set()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return set()


def _find(kernel: Kernel, tid: int, order: Sequence[int]) -> set[int]:
    """The one of ``order`` that uses the memory of ``tid``, if any does."""
    first, end = 0, len(order)
    while first < end:
        middle = (first + end) // 2
        answer = _compare(kernel, tid, order[middle])
        if answer == 0:
            return {order[middle]}
        if answer < 0:
            end = middle
        else:
            first = middle + 1
    return set()


def _compare(kernel: Kernel, one: int, other: int) -> int:
    answer = kernel.compare(one, other)
    if answer not in _ORDER:
        raise UncertainError
    return _ORDER[answer]
