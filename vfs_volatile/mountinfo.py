"""The mounts this process sees: /proc/self/mountinfo (proc_pid_mountinfo(5)).

Standard library only. Reading it touches no mount, so the daemon may ask about its own, and a
dead mount is found as well as a live one.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

FSTYPE = "fuse.vfs-volatile"
"""The type under which the kernel lists a mount of this package."""

_ESCAPE = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of mountinfo; ``device`` is (major, minor), as in st_dev and /proc/PID/maps.

    ``root``: which directory of the file system is mounted.
    """

    mount_id: int
    device: tuple[int, int]
    mountpoint: str
    fstype: str
    source: str
    root: str = "/"


def read_mounts() -> list[Mount]:
    """All mounts, in the kernel's order: a later one may lie on top of an earlier one."""
    with open("/proc/self/mountinfo", "rb") as lines:
        return [parse_mount(line) for line in lines]


def parse_mount(line: bytes) -> Mount:
    """The mount that ``line`` of mountinfo describes."""
    before, after = line.rstrip(b"\n").split(b" - ", 1)
    mount_id, _parent, device, root, mountpoint, *_options = before.split(b" ")
    fstype, source, *_super_options = after.split(b" ")
    major, minor = device.split(b":")
    return Mount(
        int(mount_id),
        (int(major), int(minor)),
        _text(mountpoint),
        _text(fstype),
        _text(source),
        _text(root),
    )


def find_mount(path: str) -> Mount | None:
    """The topmost mount whose mount point is exactly ``path`` (absolute, no symbolic links)."""
    return next((m for m in reversed(read_mounts()) if m.mountpoint == path), None)


def _text(field: bytes) -> str:
    r"""``field`` with its octal escapes (``\040`` for a space) undone."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))
