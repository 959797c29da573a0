"""What the root of a mount tells those who watch it, read so that nothing is in anybody's way.

Only extended attributes of the root are read, by path and one at a time: no file of the mount is
held open, so it can be unmounted, and nobody waits in the daemon.
"""

from __future__ import annotations

import errno
import json
import os
import time
from typing import Any, NamedTuple

from vfs_volatile.abi import xattrs
from vfs_volatile.errors import UserError
from vfs_volatile.mountinfo import FSTYPE, find_mount

Event = dict[str, Any]
"""One event, as ``docs/watching.md`` describes it."""

_BEYOND_ALL = 10**18
"""A number that no event has: asked from there on, a mount tells where its record ends."""

_ENDING = frozenset(
    (
        errno.ENOTCONN,  # its daemon has ended
        errno.ECONNABORTED,  # in the middle of the request
    )
)
_UNMOUNT_SECONDS = 5.0
"""A daemon that is told to end closes its connection before it unmounts."""
_POLL_SECONDS = 0.01

_GONE = frozenset(
    (
        errno.ENODATA,  # unmounted: the directory below has no such attribute,
        errno.EOPNOTSUPP,  # or cannot have one,
        errno.ENOENT,  # or was removed
        errno.ENOTDIR,
    )
)


class MountGoneError(Exception):
    """The mount is not there any more, or another one has taken its place."""


class Batch(NamedTuple):
    """Events that came since the last read."""

    missed: int
    """How many were dropped before these could be read."""
    events: list[Event]
    complete: bool
    """Are there no more for now?"""


class Feed:
    """Reads a mount. Raises MountGoneError, OSError if its daemon has died, and UserError for
    one that is not the caller's.
    """

    def __init__(self, mountpoint: str) -> None:
        self._path = mountpoint
        self._next = 0
        self._mount: int | None = None
        """Which mount it is, once that is known."""

    def skip_to_end(self, but: int = 0) -> None:
        """Leave out what happened until now, but the last ``but`` events."""
        self._next = max(self._next, self._ask(_BEYOND_ALL)["next"] - but)

    def read(self) -> Batch:
        """The events that follow those read last, as many as one answer holds."""
        answer = self._ask(self._next)
        self._next = answer["next"]
        return Batch(answer["missed"], answer["events"], not answer["more"])

    def stats(self) -> dict[str, Any]:
        """All counters."""
        found: dict[str, Any] = self._get(xattrs.STATS)
        return found

    def files(self, order: str) -> list[dict[str, Any]]:
        """The files with most of it: volatile, purged or resident."""
        found: list[dict[str, Any]] = self._get(f"{xattrs.MOUNT_PREFIX}files.{order}")
        return found

    def blocked(self) -> list[dict[str, Any]]:
        """What the last purges had to leave, and what processes keep of anonymous memory."""
        files: list[dict[str, Any]] = self._get(xattrs.BLOCKED)
        processes: list[dict[str, Any]] = self._get(xattrs.ANONYMOUS)
        kept = [
            {
                "process": {"pid": found["pid"], "command": found["command"]},
                "path": None,
                "start": 0,
                "length": found["kept"],
                "last": time.time(),
                "by": found["by"],
            }
            for found in processes
            if found["by"]
        ]
        return [*files, *kept]

    def _ask(self, number: int) -> dict[str, Any]:
        answer: dict[str, Any] = self._get(f"{xattrs.EVENTS_FROM}{number}")
        if self._mount not in (None, answer["mount"]):
            raise MountGoneError
        self._mount = answer["mount"]
        return answer

    def _wait_for_unmount(self) -> None:
        """Return when it is unmounted. Raises OSError (ENOTCONN) if its daemon has just died."""
        watched = self._mount is not None  # else it may have been dead for long
        deadline = time.monotonic() + (_UNMOUNT_SECONDS if watched else 0)
        while (mount := find_mount(self._path)) is not None and mount.fstype == FSTYPE:
            if time.monotonic() > deadline:
                raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
            time.sleep(_POLL_SECONDS)

    def _get(self, name: str) -> Any:
        try:
            return json.loads(os.getxattr(self._path, name))
        except OSError as error:
            if error.errno in _GONE:
                raise MountGoneError from None
            if error.errno in _ENDING:
                self._wait_for_unmount()
                raise MountGoneError from None
            if error.errno in (errno.EPERM, errno.EACCES):
                raise UserError(
                    f"only the owner of {self._path} may watch it; run as the user who mounted it"
                ) from None
            raise
