"""Everything that can be wrong before a mount is tried, each with its mend."""

from __future__ import annotations

import errno
import os
import shutil

from vfs_volatile.cgroups import memory_limit
from vfs_volatile.cli.launch import ANSWER_LIMIT, within
from vfs_volatile.cli.output import complain
from vfs_volatile.cli.places import explained
from vfs_volatile.daemon.config import MountConfig
from vfs_volatile.errors import UserError
from vfs_volatile.mountinfo import find_mount
from vfs_volatile.units import format_size

_FUSE_DEVICE = "/dev/fuse"
_FUSE_CONF = "/etc/fuse.conf"


def check_mountpoint(directory: str, real: str) -> None:
    """Raise UserError unless ``directory`` (``real`` without symbolic links) is free and empty."""
    if find_mount(real) is not None:
        _refuse_mounted(directory)
    if not os.path.lexists(directory):
        raise UserError(f"{directory} does not exist; create it with: mkdir -p {directory}")
    with explained(directory):
        _refuse_link_of_another(directory, real)
        if not os.path.isdir(directory):
            raise UserError(f"{directory} is not a directory; give an empty directory")
        if os.listdir(directory):
            raise UserError(f"{directory} is not empty; give an empty directory")
    if os.geteuid() != 0 and not os.access(directory, os.W_OK):  # fusermount3(1) insists on it
        raise UserError(f"{directory} may not be written by you; give a directory of your own")


def _refuse_link_of_another(directory: str, real: str) -> None:
    """In /tmp somebody may have put a link of that name to lead us elsewhere."""
    link = directory.rstrip("/")
    if os.path.islink(link) and os.lstat(link).st_uid not in (0, os.geteuid()):
        raise UserError(
            f"{directory} is a symbolic link of another user, to {real}; give that instead"
        )


def check_fuse(*, allow_other: bool) -> None:
    """Raise UserError unless this user can mount a FUSE file system."""
    try:
        os.close(os.open(_FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise UserError(f"{_FUSE_DEVICE}: {error.strerror}; {_mend_fuse(error)}") from None
    if os.geteuid() == 0:
        return
    if shutil.which("fusermount3") is None:
        raise UserError("fusermount3 is missing; install it with: apt install fuse3")
    if allow_other and not _others_allowed():
        raise UserError(
            f"--allow-other is not permitted to users; add a line user_allow_other to {_FUSE_CONF}"
        )


def warn_of_limit(config: MountConfig) -> None:
    """Say so if the cgroup may have less than the mount: the kernel ends who takes more.

    Not refused: the limit can be raised any time.
    """
    limit = memory_limit()
    for name, size in (("budget", config.budget), ("size", config.size)):
        if limit is not None and size >= limit:
            complain(
                f"vfs-volatile: warning: --{name} is {format_size(size)}, but the cgroup may have"
                f" {format_size(limit)}: the kernel ends a daemon that takes more, and its data"
                " are lost; give less, or raise the limit (MemoryMax of a unit)"
            )
            return


def _refuse_mounted(directory: str) -> None:
    try:
        within(ANSWER_LIMIT, lambda: os.statvfs(directory))  # stat(2) may answer from a cache
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise UserError(
                f"{directory} is a dead mount (its daemon has gone);"
                f" clean up with: vfs-volatile umount {directory}"
            ) from None
    raise UserError(
        f"{directory} is a mount point already; unmount it first, or give another directory"
    )


def _mend_fuse(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return "load it with: modprobe fuse (a container needs --device /dev/fuse)"
    if os.geteuid() != 0:
        return f"open it to users, as root: chmod 666 {_FUSE_DEVICE}"
    return "start the container with --device /dev/fuse --cap-add SYS_ADMIN"


def _others_allowed() -> bool:
    """Does /etc/fuse.conf let ordinary users pass allow_other?"""
    try:
        with open(_FUSE_CONF, encoding="utf-8", errors="replace") as lines:
            return any(line.strip() == "user_allow_other" for line in lines)
    except OSError:
        return False
