"""What a look at the processes asks the kernel, call by call.

/proc tells of a thread, without a word to it, how often it was switched in and whether it is off
its run queue; kcmp(2) tells whether two processes use the same memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

from vfs_volatile.processes.identity import ProcessId, identify, other_threads
from vfs_volatile.processes.maps import Query, query_text

_FIRST_RELEASE = (5, 16)
"""Linux/kernel/sched/core.c, get_wchan(): since then only of a thread off its run queue."""
_TURNS_BYTES = 96
_LINKS_OF_NO_THREAD = 2

SAME_MEMORY, COMES_BEFORE, COMES_AFTER = 0, 1, 2
"""Answers of a :data:`Compare`."""

Compare = Callable[[int, int], int]
"""``compare(tid, tid)`` is one of the above; another number says only that they differ.

Raises OSError: ESRCH (one has ended), EPERM (one may not be looked at).
"""


class Kernel:
    """The kernel of this machine. A thread that is not there raises FileNotFoundError or
    ProcessLookupError, one that may not be looked at PermissionError.
    """

    def __init__(
        self,
        query: Query = query_text,
        compare: Compare | None = None,
        require_memory: Callable[[], None] = lambda: None,
    ) -> None:
        """``require_memory``: raises MemoryError if a look is to take no more."""
        self.query = query
        self.require_memory = require_memory
        self._compare = compare

    def pids(self) -> set[int]:
        """All processes that /proc shows. One that lives all the while is among them."""
        return {int(name) for name in os.listdir("/proc") if name.isdigit()}

    def identify(self, pid: int) -> ProcessId | None:
        return identify(pid)

    def threads(self, pid: int) -> Iterator[int]:
        """The threads of a process, the first thread first, until there is no new one.

        A thread that has ended may have left another that has their memory now.
        """
        seen: set[int] = set()
        fresh = [pid]
        while fresh:
            yield from fresh
            seen.update(fresh)
            fresh = [tid for tid in other_threads(pid) if tid not in seen]

    def thread_count(self, pid: int) -> int:
        """How many threads it has (linux/fs/proc/base.c, proc_task_getattr)."""
        return os.stat(f"/proc/{pid}/task").st_nlink - _LINKS_OF_NO_THREAD

    def open_turns(self, pid: int, tid: int) -> int:
        """A descriptor for :meth:`turns`; it never means another thread that gets the number."""
        return os.open(f"/proc/{pid}/task/{tid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def turns(self, descriptor: int) -> bytes:
        """Something that changes before a thread that was off its run queue runs again.

        It holds sched_info.pcount (linux/kernel/sched/stats.h, sched_info_arrive), and
        nanoseconds by which it is told from a thread that took over its number in execve(2).
        Empty when the thread has ended.
        """
        try:
            return os.pread(descriptor, _TURNS_BYTES, 0)
        except ProcessLookupError:
            return b""

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def is_off_queue(self, pid: int, tid: int) -> bool:
        """Does the thread sleep, off its run queue? The state in ``stat`` would not tell: a thread
        that is preempted on its way to sleep goes on without being counted as switched in.
        """
        with open(f"/proc/{pid}/task/{tid}/wchan", "rb", buffering=0) as file:
            return file.read() not in (b"0", b"")

    def has_memory(self, pid: int, tid: int) -> bool:
        with open(f"/proc/{pid}/task/{tid}/statm", "rb", buffering=0) as file:
            return not file.read().startswith(b"0 ")

    def compare(self, one: int, other: int) -> int:
        """See :data:`Compare`."""
        assert self._compare is not None, "asked only where tells_who_slept()"
        return self._compare(one, other)

    def tells_who_slept(self) -> bool:
        """Does this kernel tell all that is needed to know who has not run?"""
        own = os.getpid()
        try:
            return (
                self._compare is not None
                and self.tells_who_runs()
                and self.compare(own, own) == SAME_MEMORY
            )
        except OSError:
            return False

    def tells_who_runs(self) -> bool:
        """Do :meth:`turns` and :meth:`is_off_queue` answer?"""
        own = os.getpid()
        try:
            descriptor = self.open_turns(own, own)
        except OSError:
            return False
        turns = self.turns(descriptor)
        self.close(descriptor)
        return _release() >= _FIRST_RELEASE and turns.split()[2] != b"0"


def _release() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
