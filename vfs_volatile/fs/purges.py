"""Purging on a live mount: what goes, who forbids it, and who waits for it to end.

Everything here runs on the trio thread; between two awaits it is alone, and that is the lock. A
purge takes these steps (``docs/concurrency.md`` tells why in this order):

1. decide which pages, and by which marks;
2. *await* a look at the mappings of all processes (only of files that are open: others have none);
3. without awaiting: leave out what is mapped private, purge the rest in the address_space. Reads
   are refused and write-backs discarded from here on;
4. *await* the kernel dropping its copy, and end the drain: ``fs/drains.py``.

No request handler waits for 4, or for a lock held across it, but those of NONVOLATILE, PURGE and
SEEK_DATA: during these the kernel holds no page lock.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable

import trio
from pyroaring import BitMap

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.byte_spans import ByteSpan, in_bytes
from vfs_volatile.core.consent import Objection, forbidden
from vfs_volatile.core.history import Cause, History
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan, merged, page_set, runs, without
from vfs_volatile.core.range_state import Drain
from vfs_volatile.core.reclaim import Round, Victim, still_allowed
from vfs_volatile.core.telling import Telling
from vfs_volatile.errors import REFUSALS
from vfs_volatile.fs.anonymous import Anonymous
from vfs_volatile.fs.drains import Drains
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.looks import Looks
from vfs_volatile.fs.news import News
from vfs_volatile.fs.parts import Part, batches, require_to_end, take
from vfs_volatile.native.requests import will_be_answered
from vfs_volatile.native.shortage import require_memory
from vfs_volatile.units import PAGE_SIZE

_BATCH_PAGES = (32 << 20) // PAGE_SIZE
"""What one look at the processes serves at least; dropping it takes some _BATCH_SECONDS."""
_BATCH_SECONDS = 0.01
_MAX_BATCHES = 8
"""A look that takes longer serves more, as far as dropping it at once makes nobody wait long."""

_ROOM_SECONDS = 2.0
"""How long a writer waits at most for room that volatile pages could give."""


class Purges:
    """Carries out all purges of a mount."""

    def __init__(
        self,
        memory: Memory,
        drains: Drains,
        looks: Looks,
        news: News,
        anonymous: Anonymous,
        recount: Callable[[], None] = lambda: None,
    ) -> None:
        # -- dependencies --
        self._memory = memory
        self.drains = drains
        self.looks = looks
        self._news = news
        self.anonymous = anonymous
        self._recount = recount
        # -- mutable --
        self._making_room = trio.Lock()
        """One writer at a time looks for room: what it finds serves the others too."""
        self.blocked = 0
        """How often those who map a range kept it from being purged."""
        self.history = History()

    async def purge(self, space: AddressSpace, spans: list[ByteSpan]) -> None:
        """Purge the volatile pages wholly in ``spans`` now, page-exact, whatever the budget.

        Takes many ranges in steps, each with a look of its own.
        """
        newest = self._memory.newest_age
        for first, end in merged(space.span_of(*span) for span in spans):
            for piece in space.pieces(first * PAGE_SIZE, (end - first) * PAGE_SIZE):
                for step in space.steps(space.span_of(*piece)):
                    await self._purge(space, step, newest)

    async def _purge(self, space: AddressSpace, span: PageSpan, newest: int) -> None:
        found = (await self.looks.objections([space]))[space.ino]
        barred = forbidden(found)
        if kept := space.volatility.still_to_lose(page_set(span) & barred):
            self.blocked += 1
            self._news.kept(space, PageSpan(kept.min(), kept.max() + 1), found, Cause.REQUEST)
        elif not found:
            self._news.freed(space.ino)
        drain = space.begin_purge(without(span, barred), newest)
        self._record(Cause.REQUEST, [drain])
        await self._finish([drain], Cause.REQUEST)
        _require_all([drain])

    async def reclaim(self, need: Callable[[int], int], cause: Cause) -> bool:
        """Purge in order until ``need(freed)`` pages is 0 or less, or nothing may be purged.
        ``freed``: the pages that this call has freed so far.

        By request only what is volatile now: somebody waits for it. Returns whether something was
        kept from being purged. Raises OSError if the system would not free something.
        """
        asked = cause is Cause.REQUEST
        this = Round(self._memory, newest=self._memory.newest_age if asked else None)
        refused: list[Drain] = []
        while batch := await self._choose(need(this.freed), this):
            drains = await self._begin(batch, this, cause)
            await self._finish(drains, cause)
            refused += (drain for drain in drains if drain.refused)
        _require_all(refused)
        return any(this.barred.values()) or (this.met_anonymous and need(this.freed) > 0)

    async def make_room(self, pages: int) -> None:
        """Let volatile pages give way to a writer who is about to add ``pages``.

        The writer's pages are locked in the kernel, so this does not wait for the kernel to drop
        anything, and for nothing else without a limit: a look at the processes may itself
        wait for one that waits for the writer.
        """
        with contextlib.suppress(*REFUSALS), trio.move_on_after(_ROOM_SECONDS):
            async with self._making_room:
                this = Round(self._memory)
                while batch := await self._choose(self._memory.shortage(pages), this):
                    drains = await self._begin(batch, this, Cause.WRITER)
                    self._start_finishing(drains, Cause.WRITER)

    async def mark(self, parts: list[Part], behavior: int) -> list[int]:
        """VOLATILE for ``parts``; the bytes of each that were purged already.

        At one moment, unless they are very many or meet or make very many ranges.
        """

        async def pause() -> None:
            await trio.lowlevel.checkpoint()
            require_memory()

        return await take(parts, lambda space, span: space.marking(*span, behavior), pause)

    async def unmark(self, parts: list[Part], *, record_lost: bool = False) -> list[int]:
        """NONVOLATILE for ``parts``; the bytes of each that were purged.

        At one moment; but if they meet very many ranges, those without a purged page end before, in
        steps. What is purged stays so until that moment, when all of it is told: a call that fails
        or is given up has forgotten nothing. Raises OSError, and volatility has ended of intact
        pages at most then. SyscallError(ENOMEM): it would make too many ranges.
        """
        if not parts:
            return []
        require_to_end(parts)
        telling = Telling(parts)
        async for batch in self.settled(telling):
            for space, span in batch:
                space.clean_for_unmark([span])
            for space, span in batch:
                space.end_intact(*span)
        for _ in telling.count():
            await trio.lowlevel.checkpoint()
        await self.wait_until_drained(telling.pages, telling.draining)
        will_be_answered()
        keeping, shield = telling.keep(), trio.CancelScope(shield=True)
        told = telling.unmark(record_lost=record_lost)
        with shield:  # somebody is yet to be told
            for _ in keeping:
                await trio.lowlevel.checkpoint()
        return told

    async def settled(self, telling: Telling) -> AsyncIterator[list[Part]]:
        """All that is to be taken back, in steps; each may be, at once, when it comes."""
        for _ in telling.look():
            await trio.lowlevel.checkpoint()
        several = False
        for batch in batches(
            (space, in_bytes(span)) for space, spans in telling.spans.items() for span in spans
        ):
            if several:
                await trio.lowlevel.checkpoint()
            several = True
            await self.settle(batch)
            yield batch

    async def settle(self, parts: list[Part]) -> None:
        """Return at a moment when ``parts`` may be taken back, at once.

        Waits for purges under way, so that each is reported, and that nothing stale reaches
        the page afterwards. Where purged pages read as zeros the kernel may hold what was
        written to them since: it must drop that before the answer (rule 3).
        """
        zeroed = [(space, space.zeroed_by_unmark(*span)) for space, span in parts]
        if any(pages for _, pages in zeroed):
            newest = self._memory.newest_age
            drains = [space.begin_purge(runs(pages), newest) for space, pages in zeroed]
            await self.drains.start(drains).wait()
            _require_all(drains)
        await self.wait_until_drained(
            {space for space, _ in parts},
            lambda: any(space.draining(space.touched(*span)) for space, span in parts),
        )

    async def wait_until_drained(
        self, spaces: Collection[AddressSpace], draining: Callable[[], bool]
    ) -> None:
        """Return at a moment when nothing drains on what ``draining`` asks about."""
        while draining():
            for space in spaces:
                self.drains.start_left(space)
            await self.drains.wait_for_one()

    async def end_unused(self, inode: Inode, space: AddressSpace) -> None:
        """End all marks of a file that nobody has open or mapped any more.

        Of the inode, not of one open file: the RFC of April 2013 acted on each last fput().
        """
        purged = 0
        had_marks = space.volatility.pages > 0
        for piece in space.pieces(0, 0):
            await self.settle([(space, piece)])
            if inode.openers is not None:
                return
            purged += space.unmark(*piece)
            await trio.lowlevel.checkpoint()
        if had_marks:
            self._news.ended(space, purged)

    # ---- helpers ----

    async def _choose(self, need: int, this: Round) -> list[Victim]:
        """About ``need`` pages; nothing if need is 0 or the round is at its end."""
        batch: list[Victim] = []
        most = _BATCH_PAGES * min(_MAX_BATCHES, 1 + int(self.looks.last_seconds / _BATCH_SECONDS))
        while (need > 0 or this.under_way) and not batch and not this.finished:
            batch = this.choose(min(need, most))
            await trio.lowlevel.checkpoint()
        return batch

    async def _begin(self, batch: list[Victim], this: Round, cause: Cause) -> list[Drain]:
        """Begin to purge what was chosen of files; what was of processes has gone after this."""
        freed = await self.anonymous.orders.drop(batch, cause)
        self.history.record(cause, freed, time.time())
        this.done(batch)
        spaces = {victim.entry.space for victim in batch}
        found = await self.looks.objections(
            {space for space in spaces if isinstance(space, AddressSpace)}
        )
        this.barred |= {ino: forbidden(objections) for ino, objections in found.items()}
        drains = [
            self._begin_one(victim, victim.entry.space, this.barred, found, cause)
            for victim in batch
            if isinstance(victim.entry.space, AddressSpace)
        ]
        self._record(cause, drains)
        this.freed += freed + sum(drain.dropped for drain in drains)
        return drains

    def _begin_one(
        self,
        victim: Victim,
        space: AddressSpace,
        barred: dict[int, BitMap],
        found: dict[int, list[Objection]],
        cause: Cause,
    ) -> Drain:
        allowed = still_allowed(victim, barred[space.ino])
        if allowed != victim.spans:
            self.blocked += 1
            self._news.kept(space, victim.entry.span, found[space.ino], cause)
        elif not found[space.ino]:
            self._news.freed(space.ino)
        return space.begin_purge(allowed, victim.entry.age)

    def _record(self, cause: Cause, drains: list[Drain]) -> None:
        self.history.record(cause, sum(drain.dropped for drain in drains), time.time())

    async def _finish(self, drains: list[Drain], cause: Cause) -> None:
        """End purges, and tell of them. They end also if whoever waits here is cancelled."""
        await self._start_finishing(drains, cause).wait()

    def _start_finishing(self, drains: list[Drain], cause: Cause) -> trio.Event:
        def tell() -> None:
            self._recount()
            for drain in drains:
                self._news.purged(drain, cause)

        return self.drains.start(drains, tell)


def _require_all(drains: Iterable[Drain]) -> None:
    """Raise OSError if the system would not free what one of ``drains`` was to drop."""
    for drain in drains:
        if drain.refused is not None:
            raise drain.refused
