"""Who maps the files of a mount, as /proc/PID/maps shows it (proc_pid_maps(5)).

FUSE tells a file system nothing of mmap(2). Each line of ``maps`` carries the mount's device, the
inode, the file offset, and whether the mapping is shared or private.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Container, Mapping, Set
from dataclasses import dataclass, field

from vfs_volatile.core.consent import Mapper
from vfs_volatile.processes.folding import Mapped, fold, mapped_by
from vfs_volatile.processes.identity import ProcessId, status_fields
from vfs_volatile.processes.kernel import Kernel
from vfs_volatile.processes.maps import OwnMount
from vfs_volatile.processes.openers import Openers
from vfs_volatile.processes.sleepers import Sleepers

_CHASE_SECONDS = 1.0
"""How long a look goes on after processes that come while it looks."""
_PATIENCE_SECONDS = 3.0
"""How long a look waits for processes that may become readable, for all of them together."""
_RETRY_SECONDS = 0.01

Opened = Mapping[int, Openers]
"""Inode -> who opened it: the files to look for."""


def _unknown(pid: int | None = None) -> Mapper:
    """What a process may have mapped that cannot be looked at."""
    return Mapper(None, None, private=True, pid=pid)


@dataclass
class Mappers:
    """What one look at the processes found."""

    by_inode: dict[int, list[Mapper]] = field(default_factory=dict)
    unreadable: set[int] = field(default_factory=set)
    """Processes whose mappings could not be read and who may have mapped one of the files."""
    asked: int = 0
    remembered: int = 0
    """How many processes were asked, and of how many it was known what they have mapped."""
    asking: tuple[int, float] | None = None
    """The process that is being asked at this moment, and since when (time.monotonic)."""
    waited: float = 0.0
    """How long it has waited for unreadable ones, in seconds."""

    def add(self, ino: int, mapper: Mapper) -> None:
        self.by_inode.setdefault(ino, []).append(mapper)

    def add_all(self, mapped: Mapped, inodes: Container[int]) -> None:
        """Add what a process has mapped of some files."""
        for ino, mapper in mapped.mappers:
            if ino in inodes:
                self.add(ino, mapper)

    def of(self, ino: int) -> list[Mapper]:
        """Who maps ``ino``, or may."""
        return self.by_inode.get(ino, [])


class MappingScanner:
    """Looks through /proc for mappings of one mount's files."""

    def __init__(
        self, mount: OwnMount, kernel: Kernel, *, only_uid: int | None, most_files: int = 0
    ) -> None:
        """``most_files``: how many descriptors may be held open to remember who sleeps."""
        self._mount = mount
        self._kernel = kernel
        self._only_uid = only_uid
        """If set, only processes that run wholly as this user can reach the mount
        (fuse_permissible_uidgid in linux/fs/fuse/dir.c), so others need not be readable."""
        self._stay_unreadable: set[ProcessId] = set()
        """Processes that were waited for in vain, and are there still."""
        self._hung: set[int] = set()
        """Processes that somebody waits for in vain, for as long as he does."""
        self._sleepers = Sleepers(kernel, most_files if kernel.tells_who_slept() else 0)
        self._remembering = threading.Lock()
        """Held by the look that uses ``_sleepers``."""

    def scan(self, opened: Opened, found: Mappers | None = None) -> Mappers:
        """The mappings of these files that there are now; maybe newer ones too.

        What cannot be read counts as a private one of the whole file, if it may be one. Blocks for
        two milliseconds per thousand processes that sleep, and for a few per hundred others. For
        worker threads: of several looks at the same time one remembers, the others ask all.
        ``found``: where to put what is found, for whoever wants to see how it goes on.
        """
        found = Mappers() if found is None else found
        for ino, openers in opened.items():
            if openers.unseen:
                found.add(ino, _unknown())
        if not self._remembering.acquire(blocking=False):
            self._look(opened, found, Sleepers(self._kernel, 0))
            return found
        try:
            self._look(opened, found, self._sleepers)
        finally:
            self._remembering.release()
        return found

    def close(self) -> None:
        """Forget all processes, and close what they were followed by. No look may be under way."""
        self._sleepers.retain(set())

    def _look(self, opened: Opened, found: Mappers, sleepers: Sleepers) -> None:
        """A process that exits meanwhile may have left a child with its mappings, so the list of
        processes is read until it holds no new one. Each pass asks the new ones alone: it takes
        about as long as reading the list, and the next finds what came in that time.
        """
        seen = {os.getpid()}  # never maps its own mount
        fresh = self._kernel.pids() - seen
        until: float | None = None
        while fresh:
            known = sleepers.recall(fresh, seen)
            found.remembered += len(known)
            found.asked += len(fresh) - len(known)
            for mapped in known.values():
                found.add_all(mapped, opened)
            for pid in fresh - known.keys():
                found.add_all(self._ask(pid, opened, found, sleepers), opened)
            seen |= fresh
            fresh = self._kernel.pids() - seen
            now = time.monotonic() - found.waited
            until = now + _CHASE_SECONDS if until is None else until
            if fresh and now > until:
                self._give_up(fresh, opened, found)
                return
        sleepers.retain(seen)
        for process in tuple(self._stay_unreadable):
            if process.pid not in seen:
                self._stay_unreadable.discard(process)

    @staticmethod
    def _give_up(fresh: set[int], opened: Opened, found: Mappers) -> None:
        """Processes come faster than we can look, and any of them may be a child of a mapper."""
        found.unreadable |= fresh
        for ino in opened:
            found.add(ino, _unknown())

    def _ask(self, pid: int, opened: Opened, found: Mappers, sleepers: Sleepers) -> Mapped:
        remembered = sleepers.will_keep(pid)
        try:
            mapped = self._mapped_by(pid, found, None if remembered else opened.keys())
        except PermissionError:
            suspects = self._files_it_may_map(pid, opened)
            if suspects and self._becomes_readable(pid, found):
                return self._ask(pid, opened, found, sleepers)
            if suspects:
                found.unreadable.add(pid)
            return Mapped([(ino, _unknown(pid)) for ino in suspects])
        if remembered:
            sleepers.learn(pid, mapped)
        return mapped

    def skip(self, pid: int) -> None:
        """Take a process for unreadable, as long as a look waits for it.

        Asking waits for the lock of its memory (mmap_lock), which a process can hold for as long
        as it likes: by a page fault on a file system of its own that does not answer.
        """
        self._hung.add(pid)

    def _mapped_by(self, pid: int, found: Mappers, wanted: Set[int] | None) -> Mapped:
        """A process's mappings of our files, also if its first thread has ended before others.

        ``wanted``: the inodes that are looked for, if not all are.

        Raises PermissionError.
        """
        if pid in self._hung:
            raise PermissionError
        found.asking = pid, time.monotonic()
        try:
            return self._query(pid, wanted)
        finally:
            found.asking = None
            self._hung.discard(pid)

    def _query(self, pid: int, wanted: Set[int] | None) -> Mapped:
        for tid in self._kernel.threads(pid):
            try:
                found = self._kernel.query(tid, *self._mount.numbers)
                folds = fold(found, self._kernel.require_memory, wanted)
            except (FileNotFoundError, ProcessLookupError):
                continue
            return mapped_by(self._kernel.identify(pid), pid, folds) if folds else Mapped()
        return Mapped()  # it has no memory (any more)

    def _files_it_may_map(self, pid: int, opened: Opened) -> list[int]:
        """The files that a process whose mappings cannot be read may have mapped."""
        if not self._may_reach_the_mount(pid):
            return []
        return [ino for ino, openers in opened.items() if openers.may_include(pid)]

    def _becomes_readable(self, pid: int, found: Mappers) -> bool:
        """Wait a moment for a process that is about to give up what it is more privileged by.

        A child that has just been forked by such a process looks like this until it runs its own
        program, which takes its time on a busy machine. One that stays so is waited for once.
        """
        process = self._kernel.identify(pid)
        if pid in self._hung or process in self._stay_unreadable:
            return False
        while found.waited < _PATIENCE_SECONDS:
            began = time.monotonic()
            time.sleep(_RETRY_SECONDS)  # in a worker thread
            found.waited += time.monotonic() - began
            try:
                self._mapped_by(pid, found, frozenset())
            except PermissionError:
                continue
            return True
        if process is not None:
            self._stay_unreadable.add(process)
        return False

    def _may_reach_the_mount(self, pid: int) -> bool:
        if self._only_uid is None:
            return True
        found = status_fields(pid, b"Uid")
        if found is None:
            return False
        (uids,) = found
        return not uids or {int(uid) for uid in uids[:3]} == {self._only_uid}
