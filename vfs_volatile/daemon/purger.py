"""The background task that keeps resident memory within the budget."""

from __future__ import annotations

import logging
import math

import trio

from vfs_volatile.core.memory import Memory
from vfs_volatile.fs.purges import Purges

log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5  # and at least ten times what the last round took
"""What blocks a purge may end without a word to us: munmap(2) and exit(2) of a private mapper."""
_PAUSE_SECONDS = 0.05
"""Between two rounds that found nothing: each may cost a look at all processes."""


class Purger:
    """Purges when more than the budget is resident, for as long as there is something to purge."""

    def __init__(self) -> None:
        self._pressure = trio.Event()

    def wake(self) -> None:
        """There may be work: Memory calls this when it is over budget with something to purge."""
        self._pressure.set()

    async def run(self, memory: Memory, purges: Purges) -> None:
        """Run until cancelled."""
        while True:
            started = trio.current_time()
            try:
                await purges.reclaim(lambda: memory.excess)
            except Exception:  # a bug here must not take the files of the mount with it
                log.exception("purging failed")
            blocked = memory.excess > 0 and len(memory.queue) > 0
            took = trio.current_time() - started
            if blocked:
                await trio.sleep(max(_PAUSE_SECONDS, took))
            self._pressure = trio.Event()
            with trio.move_on_after(max(_RETRY_SECONDS, 10 * took) if blocked else math.inf):
                await self._pressure.wait()
