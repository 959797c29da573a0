"""The background task that purges before memory runs short, below the budget."""

from __future__ import annotations

import logging

import trio

from vfs_volatile.core.history import Cause
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.relief import Relief
from vfs_volatile.daemon.psi import Triggers, memory_is_short
from vfs_volatile.errors import log_failure
from vfs_volatile.fs.purges import Purges
from vfs_volatile.fs.threads import run_in_thread
from vfs_volatile.units import PAGE_SIZE, format_size

log = logging.getLogger(__name__)

_REFUSED_SECONDS = 1.0
"""Until the next try, after one that failed."""


class PressureGuard:
    """Purges when the kernel tells of stalls, for as long as it does."""

    def __init__(self, memory: Memory, purges: Purges) -> None:
        # -- dependencies --
        self._memory = memory
        self._purges = purges
        # -- mutable --
        self._relief = Relief()

    async def run(self, triggers: Triggers) -> None:
        """Run until cancelled."""
        while triggers.watched:
            try:
                causes = await run_in_thread(triggers.wait, abandon_on_cancel=True)
                for cause in sorted(causes):  # the cgroup's before the system's: it is surely ours
                    await self._answer(cause)
            except Exception as error:  # a bug here must not take the files of the mount with it
                log_failure(log, "purging under pressure", error)
                await trio.sleep(_REFUSED_SECONDS)

    async def _answer(self, cause: Cause) -> None:
        history = self._purges.history
        history.pressure_events += 1
        if cause is Cause.SYSTEM and not memory_is_short():
            history.pressure_elsewhere += 1
            return
        memory = self._memory
        # No more than these: what is marked may be a hole, what is resident may not be volatile.
        purgeable = min(memory.resident, memory.volatile - memory.purged)
        wanted = self._relief.wanted(trio.current_time(), purgeable)
        if wanted:
            log.warning("memory is short (%s): purging %s", cause, format_size(wanted * PAGE_SIZE))
            goal = history.freed.total() + wanted
            await self._purges.reclaim(lambda _: goal - history.freed.total(), cause)
