"""The second half of a purge: the kernel drops its copy of the pages, and the drain ends.

Everything here runs on the trio thread but the telling of the kernel, which runs in a thread: it
waits for requests that this thread must answer. A purge is half done until the kernel has
answered, so it goes on also if whoever waits for it is cancelled, and if there can be no thread.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.durations import Durations
from vfs_volatile.core.pages import runs
from vfs_volatile.core.range_state import Drain
from vfs_volatile.errors import REFUSALS, refusal_text
from vfs_volatile.fs.threads import NoThreadError, Standby, run_in_thread
from vfs_volatile.units import PAGE_SIZE

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 0.05
"""After a thread, or memory, that the kernel needs to drop its copy was refused."""
_PASSING = (errno.EAGAIN, errno.EINTR, errno.ENOMEM)

Invalidate = Callable[[int, int, int], None]
"""``invalidate(ino, offset, length)``: the kernel drops its copy; blocks, raises OSError."""


class Notice(NamedTuple):
    """Bytes of an inode that the kernel must drop."""

    ino: int
    offset: int
    length: int


class Drains:
    """Ends all purges of a mount that were begun."""

    def __init__(self, invalidate: Invalidate, standby: Standby) -> None:
        # -- dependencies --
        self._invalidate = invalidate
        self._standby = standby
        # -- mutable --
        self.pages = 0
        """That were dropped here, while the kernel may still hold its copy."""
        self.durations = Durations()
        """From dropping pages here until the kernel has dropped its copy."""
        self._running = 0
        self._one_ended = trio.Event()
        """Replaced by a new one each time it is set."""

    def start(self, drains: list[Drain], then: Callable[[], None] = lambda: None) -> trio.Event:
        """Make the kernel drop what the drains hold, end them, and call ``then``.

        The event tells when. What was dropped counts at once, so that it never looks gone too
        early.
        """
        dropped = sum(drain.dropped for drain in drains)

        async def work() -> None:
            try:
                await self._drop(drains)
            finally:
                self.pages -= dropped
                for drain in drains:
                    drain.space.end_purge(drain)
            then()

        pages = self.pages + dropped
        event = self._start(work)  # needs memory; what follows does not
        self.pages = pages
        for drain in drains:
            drain.started = True
        return event

    def start_left(self, space: AddressSpace) -> None:
        """Start what was begun on a file and, for want of memory, not started. To be called before
        waiting for its purges.
        """
        left = [drain for drain in space.volatility.drains if not drain.started]
        if left:
            self.start(left)

    async def wait_for_one(self) -> None:
        """Return when the next one ends."""
        await self._one_ended.wait()

    async def wait_for(self, space: AddressSpace) -> None:
        """Return when the purges of a file that are under way now have ended.

        What is said of its state after that is what touching it shows.
        """
        self.start_left(space)
        under_way = list(space.volatility.drains)
        while any(drain in space.volatility.drains for drain in under_way):
            await self.wait_for_one()

    async def wait_idle(self) -> None:
        """Return when no purge is under way; the caller keeps new ones from starting."""
        while self._running:
            await self.wait_for_one()

    async def flush(self, ino: int) -> None:
        """Let the kernel write back what it holds of an inode, and drop it."""
        await self._start(lambda: self._notify([Notice(ino, 0, 0)])).wait()

    # ---- helpers ----

    def _start(self, work: Callable[[], Awaitable[None]]) -> trio.Event:
        done = trio.Event()
        running = self._running + 1
        trio.lowlevel.spawn_system_task(self._run, work, done)
        self._running = running
        return done

    async def _run(self, work: Callable[[], Awaitable[None]], done: trio.Event) -> None:
        try:
            with trio.CancelScope(shield=True):
                await work()
        except Exception:  # would end the daemon, and with it every file
            log.exception("a purge failed unexpectedly")
        finally:
            self._running -= 1
            self._one_ended.set()
            self._one_ended = trio.Event()
            done.set()

    async def _drop(self, drains: list[Drain]) -> None:
        notices = await self._notices(drains)
        if notices:
            started = trio.current_time()
            await self._notify(notices)
            self.durations.add(trio.current_time() - started)

    @staticmethod
    async def _notices(drains: list[Drain]) -> list[Notice]:
        """What the kernel must drop. Waits for the memory that it takes to say so."""
        while True:
            try:
                return [
                    Notice(
                        drain.space.ino, run.first * PAGE_SIZE, (run.end - run.first) * PAGE_SIZE
                    )
                    for drain in drains
                    for run in runs(drain.pages)
                ]
            except MemoryError:
                await trio.sleep(_AGAIN_SECONDS)

    async def _notify(self, notices: list[Notice]) -> None:
        """However long it takes: a purge has not ended as long as the kernel has its copy."""
        left = notices[::-1]
        said = False
        while left:
            try:
                await self._in_thread(left)
            except REFUSALS as error:
                if not said:
                    log.warning("the kernel is told of a purge later: %s", refusal_text(error))
                said = True
                await trio.sleep(_AGAIN_SECONDS)

    async def _in_thread(self, left: list[Notice]) -> None:
        """In one of its own if there can be one: so a page that somebody keeps locked, should that
        ever last, holds up nothing but this.
        """
        try:
            await run_in_thread(self._invalidate_all, left)
        except NoThreadError:
            await self._standby.run(self._invalidate_all, left)

    def _invalidate_all(self, left: list[Notice]) -> None:
        """From the last to the first; takes out what has been told. Raises OSError for others."""
        while left:
            try:
                self._invalidate(*left[-1])
            except OSError as error:
                if error.errno in _PASSING:
                    raise
                log.warning("the kernel did not drop its copy: %s, %s", left[-1], error)
            left.pop()
