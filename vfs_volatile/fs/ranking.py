"""Which files have the most of what counts: asked seldom, answered without a pause for others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from heapq import nlargest
from itertools import islice
from operator import itemgetter

import trio

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.anonymous import AnonymousSpace
from vfs_volatile.fs.attachments import Attachments
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.journal import ANSWER_BYTES, within
from vfs_volatile.units import PAGE_SIZE

_MOST_FILES = 50
_SLICE = 250
"""Inodes looked at in one go: half a millisecond, if none is in the processor's cache."""
_SHARE = 20
"""Looking takes no more than one part in so many of the daemon's time; meanwhile an older answer
serves."""


Space = AddressSpace | AnonymousSpace


def _droppable(space: Space) -> int:
    """At most: there may be holes among the volatile pages."""
    volatility = space.volatility
    return min(space.held, volatility.pages - len(volatility.purged))


_ORDERS: dict[str, Callable[[Space], int]] = {
    "volatile": _droppable,
    "purged": lambda space: len(space.volatility.purged),
    "resident": lambda space: space.held,
}
"""By name: pages of a file."""


class _Answer:
    """What was found at the last look. Times are trio's."""

    def __init__(self) -> None:
        self.looking = trio.Lock()
        self.json = b"[]"
        self.good_until = 0.0


class Ranking:
    """The files of a mount by how much of them may be purged, is purged, or is resident."""

    def __init__(self, inodes: Mapping[int, Inode], attachments: Attachments) -> None:
        # -- dependencies --
        self._inodes = inodes
        self._attachments = attachments
        # -- mutable --
        self._answers = {order: _Answer() for order in _ORDERS}

    async def largest(self, order: str) -> bytes:
        """JSON of the files with most of it, none with nothing; as many as fit.

        A hundred thousand files take a tenth of a second or two, in slices.
        """
        answer = self._answers[order]
        async with answer.looking:
            started = trio.current_time()
            if started >= answer.good_until:
                found = await self._look(_ORDERS[order])
                texts, _ = within(map(self._text, found), ANSWER_BYTES)
                answer.json = f"[{', '.join(texts)}]".encode()
                now = trio.current_time()
                answer.good_until = now + _SHARE * (now - started)
            return answer.json

    async def _look(self, pages: Callable[[Space], int]) -> list[Space]:
        largest: list[tuple[int, Space]] = [
            (found, space)
            for owner in self._attachments
            for space in owner.spaces.values()
            if (found := pages(space))
        ]
        least = 0
        """Pages: no file with less is among the largest."""
        inodes = iter(list(self._inodes.values()))
        while batch := list(islice(inodes, _SLICE)):
            larger: list[tuple[int, Space]] = [
                (found, inode.space)
                for inode in batch
                if inode.space is not None and (found := pages(inode.space)) > least
            ]
            if larger:
                largest = nlargest(_MOST_FILES, largest + larger, key=itemgetter(0))
                least = largest[-1][0] if len(largest) == _MOST_FILES else 0
            await trio.lowlevel.checkpoint()
        return [space for _, space in largest]

    def _text(self, space: Space) -> str:
        if isinstance(space, AnonymousSpace):
            return self._anonymous_text(space)
        inode = self._inodes.get(space.ino)
        return json.dumps(
            {
                "inode": space.ino,
                "path": inode.path_text if inode is not None else None,
                "size": space.size,
                "resident": space.held * PAGE_SIZE,
                "volatile": space.volatility.pages * PAGE_SIZE,
                "purged": len(space.volatility.purged) * PAGE_SIZE,
                "opens": inode.opens if inode is not None else 0,
            }
        )

    def _anonymous_text(self, space: AnonymousSpace) -> str:
        """As a file, but with a process where that has a path."""
        owner = self._attachments.owner(space.ino)
        return json.dumps(
            {
                "inode": 0,
                "path": None,
                "process": owner.name if owner is not None else None,
                "size": space.lineage.pages * PAGE_SIZE,
                "resident": space.held * PAGE_SIZE,
                "volatile": space.volatility.pages * PAGE_SIZE,
                "purged": len(space.volatility.purged) * PAGE_SIZE,
                "opens": 0,
            }
        )
