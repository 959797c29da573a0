"""The background task that keeps resident memory within the budget."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from vfs_volatile.core.history import Cause
from vfs_volatile.core.memory import Memory
from vfs_volatile.errors import refusal, refusal_text
from vfs_volatile.fs.purges import Purges

log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5  # and at least ten times what the last round took
"""What blocks a purge may end without a word to us: munmap(2) and exit(2) of a private mapper."""
_PAUSE_SECONDS = 0.05
"""Between two rounds that found nothing: each may cost a look at all processes."""


class Purger:
    """Purges when more than the budget is resident, for as long as there is something to purge."""

    def __init__(self, set_hurry: Callable[[bool], object] = lambda _: None) -> None:
        """``set_hurry(on)``: this task has steps to take between any two requests, or no longer."""
        self._set_hurry = set_hurry
        self._pressure = trio.Event()
        self._refused = False
        """Has it been said, since the last round that came to its end, what keeps it?"""

    def wake(self) -> None:
        """There may be work: Memory calls this when it is over budget with something to purge."""
        self._pressure.set()

    async def run(self, memory: Memory, purges: Purges) -> None:
        """Run until cancelled."""
        while True:
            self._pressure = trio.Event()  # before the round: what comes during it counts
            started = trio.current_time()
            blocked = await self._round(memory, purges)
            if not memory.excess or not memory.queue:
                await self._pressure.wait()
            elif blocked:
                took = trio.current_time() - started
                await trio.sleep(max(_PAUSE_SECONDS, took))
                with trio.move_on_after(max(_RETRY_SECONDS, 10 * took)):
                    await self._pressure.wait()

    async def _round(self, memory: Memory, purges: Purges) -> bool:
        """Purge what may be purged; was something kept from it?"""
        try:
            blocked = await purges.reclaim(lambda _: memory.excess, Cause.BUDGET)
        except Exception as error:  # a bug here must not take the files of the mount with it
            if refusal(error) is None:
                log.exception("purging failed")
            elif not self._refused:
                log.warning("purging goes on later: %s", refusal_text(error))
                self._refused = True
            return True
        self._refused = False
        return blocked
