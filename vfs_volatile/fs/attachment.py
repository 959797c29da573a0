"""One process with anonymous memory, as the daemon knows it, and what it is asked to do."""

from __future__ import annotations

import errno
import logging
import select
from collections import deque

import trio
from pyroaring import BitMap

from vfs_volatile.abi.anonymous import OrderKind
from vfs_volatile.core.anonymous import AnonymousSpace
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.polls import Waiter
from vfs_volatile.processes.identity import command_of

log = logging.getLogger(__name__)


class Order:
    """What one process is asked to do. INVARIANT: ``done`` is set exactly when it is over."""

    def __init__(self, number: int, kind: OrderKind, space: AnonymousSpace | None) -> None:
        self.number = number
        self.kind = kind
        self.space = space
        """Set unless it is to LOOK."""
        self.pages = BitMap()
        """What it is to drop; once it is fetched, what it was told to."""
        self.fetched = False
        self.done = trio.Event()


class Attachment:
    """One process that the library has attached."""

    def __init__(self) -> None:
        self.pid: int | None = None
        """None until it has made a request of its own."""
        self.spaces: dict[int, AnonymousSpace] = {}
        """By the number of the region, which is the same in all processes that share one."""
        self.addresses: dict[int, int] = {}
        """Where a region begins."""
        self.waiting: deque[Order] = deque()
        self.fetched: dict[int, Order] = {}
        """By number."""
        self.changed: set[int] = set()
        """Keys of the spaces of which it has told something, and perhaps not all yet."""
        self.waiter: Waiter | None = None
        self.ended = False
        self.silent = False
        """Has it left an order unanswered, and asked for none since?"""
        self.unborn: tuple[int, dict[int, AnonymousSpace]] | None = None
        """Token and memory of the child that it is about to fork."""

    @property
    def name(self) -> dict[str, object]:
        """Whose it is, as far as that is known."""
        return {"pid": self.pid, "command": command_of(self.pid) if self.pid else None}

    @property
    def ranges(self) -> int:
        """How many of its ranges are volatile."""
        return sum(len(space.volatility.ranges) for space in self.spaces.values())

    def space(self, region: int) -> AnonymousSpace:
        """Its memory in a region. Raises SyscallError(EINVAL): it has no such region."""
        try:
            return self.spaces[region]
        except KeyError:
            raise SyscallError(errno.EINVAL) from None

    def order(self, order: Order) -> None:
        """Have it do something."""
        self.waiting.append(order)
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            try:
                waiter.notify()
            except OSError:  # the mount has been taken out
                log.debug("process %s not woken", self.pid, exc_info=True)

    def poll(self, waiter: Waiter | None) -> int:
        """POLLPRI while there are orders; ``waiter`` is to be woken when some come.

        Also while it is silent, so that it asks for orders once it goes on: those that it left
        have been withdrawn, and it gets no new ones before it is heard of.
        """
        if waiter is not None:
            self.waiter = waiter
        return select.POLLPRI if self.waiting or self.silent else 0

    def is_silent(self, silent: bool) -> None:
        """Nothing that it holds may be dropped as long as it is."""
        self.silent = silent
        for space in self.spaces.values():
            space.answers = not silent
