"""Telling one process from another, also when a pid is used again or another program is run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

_STATE, _PARENT, _FLAGS, _BORN, _STACK = 3, 4, 9, 22, 28
"""Fields of ``stat``, counted from 1 (proc_pid_stat(5))."""
_NLINK_OF_ONE = 3
"""Links of the directory ``task`` of a process with one thread."""
_CAP_FSETID = 4
_NO_MEMORY = 0x4 | 0x200000
"""PF_EXITING and PF_KTHREAD of <linux/sched.h>: without memory, or it is about to go."""


class ProcessId(NamedTuple):
    """A process as it was when it was looked at: its memory, not its number.

    fork(2) copies ``stack``, execve(2) changes it, so a child that runs another program is told
    from one that does not.
    """

    pid: int
    born: int
    """Start time in clock ticks since boot."""
    stack: int
    """Address of the bottom of the stack; 0 where it may not be seen."""


class Process(NamedTuple):
    """A process and the pid of its parent."""

    id: ProcessId
    parent: int


def look_at(pid: int) -> Process | None:
    """The process that ``pid`` is now; None if it has ended.

    A process whose first thread has ended lives on in the others, and has its memory there.
    """
    try:
        fields = _stat(pid)
        stack = int(fields[_STACK])
        for thread in other_threads(pid) if not stack else ():
            stack = stack or int(_stat(thread)[_STACK])
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Process(ProcessId(pid, int(fields[_BORN]), stack), int(fields[_PARENT]))


def who_may_fork(pid: int) -> ProcessId | None:
    """As identify(); None also if no child can have its stack: a zombie, a thread of the kernel."""
    found = identify(pid)
    if found is None or found.stack:
        return found
    try:
        fields = _stat(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[_STATE] in b"ZX" or int(fields[_FLAGS]) & _NO_MEMORY else found


def other_threads(pid: int) -> Iterator[int]:
    """The threads of a process but the first."""
    try:
        if os.stat(f"/proc/{pid}/task").st_nlink <= _NLINK_OF_ONE:
            return
        yield from (int(name) for name in os.listdir(f"/proc/{pid}/task") if int(name) != pid)
    except (FileNotFoundError, ProcessLookupError):
        return


def _stat(pid: int) -> list[bytes]:
    """The fields of ``stat``, numbered as in proc_pid_stat(5); the first three are left empty."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return [b"", b"", b"", *file.read().rpartition(b") ")[2].split()]


def status_fields(tid: int, *names: bytes) -> list[list[bytes]] | None:
    """The words of fields of ``status`` (proc_pid_status(5)), all of one moment; none of a field
    that is not there. None if thread ``tid`` has ended.
    """
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            status = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return [status.partition(b"\n" + name + b":")[2].partition(b"\n")[0].split() for name in names]


def is_dying(tid: int) -> bool:
    """Has thread ``tid`` ended, or been killed? A fatal signal is SIGKILL for each thread
    (complete_signal in linux/kernel/signal.c).
    """
    found = status_fields(tid, b"SigPnd")
    if found is None:
        return True
    ((pending,),) = found
    return bool(int(pending, 16) >> (signal.SIGKILL - 1) & 1)


def identify(pid: int) -> ProcessId | None:
    """Who ``pid`` is now; None if it has ended."""
    process = look_at(pid)
    return process.id if process else None


def command_of(pid: int) -> str | None:
    """The name of the program that process or thread ``pid`` runs, cut to 15 bytes by the kernel.

    None if it has ended.
    """
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return os.fsdecode(file.read().rstrip(b"\n"))
    except OSError:
        return None


def process_of_thread(tid: int) -> int | None:
    """The pid of the process that thread ``tid`` belongs to; None if it has ended."""
    found = status_fields(tid, b"Tgid")
    if found is None:
        return None
    ((pid,),) = found
    return int(pid)


def keeps_set_group_id(tid: int, gid: int) -> bool:
    """Is thread ``tid`` in a group, or may it set set-group-ID bits for any (capabilities(7))?

    No if it has ended, or cannot be seen from here. (in_group_or_capable in linux/fs/attr.c)
    """
    found = status_fields(tid, b"Gid", b"Groups", b"CapEff")
    if found is None:
        return False
    gids, others, (capabilities,) = found
    groups = {int(group) for group in (*gids[3:], *others)}
    return gid in groups or bool(int(capabilities, 16) >> _CAP_FSETID & 1)
