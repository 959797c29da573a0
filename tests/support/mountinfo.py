"""What the kernel says of mounts, and how to free one that hangs, without touching any of them."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from tests.support.waiting import PATIENCE

CONNECTIONS = Path("/sys/fs/fuse/connections")
"""Where fusectl is mounted: Documentation/filesystems/fuse/fuse.rst."""


def mounts_below(directory: Path) -> dict[Path, int]:
    """Mount point -> device number, of what is mounted at or below ``directory``.

    Fields 5 and 3 of mountinfo in proc(5). Of a FUSE mount the minor number of the device, which
    is given here, is that of its connection.
    """
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        mountpoint = Path(fields[4].replace(r"\040", " "))
        if mountpoint.is_relative_to(directory):
            found[mountpoint] = int(fields[2].partition(":")[2])
    return found


def connection_of(mountpoint: Path) -> int | None:
    """The number of the FUSE connection mounted at ``mountpoint``, None if nothing is."""
    return mounts_below(mountpoint).get(mountpoint)


def is_mounted(mountpoint: Path) -> bool:
    return connection_of(mountpoint) is not None


def abort(connection: int) -> None:
    """Fail every request of a connection, also of one that is unmounted but still in use.

    It alone frees a daemon that waits in the kernel for itself: such a one cannot be killed. Where
    fusectl is not mounted, it is for this one write, in a mount namespace of its own.
    """
    switch = CONNECTIONS / str(connection) / "abort"
    if not switch.exists():
        here = f"mount -t fusectl fusectl {CONNECTIONS} && echo 1 > {switch}"
        quiet = subprocess.DEVNULL
        subprocess.run(
            ["unshare", "-m", "sh", "-c", here], check=False, timeout=PATIENCE, stderr=quiet
        )
        return
    with contextlib.suppress(OSError):  # it ended meanwhile
        switch.write_text("1")


def detach(mountpoint: Path) -> None:
    """Take the mount out of the tree of directories at once, if it is there."""
    if is_mounted(mountpoint):
        subprocess.run(["umount", "-l", mountpoint], check=False, timeout=PATIENCE)
