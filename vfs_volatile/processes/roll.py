"""Which processes are no longer who they were: they have ended, or run another program."""

from __future__ import annotations

from dataclasses import dataclass

from vfs_volatile.processes.identity import ProcessId
from vfs_volatile.processes.kernel import Kernel

_MOST_FILES = 1024


@dataclass(slots=True)
class _Entry:
    descriptor: int | None
    """For the turns of the first thread; None if too many are open."""
    turns: bytes | None = None
    """What it said when the thread slept and the process was the same; None if that is unknown."""


class Roll:
    """Processes to be told from others. One that sleeps costs a read of some 1 us.

    Neither exec nor exit is done while the first thread of a process sleeps: it runs another
    program itself, or is killed by the thread that does. Its memory may change: see sleepers.py.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._tells = kernel.tells_who_runs()
        self._entries: dict[ProcessId, _Entry] = {}
        self._files = 0

    def add(self, process: ProcessId) -> None:
        """Put a process on the roll; nothing if it is there."""
        if process in self._entries:
            return
        entry = self._entries[process] = _Entry(None)
        if self._tells and self._files < _MOST_FILES:
            try:
                entry.descriptor = self._kernel.open_turns(process.pid, process.pid)
                self._files += 1
            except OSError:  # it has ended, or too many files are open
                pass

    def remove(self, process: ProcessId) -> None:
        """Take a process off the roll, if it is there."""
        entry = self._entries.pop(process, None)
        if entry is not None and entry.descriptor is not None:
            self._kernel.close(entry.descriptor)
            self._files -= 1

    def call(self) -> list[ProcessId]:
        """Those on the roll that are no longer who they were. Raises OSError."""
        return [
            process for process, entry in self._entries.items() if self._is_gone(process, entry)
        ]

    def _is_gone(self, process: ProcessId, entry: _Entry) -> bool:
        turns = b"" if entry.descriptor is None else self._kernel.turns(entry.descriptor)
        if turns == entry.turns:
            return False
        try:
            asleep = turns and self._kernel.is_off_queue(process.pid, process.pid)
        except OSError:
            asleep = False
        is_gone = self._kernel.identify(process.pid) != process
        entry.turns = turns if asleep and not is_gone else None  # not before: it may be refused
        return is_gone
