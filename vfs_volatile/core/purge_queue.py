"""The order in which volatile ranges are purged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from pyroaring import BitMap
from sortedcontainers import SortedList

from vfs_volatile.core.ranges import Order, Space, VolatileRange

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
