"""Who may have mapped a file: those who opened it, and who may have been handed a descriptor."""

from __future__ import annotations

import os
import time

from vfs_volatile.processes.identity import identify, process_of_thread

_FEW = 64
"""Openers that are kept without a look whether they live."""
_TICKS = os.sysconf("SC_CLK_TCK")


def boot_ticks() -> int:
    """Now, in the unit and on the clock of a process's start time (proc_pid_stat(5), field 22)."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * _TICKS // 10**9


def _is_first_thread(tid: int) -> bool:
    """Is it certain that its process has its number? Far cheaper than to read which has."""
    try:
        os.close(os.pidfd_open(tid))
    except OSError:
        return False
    return True


class Openers:
    """The opens of one file for as long as it has been open without a break.

    A mapping pins the open file that it was made with, so no process can have the file mapped
    that neither opened it in this time, nor is a child born since, nor was handed a descriptor.
    """

    __slots__ = ("_enough", "since", "tids", "unseen")

    def __init__(self) -> None:
        self.since = boot_ticks()
        """When the first of them opened it."""
        self.tids: set[int] = set()
        """Threads that opened it, and the first threads of their processes; those that have ended
        are not always included."""
        self._enough = _FEW
        """When there are more, those that have ended are left out."""
        self.unseen = False
        """Did a process open it that /proc does not show (one of another pid namespace)?"""

    def add(self, tid: int) -> None:
        """Thread ``tid`` opens the file; 0 as the kernel writes for one we cannot see."""
        if not tid:
            self.unseen = True
            return
        if tid in self.tids:
            return
        self.tids.add(tid)
        if not _is_first_thread(tid):  # it may end, and what it has mapped stays
            self.tids.add(process_of_thread(tid) or tid)
        if len(self.tids) > self._enough:
            self.tids = {tid for tid in self.tids if os.path.exists(f"/proc/{tid}")}
            self._enough = max(_FEW, 2 * len(self.tids))

    def may_include(self, pid: int) -> bool:
        """May process ``pid`` have the file mapped, as far as its age and threads tell?"""
        process = identify(pid)
        if process is None:
            return False
        try:
            threads = {int(name) for name in os.listdir(f"/proc/{pid}/task")}
        except (FileNotFoundError, ProcessLookupError):
            return False
        return process.born >= self.since or not self.tids.isdisjoint(threads)
