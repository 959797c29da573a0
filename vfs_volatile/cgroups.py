"""The control groups of this process (cgroups(7)), and how much memory they may have.

Standard library only.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from vfs_volatile.mountinfo import Mount, read_mounts

_VERSION_2 = "cgroup2"
"""What the kernel calls the file system of version 2."""

_SELF = Path("/proc/self/cgroup")


def unified_cgroup() -> Path | None:
    """The directory of our cgroup of version 2; None in the root, which is the whole machine."""
    found = _directory("")
    if found is None or not (found[0] / "cgroup.type").exists():
        return None
    return found[0]


def memory_limit() -> int | None:
    """Bytes that we may have, with all who are in our cgroup or in one above; None for all."""
    limits = []
    with contextlib.suppress(OSError):  # there are none, or it has just gone
        if (two := _directory("")) is not None:
            limits += limits_above(*two)
        if (one := _directory("memory")) is not None:
            limits.append(_hierarchical_limit(one[0]))
    return min(limits, default=None)


def limits_above(group: Path, top: Path) -> list[int]:
    """The limits of a cgroup of version 2, and of those above it up to ``top``. Raises OSError."""
    limits = []
    for path in (group, *group.parents):
        file = path / "memory.max"
        if file.exists() and (text := file.read_text().strip()) != "max":
            limits.append(int(text))
        if path == top:
            break
    return limits


def _directory(controller: str) -> tuple[Path, Path] | None:
    """Our cgroup that has a controller of version 1 ("": of version 2), and where its tree begins.

    Raises OSError.
    """
    for line in _SELF.read_text().splitlines():
        _, controllers, inside = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        for mount in read_mounts():
            if mount.fstype == _VERSION_2 if not controller else _has(mount, controller):
                top = Path(mount.mountpoint)
                return top / inside.removeprefix(mount.root).lstrip("/"), top
    return None


def _has(mount: Mount, controller: str) -> bool:
    """Is it the tree of a controller of version 1? They are mounted by their names."""
    names = Path(mount.mountpoint).name.split(",")
    return mount.fstype == "cgroup" and controller in names


def _hierarchical_limit(group: Path) -> int:
    """Of a cgroup of version 1; more than there is if it has none."""
    lines = (group / "memory.stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("hierarchical_memory_"))
