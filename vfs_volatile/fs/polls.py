"""poll(2) on open files: ready as on tmpfs, and POLLPRI once pages of the file were purged.

As an attribute of sysfs does for a change: POLLPRI says "look again", and looking (NEXT) ends it.
It belongs to the open file, so nobody ends it for another who opened the file too.
"""

from __future__ import annotations

import logging
import select
from typing import Protocol

from vfs_volatile.fs.inode import Handle

log = logging.getLogger(__name__)

_ALWAYS = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM
"""DEFAULT_POLLMASK of <linux/poll.h>: what a file is ready for that cannot be polled."""


class Waiter(Protocol):
    """``pyfuse3.PollHandle``: gives back what the kernel holds for it when it is dropped."""

    def notify(self) -> None:
        """Have those who wait ask again. Raises OSError."""


class Polls:
    """Who waits for a purge.

    The kernel counts one waiter an open file, however many processes and epoll sets wait on it, so
    its newest handle stands for all. It gives one only while somebody waits; a request without
    says nothing about those who do.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, dict[int, Waiter]] = {}
        """Inode -> handle of the open file -> whom to wake. INVARIANT: none is empty."""

    def __len__(self) -> int:
        """How many open files somebody waits on, or has waited on since they were woken."""
        return sum(map(len, self._waiting.values()))

    def poll(self, fh: int, handle: Handle, waiter: Waiter | None) -> int:
        """What open file ``fh`` is ready for; ``waiter`` is to be woken when that changes."""
        if waiter is not None:
            self._waiting.setdefault(handle.inode.number, {})[fh] = waiter
        return _ALWAYS | (select.POLLPRI if handle.unaware_of_purge else 0)

    def wake(self, ino: int) -> None:
        """Have all who wait on a file ask again.

        Never blocks: the kernel takes a spin lock and wakes them (fuse_notify_poll_wakeup in
        linux/fs/fuse/file.c); what they ask then comes as new requests.
        """
        for waiter in self._waiting.pop(ino, {}).values():
            try:
                waiter.notify()
            except OSError:  # the mount has been taken out
                log.debug("nobody woken for inode %d", ino, exc_info=True)

    def closed(self, fh: int, ino: int) -> None:
        """Open file ``fh`` is gone: nobody can wait on it."""
        waiting = self._waiting.get(ino, {})
        if waiting.pop(fh, None) is not None and not waiting:
            del self._waiting[ino]
