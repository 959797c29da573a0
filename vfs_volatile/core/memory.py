"""What all files of a mount share: page counts, and the budget."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Protocol

from vfs_volatile.abi.ioctls import VRANGE_SIGBUS, VRANGE_ZERO
from vfs_volatile.core.mending import Mendable
from vfs_volatile.core.pages import LAST_PAGE
from vfs_volatile.core.purge_queue import PurgeQueue
from vfs_volatile.core.ranges import VolatileRange
from vfs_volatile.errors import SyscallError
from vfs_volatile.units import PAGE_SIZE

_MIN_SLACK = (4 << 20) // PAGE_SIZE


class Holder(Protocol):
    """What has pages of memory."""

    charged: int
    """How many of them memory counts for it."""


class Memory:
    """The memory of one mount: charged by its address_spaces, kept within budget by the purger."""

    def __init__(
        self,
        size_pages: int,
        budget_pages: int,
        *,
        zero_by_default: bool = False,
        most_ranges: int = LAST_PAGE,
        on_pressure: Callable[[], None] = lambda: None,
    ) -> None:
        # -- constant --
        self.size_pages = size_pages
        """No more than this is ever resident: beyond it writers get ENOSPC."""
        self.zero_by_default = zero_by_default
        """What touching a purged page does where its range says neither ZERO nor SIGBUS."""
        self.most_ranges = most_ranges
        """Each takes memory of the daemon's, and whoever may write to a file may make them."""
        self._on_pressure = on_pressure
        # -- mutable --
        self.budget_pages = min(budget_pages, size_pages)
        # INVARIANT: each the sum over all address_spaces of the mount.
        self.seen = 0
        """Resident pages that we have stored or seen."""
        self.direct = 0
        """Those of them in files that processes reach without us."""
        self.volatile = 0
        self.purged = 0
        self.ranges = 0
        """Volatile ranges."""
        self.unseen = 0
        """Pages that processes have stored without us, by the last count, beyond those seen."""
        # -- history, for whoever watches --
        self.highest_resident = 0
        self.purged_ever = 0
        # INVARIANT: holds exactly the ranges with a resident page, and those that may hold one
        # which nobody has seen.
        self.queue = PurgeQueue()
        self.newest_age = 0
        """Age of the youngest mark."""
        self.in_doubt: Mendable | None = None
        """What a change of which has run out of memory, and is to be mended."""
        self.newest_before = 0
        """Age of the youngest mark before that change."""

    @property
    def resident(self) -> int:
        """Pages held in memory."""
        return self.seen + self.unseen

    @property
    def room(self) -> int:
        """Pages that may still be charged before ENOSPC."""
        return max(0, self.size_pages - self.resident)

    @property
    def excess(self) -> int:
        """Pages resident above the budget; 0 within it."""
        return max(0, self.resident - self.budget_pages)

    def reads_zero(self, behavior: int) -> bool:
        """Do purged pages of such a range read as zeros, or is touching them an error?"""
        if behavior & (VRANGE_ZERO | VRANGE_SIGBUS):
            return bool(behavior & VRANGE_ZERO)
        return self.zero_by_default

    def require_ranges(self, more: int) -> None:
        """Raise SyscallError(ENOMEM) if there may not be so many ranges more: as munmap(2) and
        madvise(2) where a process would have too many mappings.
        """
        if self.ranges + more > self.most_ranges:
            raise SyscallError(errno.ENOMEM)

    def next_age(self) -> int:
        """The age of a new mark: greater than all before."""
        self.newest_age += 1
        return self.newest_age

    def mend(self) -> None:
        """Mend what is in doubt. Raises MemoryError: it is still to be done."""
        if self.in_doubt is not None:
            self.in_doubt.mend(self.newest_before)
            self.in_doubt = None

    def reserve(self, pages: int, *, dirty: bool = False) -> None:
        """Make sure that ``pages`` more can be charged. Raises SyscallError(ENOSPC).

        ``dirty``: they hold memory already, in the kernel, and would be lost. They are let in above
        the size while something volatile can give way.
        """
        if pages > self.room and not (dirty and self.queue):
            raise SyscallError(errno.ENOSPC)

    def shortage(self, pages: int) -> int:
        """Pages that should give way before a writer adds ``pages``; 0 if it may go on.

        A writer may outrun the purger by a slack, no further: so far resident may exceed the budget
        while something is volatile.
        """
        if not self.queue:
            return 0
        ceiling = min(self.size_pages, self.budget_pages + self.slack)
        return max(0, self.resident + pages - ceiling)

    @property
    def slack(self) -> int:
        """Pages: an eighth of the budget, at least 4 MiB."""
        return max(self.budget_pages // 8, _MIN_SLACK)

    def charge(self, holder: Holder, pages: int, *, direct: bool = False) -> None:
        """``pages`` of ``holder`` became resident, or were dropped if it is less than 0.

        ``direct``: they were found, and may have been counted. Both counts change, or none does:
        Python may have no memory for a number.
        """
        charged, seen = holder.charged + pages, self.seen + pages
        found, unseen = self.direct, self.unseen
        if direct:
            found += pages
            unseen = max(0, unseen - max(0, pages))
        holder.charged, self.seen = charged, seen
        self.direct, self.unseen = found, unseen
        if pages > 0:
            self._grown()

    def counted(self, pages: int) -> None:
        """All files that processes reach without us hold ``pages`` in memory, seen or not."""
        self.unseen = pages - self.direct if pages > self.direct else 0
        self._grown()

    def _grown(self) -> None:
        resident = self.seen + self.unseen
        if resident > self.highest_resident:
            self.highest_resident = resident
        self.signal_pressure()

    def set_budget(self, budget_pages: int) -> None:
        """Change the budget; more than the size of the mount means its size."""
        self.budget_pages = min(budget_pages, self.size_pages)
        self.signal_pressure()

    def enqueue(self, entry: VolatileRange) -> None:
        """``entry`` holds a resident page: it may be chosen from now on."""
        self.queue.add(entry)
        self.signal_pressure()

    def enqueue_all(self, entries: list[VolatileRange]) -> None:
        """Each of ``entries`` holds a resident page."""
        self.queue.add_all(entries)
        self.signal_pressure()

    def signal_pressure(self) -> None:
        """Tell the purger if there may be work: over budget, with something to purge."""
        if self.seen + self.unseen > self.budget_pages and self.queue:
            self._on_pressure()
