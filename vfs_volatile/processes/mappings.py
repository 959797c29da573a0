"""Who maps the files of a mount, as /proc/PID/maps shows it (proc_pid_maps(5)).

FUSE tells a file system nothing of mmap(2). Each line of ``maps`` carries the mount's device, the
inode, the file offset, and whether the mapping is shared or private.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vfs_volatile.core.consent import Mapper
from vfs_volatile.core.pages import LAST_PAGE, PageSpan
from vfs_volatile.processes.identity import ProcessId, identify, other_threads
from vfs_volatile.processes.maps import OwnMount, device_name, mapped_pages, parse_maps, read_maps
from vfs_volatile.processes.openers import Openers

_MAX_PASSES = 20
_PATIENCE = 5
_PATIENCE_SECONDS = 0.01

Opened = Mapping[int, Openers]
"""Inode -> who opened it: the files to look for."""


def _unknown(pid: int | None = None) -> Mapper:
    """What a process may have mapped that cannot be looked at."""
    return Mapper(None, PageSpan(0, LAST_PAGE), private=True, pid=pid)


@dataclass
class Mappers:
    """What one look at the processes found."""

    by_inode: dict[int, list[Mapper]] = field(default_factory=dict)
    unreadable: set[int] = field(default_factory=set)
    """Processes whose mappings could not be read and who may have mapped one of the files."""

    def add(self, ino: int, mapper: Mapper) -> None:
        self.by_inode.setdefault(ino, []).append(mapper)

    def of(self, ino: int) -> list[Mapper]:
        """Who maps ``ino``, or may."""
        return self.by_inode.get(ino, [])


Found = tuple[int, int, int, int, bool]
"""A mapping: start and end address, offset into the file in bytes, inode, shared?"""

Query = Callable[[int, int, int], list[Found]]
"""``query(pid, major, minor)``: a process's mappings of files of that device. Raises OSError."""


def query_text(pid: int, major: int, minor: int) -> list[Found]:
    """A :data:`Query` that any kernel answers: from the text of ``maps``. Raises OSError."""
    text = read_maps(pid)
    device = device_name(major, minor)
    if device not in text:
        return []
    return [
        (found.start, found.end, found.offset, found.ino, found.shared)
        for found in parse_maps(text)
        if found.device == device
    ]


class MappingScanner:
    """Looks through /proc for mappings of one mount's files."""

    def __init__(self, mount: OwnMount, *, only_uid: int | None, query: Query = query_text) -> None:
        self._mount = mount
        self._query = query
        self._stay_unreadable: set[ProcessId | None] = set()
        """Processes that were waited for in vain."""
        self._only_uid = only_uid
        """If set, only processes that run wholly as this user can reach the mount
        (fuse_permissible_uidgid in linux/fs/fuse/dir.c), so others need not be readable."""

    def scan(self, opened: Opened) -> Mappers:
        """The mappings of these files that there are now; maybe newer ones too.

        What cannot be read counts as a private one of the whole file, if it may be one. Blocks for
        a few milliseconds per hundred processes. A process that exits meanwhile may have left a
        child with its mappings, so the list of processes is read until it holds no new one.
        """
        found = Mappers()
        for ino, openers in opened.items():
            if openers.unseen:
                found.add(ino, _unknown())
        seen = {os.getpid()}  # never maps its own mount
        for _ in range(_MAX_PASSES):
            fresh = {int(name) for name in os.listdir("/proc") if name.isdigit()} - seen
            if not fresh:
                return found
            for pid in fresh:
                self._scan_process(pid, opened, found)
            seen |= fresh
        # Processes come faster than we can look, and any of them may be a child of a mapper.
        found.unreadable |= fresh
        for ino in opened:
            found.add(ino, _unknown())
        return found

    def _scan_process(self, pid: int, opened: Opened, found: Mappers) -> None:
        try:
            mappings = self._mappings_of(pid)
        except PermissionError:
            suspects = self._files_it_may_map(pid, opened)
            if suspects and self._becomes_readable(pid):
                self._scan_process(pid, opened, found)
                return
            for ino in suspects:
                found.add(ino, _unknown(pid))
                found.unreadable.add(pid)
            return
        process = None
        for start, end, offset, ino, shared in mappings:
            if ino in opened:
                process = process or identify(pid)
                pages = mapped_pages(start, end, offset)
                where = (start, end)
                found.add(ino, Mapper(process, pages, not shared, pid=pid, addresses=where))

    def _mappings_of(self, pid: int) -> list[Found]:
        """A process's mappings of our files, also if its first thread has ended before others."""
        for thread in itertools.chain((pid,), other_threads(pid)):
            try:
                return self._query(thread, *self._mount.numbers)
            except (FileNotFoundError, ProcessLookupError):
                continue  # this thread has no memory (any more)
        return []

    def _files_it_may_map(self, pid: int, opened: Opened) -> list[int]:
        """The files that a process whose mappings cannot be read may have mapped."""
        if not self._may_reach_the_mount(pid):
            return []
        return [ino for ino, openers in opened.items() if openers.may_include(pid)]

    def _becomes_readable(self, pid: int) -> bool:
        """Wait a moment for a process that is about to give up what it is more privileged by.

        A child that has just been forked by such a process looks like this until it runs its own
        program. One that stays so is waited for once.
        """
        process = identify(pid)
        if process in self._stay_unreadable:
            return False
        for _ in range(_PATIENCE):
            time.sleep(_PATIENCE_SECONDS)  # in a worker thread
            try:
                self._mappings_of(pid)
            except PermissionError:
                continue
            return True
        self._stay_unreadable.add(process)
        return False

    def _may_reach_the_mount(self, pid: int) -> bool:
        if self._only_uid is None:
            return True
        try:
            with open(f"/proc/{pid}/status", "rb") as file:
                status = file.read()
        except (FileNotFoundError, ProcessLookupError):
            return False
        match = re.search(rb"^Uid:\s+(\d+)\s+(\d+)\s+(\d+)", status, re.MULTILINE)
        return match is None or {int(uid) for uid in match.groups()} == {self._only_uid}
