"""Who maps the files of a mount private, as /proc/PID/maps shows it (proc_pid_maps(5)).

FUSE tells a file system nothing of mmap(2). Each line of ``maps`` carries the mount's device, the
inode, the file offset, and ``p`` for a private mapping.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Container
from dataclasses import dataclass, field

from vfs_volatile.core.pages import LAST_PAGE
from vfs_volatile.core.ranges import PageSpan
from vfs_volatile.mountinfo import find_mount
from vfs_volatile.units import PAGE_SIZE

_MAX_PASSES = 20
_LINE = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) ...p ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+)", re.MULTILINE
)


@dataclass
class PrivateMappings:
    """What one look at the processes found."""

    spans: dict[int, list[PageSpan]] = field(default_factory=dict)
    """Inode -> pages that some process has mapped private."""
    unreadable: list[int] = field(default_factory=list)
    """Processes whose mappings could not be read: each may have mapped anything."""

    def of(self, ino: int) -> list[PageSpan]:
        """Pages of ``ino`` that may be mapped private. What cannot be read counts as mapped."""
        return [PageSpan(0, LAST_PAGE)] if self.unreadable else self.spans.get(ino, [])


class MappingScanner:
    """Looks through /proc for private mappings of one mount's files."""

    def __init__(self, mountpoint: str, *, only_uid: int | None) -> None:
        self._mountpoint = mountpoint
        self._only_uid = only_uid
        """If set, only processes that run wholly as this user can reach the mount
        (fuse_permissible_uidgid in linux/fs/fuse/dir.c), so others need not be readable."""

    def scan(self, inodes: Container[int]) -> PrivateMappings:
        """The private mappings of ``inodes`` that existed when this was called; maybe some newer.

        Blocks for a few milliseconds per hundred processes. A process that exits meanwhile may
        have left a child with its mappings, so the list of processes is read until it
        holds no new one.
        """
        found = PrivateMappings()
        seen = {os.getpid()}  # never maps its own mount
        for _ in range(_MAX_PASSES):
            fresh = {int(name) for name in os.listdir("/proc") if name.isdigit()} - seen
            if not fresh:
                return found
            for pid in fresh:
                self._scan_process(pid, inodes, found)
            seen |= fresh
        # Processes come faster than we can look: nothing is known.
        found.unreadable.extend(fresh)
        return found

    @functools.cached_property
    def _device(self) -> bytes:
        """The mount's device as ``maps`` writes it. Asking /proc touches no mount."""
        mount = find_mount(self._mountpoint)
        assert mount is not None, "asked before the mount was made"
        return b"%02x:%02x" % mount.device

    def _scan_process(self, pid: int, inodes: Container[int], found: PrivateMappings) -> None:
        try:
            with open(f"/proc/{pid}/maps", "rb") as file:
                maps = file.read()
        except (FileNotFoundError, ProcessLookupError):
            return
        except PermissionError:
            if self._may_reach_the_mount(pid):
                found.unreadable.append(pid)
            return
        if self._device not in maps:
            return
        for match in _LINE.finditer(maps):
            start, end, offset, device, inode = match.groups()
            if device == self._device and int(inode) in inodes:
                first = int(offset, 16) // PAGE_SIZE
                pages = (int(end, 16) - int(start, 16)) // PAGE_SIZE
                found.spans.setdefault(int(inode), []).append(PageSpan(first, first + pages))

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
