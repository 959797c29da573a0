"""What all files of a mount share: page counts, the budget, and the order of purging."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Protocol

from pyroaring import BitMap
from sortedcontainers import SortedList

from vfs_volatile.abi.ioctls import VRANGE_SIGBUS, VRANGE_ZERO
from vfs_volatile.core.mending import Mendable
from vfs_volatile.core.pages import LAST_PAGE
from vfs_volatile.core.ranges import Order, Space, VolatileRange
from vfs_volatile.errors import SyscallError
from vfs_volatile.units import PAGE_SIZE

_MIN_SLACK = (4 << 20) // PAGE_SIZE
_FEW = 8
_MANY = 4
"""As SortedList has it: so many times as many are sorted anew rather than put in one by one."""


class _Entries(SortedList[Any]):
    """A sorted list that loses nothing if there is no memory for a step of a change.

    Any: what is looked for may be the beginning of a range, see Order.
    """

    _lists: list[list[Any]]
    _maxes: list[Any]
    _index: list[int]
    _load: int
    _len: int

    def _expand(self, pos: int) -> None:
        """As the original, but half of a list that has become long is never in no list."""
        whole = self._lists[pos]
        if len(whole) <= self._load << 1:
            super()._expand(pos)  # type: ignore[misc]  # its stubs have no private names
            return
        self._lists[pos : pos + 1] = [whole[: self._load], whole[self._load :]]
        self._maxes[pos : pos + 1] = [self._lists[pos][-1], whole[-1]]
        del self._index[:]

    def mend(self, belongs: Callable[[Any], bool]) -> None:
        """Let those be here that ``belongs`` says, each once, after a change that was not finished.

        List by list: of very many there may be no memory for a copy.
        """
        last = None
        for part in self._lists:
            kept = []
            for entry in part:
                if entry != last and belongs(entry):
                    kept.append(entry)
                last = entry
            part[:] = kept
        self._lists[:] = filter(None, self._lists)
        self._maxes[:] = [part[-1] for part in self._lists]
        self._len = sum(map(len, self._lists))
        del self._index[:]


class PurgeQueue:
    """Volatile ranges that hold something to purge, in the order in which they go.

    The head is found without a scan: a range with nothing resident is not in the queue.
    """

    def __init__(self) -> None:
        self._entries = _Entries()
        self._in_doubt = False
        """Has a change run out of memory? Then its index is made anew before it is used."""

    def __len__(self) -> int:
        if self._in_doubt:
            self._mend()
        return len(self._entries)

    def __iter__(self) -> Iterator[VolatileRange]:
        if self._in_doubt:
            self._mend()
        return iter(self._entries)

    def from_order(self, order: Order | None, *, after: bool = False) -> Iterator[VolatileRange]:
        """The ranges from place ``order`` on, or ``after`` it, or all. Do not change meanwhile."""
        if self._in_doubt:
            self._mend()
        return self._entries.irange((*order, math.inf) if order and after else order)

    def __contains__(self, entry: VolatileRange) -> bool:
        if self._in_doubt:
            self._mend()
        return entry in self._entries

    def add(self, entry: VolatileRange) -> None:
        """``entry`` may be here already."""
        if entry not in self:
            try:
                self._entries.add(entry)
            except MemoryError:
                self._in_doubt = True
                raise

    def add_all(self, entries: list[VolatileRange]) -> None:
        """None of ``entries`` is here."""
        if len(entries) * _MANY >= len(self):
            self._entries = _Entries(chain(self._entries, entries))
        else:
            for entry in entries:
                self.add(entry)

    def discard(self, entry: VolatileRange) -> None:
        if self._in_doubt:
            self._mend()
        try:
            self._entries.discard(entry)
        except MemoryError:
            self._in_doubt = True
            raise

    def discard_all(self, entries: list[VolatileRange]) -> None:
        """Each of ``entries``."""
        if entries and len(self) < _FEW * len(entries):  # then it is faster to cut them together
            at = self._entries.bisect_left(entries[0])
            end = at + len(entries)
            if self._entries[at:end] == entries:
                rest = self._entries[:at] + self._entries[end:]
                self._entries = _Entries(rest)
                return
        for entry in entries:
            self.discard(entry)

    def mend(self, space: Space, belongs: Callable[[VolatileRange], bool]) -> BitMap:
        """Let of the ranges of ``space`` none be here but those that ``belongs`` says; the first
        pages of those. Takes time for all that are here.
        """
        found = BitMap()

        def check(entry: VolatileRange) -> bool:
            if entry.space is not space:
                return True
            if not belongs(entry):
                return False
            found.add(entry.first)
            return True

        self._in_doubt = True  # until it is done
        self._entries.mend(check)
        self._in_doubt = False
        return found

    def _mend(self) -> None:
        self._entries.mend(lambda _: True)
        self._in_doubt = False


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
