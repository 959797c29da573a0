"""Telling one process from another, also when a pid is used again or another program is run."""

from __future__ import annotations

from typing import NamedTuple

_FIELDS_BEFORE = 3
"""Fields of ``stat`` (proc_pid_stat(5), counted from 1) before what follows the name."""
_PARENT, _BORN, _STACK = 4, 22, 28


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
    """The process that ``pid`` (or a thread of it) is now; None if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(b") ")[2].split()

    def number(field: int) -> int:
        return int(fields[field - _FIELDS_BEFORE])

    return Process(ProcessId(pid, number(_BORN), number(_STACK)), number(_PARENT))


def identify(pid: int) -> ProcessId | None:
    """Who ``pid`` is now; None if it has ended."""
    process = look_at(pid)
    return process.id if process else None


def process_of_thread(tid: int) -> int | None:
    """The pid of the process that thread ``tid`` belongs to; None if it has ended."""
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            status = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(status.partition(b"\nTgid:")[2].split(None, 1)[0])
