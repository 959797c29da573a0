"""Where a path lies: on which mount, and as what. And what an OSError there means to a user."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from vfs_volatile.errors import UserError
from vfs_volatile.mountinfo import FSTYPE, read_mounts

Kind = Literal["file", "mount", "other"]

_MENDS = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.ELOOP: "check the path",
    errno.EACCES: "run as the owner of the file, or as the user who mounted it",
    errno.EPERM: "run as the owner of the file, or as the user who mounted it",
    errno.EROFS: "mount it without ro",
    errno.ENOMEM: "unmark other ranges, or whole ones: there are as many as may be; or the daemon"
    " has no more memory (its log tells)",
    errno.ENOTTY: "give a regular file of a vfs-volatile mount",
    errno.ENODATA: "give the mount point, not a bind mount of a directory in it",
    errno.ETXTBSY: "wait until the program has ended",
    errno.EOPNOTSUPP: "its purged pages read as zeros (see 'status'); mark it --zero,"
    " or mount with -o passthrough=off",
}


class Place(NamedTuple):
    """A path on a vfs-volatile mount."""

    path: str
    """As the user gave it."""
    kind: Kind
    """A regular file, the mount's root, or anything else in it."""
    mountpoint: str


def locate(path: str) -> Place:
    """The place of ``path``. Raises UserError if it is not on a vfs-volatile mount."""
    with explained(path):
        found = os.stat(path)
    device = (os.major(found.st_dev), os.minor(found.st_dev))
    real = os.path.realpath(path)
    mountpoint = _enclosing(real, device)
    if mountpoint is None:
        raise UserError(
            f"{path} is not on a vfs-volatile mount; mount one with: vfs-volatile mount DIR"
        )
    if stat.S_ISREG(found.st_mode):
        return Place(path, "file", mountpoint)
    return Place(path, "mount" if real == mountpoint else "other", mountpoint)


def locate_file(path: str) -> Place:
    """The place of a regular file. Raises UserError for anything else."""
    place = locate(path)
    if place.kind != "file":
        raise UserError(f"{path} is not a regular file; give a file in {place.mountpoint}")
    return place


def locate_mount(path: str) -> Place:
    """The place of a mount's root. Raises UserError for anything else."""
    place = locate(path)
    if place.kind != "mount":
        raise UserError(f"{path} is not a mount point; give the mount: {place.mountpoint}")
    return place


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn an OSError about ``path`` into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            dead = _enclosing(os.path.realpath(path)) or path
            raise UserError(
                f"{dead} is a dead mount (its daemon has gone);"
                f" clean up with: vfs-volatile umount {dead}"
            ) from None
        mend = _MENDS.get(error.errno or 0, "check the path and the mount")
        raise UserError(f"{path}: {error.strerror}; {mend}") from None


def _enclosing(real: str, device: tuple[int, int] | None = None) -> str | None:
    """The innermost vfs-volatile mount (of ``device``, if given) that ``real`` lies in."""
    candidates = [
        mount.mountpoint
        for mount in read_mounts()
        if mount.fstype == FSTYPE
        and device in (None, mount.device)
        and (real + "/").startswith(mount.mountpoint.rstrip("/") + "/")
    ]
    return max(candidates, key=len, default=None)
