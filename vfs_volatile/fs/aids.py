"""Aids for whoever tests a program on a mount: both make rare moments common. Off by default.

They are attributes of the mount's root, for its owner, and change nothing that the contract says.
"""

from __future__ import annotations

import trio

from vfs_volatile.abi import xattrs
from vfs_volatile.fs.parts import Part, purged_in_each
from vfs_volatile.fs.purges import Purges

MAX_SLOW_SECONDS = 5.0
"""A purge waits for READs under way: never for long."""

NAMES = (xattrs.SLOW_FAULTS, xattrs.PURGE_ON_MARK)


class DebugAids:
    """``slow_faults`` and ``purge_on_mark`` of a mount."""

    def __init__(self, purges: Purges) -> None:
        self._purges = purges
        self._slow_seconds = 0.0
        self._purge_on_mark = False

    def set(self, name: str, text: str) -> None:
        """Raises ValueError, and changes nothing then."""
        if name == xattrs.SLOW_FAULTS:
            seconds = float(text)
            if not 0 <= seconds <= MAX_SLOW_SECONDS:
                raise ValueError(f"from 0 to {MAX_SLOW_SECONDS} seconds")
            self._slow_seconds = seconds
        else:
            self._purge_on_mark = bool(("0", "1").index(text))

    def get(self, name: str) -> str:
        if name == xattrs.SLOW_FAULTS:
            return str(self._slow_seconds)
        return str(int(self._purge_on_mark))

    @property
    def may_wait(self) -> bool:
        """May a mark have to wait for a purge?"""
        return self._purge_on_mark

    @property
    def may_hold_reads(self) -> bool:
        """Is ``slow_faults`` on?"""
        return self._slow_seconds > 0

    async def hold_read(self) -> None:
        """Let a READ wait before anything is looked up for it.

        It holds a page lock, so a purge's step 4 waits with it: for so long and no longer.
        """
        await trio.sleep(self._slow_seconds)

    async def after_mark(self, parts: list[Part], purged: list[int]) -> list[int]:
        """What to answer to a mark of ``parts`` that found ``purged`` bytes of each purged.

        With ``purge_on_mark`` all of it that nobody holds is purged first, as by a PURGE.
        """
        if not self._purge_on_mark:
            return purged
        for space, span in parts:
            await self._purges.purge(space, [span])
        return await purged_in_each(parts, trio.lowlevel.checkpoint)
