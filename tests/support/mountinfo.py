"""What the kernel says of mounts, without touching any of them."""

from __future__ import annotations

from pathlib import Path

CONNECTIONS = Path("/sys/fs/fuse/connections")


def fuse_connection(mountpoint: Path) -> Path | None:
    """The control directory of the FUSE connection mounted at ``mountpoint``, None if none is.

    proc(5): fields 3 and 5 of mountinfo are major:minor and the mount point; the directory's name
    is the minor number (Documentation/filesystems/fuse/fuse.rst).
    """
    wanted = str(mountpoint).replace(" ", r"\040")
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        fields = line.split(" ")
        if fields[4] == wanted:
            return CONNECTIONS / fields[2].partition(":")[2]
    return None


def is_mounted(mountpoint: Path) -> bool:
    return fuse_connection(mountpoint) is not None
