"""Purging on a live mount: who forbids it, dropping the kernel's copy, waiting for it to end.

Everything here runs on the trio thread; between two awaits it is alone, and that is the lock. A
purge takes these steps (``docs/concurrency.md`` tells why in this order):

1. decide which pages, and by which marks;
2. *await* a look at the mappings of all processes (only of files that are open: others have none);
3. without awaiting: leave out what is mapped private, purge the rest in the address_space. Reads
   are refused and write-backs discarded from here on;
4. *await* the kernel dropping its copy, in a thread, as this waits for requests we must answer;
5. end the drain.

No request handler waits for 4, or for a lock held across it, but those of NONVOLATILE, PURGE and
SEEK_DATA: during these the kernel holds no page lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

import trio
from pyroaring import BitMap

from vfs_volatile.core.address_space import AddressSpace, ByteSpan
from vfs_volatile.core.consent import Mapper, forbidden
from vfs_volatile.core.history import Cause, History
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan, page_set, runs
from vfs_volatile.core.reclaim import Round, Victim, still_allowed
from vfs_volatile.core.semantics import Semantics
from vfs_volatile.core.volatility import Drain
from vfs_volatile.fs.electorate import Electorate
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.polls import Polls
from vfs_volatile.processes.mappings import Mappers, MappingScanner
from vfs_volatile.units import PAGE_SIZE

log = logging.getLogger(__name__)

_BATCH_PAGES = (32 << 20) // PAGE_SIZE
"""What one look at the processes serves at least; dropping it takes some _BATCH_SECONDS."""
_BATCH_SECONDS = 0.01
_MAX_BATCHES = 8
"""A look that takes longer serves more, as far as dropping it at once makes nobody wait long."""

_ROOM_SECONDS = 2.0
"""How long a writer waits at most for room that volatile pages could give."""

Invalidate = Callable[[int, int, int], None]
"""``invalidate(ino, offset, length)``: the kernel drops its copy; blocks, raises OSError."""

Part = tuple[AddressSpace, ByteSpan]
"""Bytes of a file."""


class Notice(NamedTuple):
    """Bytes of an inode that the kernel must drop."""

    ino: int
    offset: int
    length: int


class Purges:
    """Carries out all purges of a mount."""

    def __init__(
        self,
        memory: Memory,
        inodes: dict[int, Inode],
        invalidate: Invalidate,
        rules: Semantics,
        scanner: MappingScanner,
        electorate: Electorate,
        polls: Polls,
    ) -> None:
        # -- dependencies --
        self._memory = memory
        self._inodes = inodes
        self._invalidate = invalidate
        self._rules = rules
        self._scanner = scanner
        self._electorate = electorate
        self._polls = polls
        # -- mutable --
        self._drain_ended = trio.Event()
        """Replaced by a new one each time it is set."""
        self._running = 0
        self._look_seconds = 0.0
        """What the last look at the processes took."""
        self.looks = 0
        self.looks_seconds = 0.0
        """How many looks there were, and what they took together."""
        self.draining = 0
        """Pages that were dropped here, while the kernel may still hold its copy."""
        self._making_room = trio.Lock()
        """One writer at a time looks for room: what it finds serves the others too."""
        self.blocked = 0
        """How often those who map a range kept it from being purged."""
        self.unreadable: list[int] = []
        """Processes whose mappings could not be read at the last look."""
        self.history = History()

    async def purge(self, space: AddressSpace, spans: list[ByteSpan]) -> None:
        """Purge the volatile pages wholly in ``spans`` now, page-exact, whatever the budget."""
        newest = self._memory.newest_age
        barred = await self._barred([space])
        pages = page_set(PageSpan(0, 0))
        for span in spans:
            pages |= page_set(space.span_of(*span))
        if not pages.isdisjoint(barred[space.ino]):
            self.blocked += 1
        drain = space.begin_purge(runs(pages - barred[space.ino]), newest)
        self._record(Cause.REQUEST, [drain])
        await self._finish([drain])

    async def reclaim(self, need: Callable[[], int], cause: Cause) -> bool:
        """Purge in order until ``need()`` pages is 0 or less, or nothing may be purged.

        Returns whether something was kept from being purged.
        """
        this = Round(self._memory)
        while drains := await self._begin_batch(need(), this, cause):
            await self._finish(drains)
        return any(this.barred.values())

    async def make_room(self, pages: int) -> None:
        """Let volatile pages give way to a writer who is about to add ``pages``.

        The writer's pages are locked in the kernel, so this does not wait for the kernel to drop
        anything, and for nothing else without a limit: a look at the processes may itself
        wait for one that waits for the writer.
        """
        with trio.move_on_after(_ROOM_SECONDS):
            async with self._making_room:
                this = Round(self._memory)
                while drains := await self._begin_batch(
                    self._memory.shortage(pages), this, Cause.WRITER
                ):
                    trio.lowlevel.spawn_system_task(self._finish, drains)

    async def unmark(self, parts: list[Part], *, record_lost: bool = False) -> int:
        """NONVOLATILE for ``parts``, all at one moment; the bytes of them that were purged."""
        await self.settle(parts)
        return sum(space.unmark(*span, record_lost=record_lost) for space, span in parts)

    async def settle(self, parts: list[Part]) -> None:
        """Return at a moment when ``parts`` may be taken back, at once.

        Waits for purges under way, so that each is reported, and that nothing stale reaches
        the page afterwards. Where purged pages read as zeros the kernel may hold what was
        written to them since: it must drop that before the answer (rule 3).
        """
        zeroed = [(space, space.zeroed_by_unmark(*span)) for space, span in parts]
        if any(pages for _, pages in zeroed):
            newest = self._memory.newest_age
            await self._drain([space.begin_purge(runs(pages), newest) for space, pages in zeroed])
        while any(space.draining(space.touched(*span)) for space, span in parts):
            await self._drain_ended.wait()

    async def end_unused(self, inode: Inode, space: AddressSpace) -> None:
        """End all marks of a file that nobody has open or mapped any more.

        Of the inode, not of one open file: the RFC of April 2013 acted on each last fput().
        """
        await self.settle([(space, (0, 0))])
        if not inode.opens:
            space.unmark(0, 0)

    async def wait_for_purges(self, space: AddressSpace) -> None:
        """Return when the purges of a file that are under way now have ended.

        What is said of its state after that is what touching it shows.
        """
        under_way = list(space.volatility.drains)
        while any(drain in space.volatility.drains for drain in under_way):
            await self._drain_ended.wait()

    async def flush(self, ino: int) -> None:
        """Let the kernel write back what it holds of an inode, and drop it."""
        await self._notify([Notice(ino, 0, 0)])
        self._announce()

    async def wait_idle(self) -> None:
        """Return when no purge is under way; the caller keeps new ones from starting."""
        while self._running:
            await self._drain_ended.wait()

    # ---- helpers ----

    async def _begin_batch(self, need: int, this: Round, cause: Cause) -> list[Drain]:
        """Begin to purge about ``need`` pages; nothing if need is 0 or the round is at its end."""
        batch: list[Victim] = []
        most = _BATCH_PAGES * min(_MAX_BATCHES, 1 + int(self._look_seconds / _BATCH_SECONDS))
        while need > 0 and not batch and not this.finished:
            batch = this.choose(min(need, most))
            await trio.lowlevel.checkpoint()
        this.barred |= await self._barred({victim.entry.space for victim in batch})
        drains = [self._begin(victim, this.barred) for victim in batch]
        self._record(cause, drains)
        return drains

    async def _barred(self, spaces: Collection[AddressSpace]) -> dict[int, BitMap]:
        """Inode -> pages that may not be purged, for who mapped them when this was called."""
        barred = {space.ino: BitMap() for space in spaces}
        opened = {
            space.ino: inode.openers
            for space in spaces
            if (inode := self._inodes.get(space.ino)) is not None and inode.openers is not None
        }
        found = Mappers()
        if self._rules.looks_at_mappers and opened:
            started = trio.current_time()
            found = await trio.to_thread.run_sync(
                self._scanner.scan, opened, abandon_on_cancel=True
            )
            self._look_seconds = trio.current_time() - started
            self.looks += 1
            self.looks_seconds += self._look_seconds
            self.unreadable = sorted(found.unreadable)
        self._electorate.catch_up()
        for space in spaces:
            mappers = found.of(space.ino)
            if mappers or space.votes.ballots:
                barred[space.ino] = self._forbidden(space, mappers)
        return barred

    def _forbidden(self, space: AddressSpace, mappers: list[Mapper]) -> BitMap:
        inode = self._inodes.get(space.ino)
        span = space.span_of(0, 0)
        if self._rules.votes:
            self._electorate.recognise(space, (mapper.process for mapper in mappers))
        return forbidden(
            self._rules,
            page_set(span),
            space.volatility.marked(span) if self._rules.votes else BitMap(),
            mappers,
            space.votes.ballots,
            unlinked=inode is not None and inode.nlink == 0,
        )

    def _begin(self, victim: Victim, barred: dict[int, BitMap]) -> Drain:
        space = victim.entry.space
        allowed = still_allowed(victim, barred[space.ino])
        if allowed != victim.spans:
            self.blocked += 1
        return space.begin_purge(allowed, victim.entry.age)

    def _record(self, cause: Cause, drains: list[Drain]) -> None:
        self.history.record(cause, sum(drain.dropped for drain in drains), time.time())

    async def _finish(self, drains: list[Drain]) -> None:
        """End purges, and wake those who wait for one of these files to lose pages."""
        await self._drain(drains)
        for drain in drains:
            inode = self._inodes.get(drain.space.ino)
            if inode is not None and drain.purged:
                inode.purges += 1
                self._polls.wake(inode.number)

    async def _drain(self, drains: list[Drain]) -> None:
        """Make the kernel drop what the drains hold, then end them."""
        notices = [
            Notice(drain.space.ino, run.first * PAGE_SIZE, (run.end - run.first) * PAGE_SIZE)
            for drain in drains
            for run in runs(drain.pages)
        ]
        dropped = sum(drain.dropped for drain in drains)
        self.draining += dropped
        try:
            await self._notify(notices)
        finally:
            self.draining -= dropped
            for drain in drains:
                drain.space.end_purge(drain)
            self._announce()

    async def _notify(self, notices: list[Notice]) -> None:
        if not notices:
            return
        self._running += 1
        try:
            # Not to be cancelled: a purge is half done until the kernel has answered.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._invalidate_all, notices)
        finally:
            self._running -= 1

    def _invalidate_all(self, notices: list[Notice]) -> None:
        for notice in notices:
            try:
                self._invalidate(*notice)
            except OSError:
                log.exception("the kernel did not drop its copy: %s", notice)

    def _announce(self) -> None:
        self._drain_ended.set()
        self._drain_ended = trio.Event()
