"""Which files have the most volatile data: asked seldom, answered without a pause for others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from heapq import nlargest
from itertools import islice

import trio

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.journal import ANSWER_BYTES, within
from vfs_volatile.units import PAGE_SIZE

_MOST_FILES = 50
_SLICE = 2000
"""Inodes looked at in one go: half a millisecond."""
_SHARE = 20
"""Looking takes no more than one part in so many of the daemon's time; meanwhile an older answer
serves."""


class Ranking:
    """The files of a mount by how much of them may be purged."""

    def __init__(self, inodes: Mapping[int, Inode]) -> None:
        # -- dependencies --
        self._inodes = inodes
        # -- mutable --
        self._looking = trio.Lock()
        self._answer = b"[]"
        self._good_until = 0.0
        """On trio's clock."""

    async def largest(self) -> bytes:
        """JSON of the files with the most volatile data that is not purged; as many as fit.

        A hundred thousand files take some 30 ms, in slices.
        """
        async with self._looking:
            if trio.current_time() >= self._good_until:
                started = trio.current_time()
                found = await self._look()
                texts, _ = within(map(self._text, found), ANSWER_BYTES)
                self._answer = f"[{', '.join(texts)}]".encode()
                now = trio.current_time()
                self._good_until = now + _SHARE * (now - started)
            return self._answer

    async def _look(self) -> list[AddressSpace]:
        largest: list[AddressSpace] = []
        inodes = iter(list(self._inodes.values()))
        while batch := list(islice(inodes, _SLICE)):
            spaces = [
                inode.space
                for inode in batch
                if inode.space is not None and inode.space.volatility.pages
            ]
            largest = nlargest(_MOST_FILES, [*largest, *spaces], key=_droppable)
            await trio.lowlevel.checkpoint()
        return largest

    def _text(self, space: AddressSpace) -> str:
        inode = self._inodes.get(space.ino)
        return json.dumps(
            {
                "inode": space.ino,
                "path": inode.path_text if inode is not None else None,
                "size": space.size,
                "resident": len(space.resident) * PAGE_SIZE,
                "volatile": space.volatility.pages * PAGE_SIZE,
                "purged": len(space.volatility.purged) * PAGE_SIZE,
                "opens": inode.opens if inode is not None else 0,
            }
        )


def _droppable(space: AddressSpace) -> int:
    """Pages that are volatile and not purged."""
    return space.volatility.pages - len(space.volatility.purged)
