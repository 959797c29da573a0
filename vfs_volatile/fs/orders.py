"""Having processes drop anonymous memory, as only they can.

A purge is an *order* to each process that has some of the pages. Orders are announced by POLLPRI
and fetched; the answer is a report. A process that does not answer in time is *silent*: nothing
that it holds is dropped anywhere until it asks for orders again.

That a page goes only if all who share it have marked it holds at the moment each process
fetches its order: all that had been marked or taken back until then is known here. Whoever takes a
page back after that waits, within limits, until the others have done what they fetched.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from itertools import count as numbers
from itertools import islice

import trio
from pyroaring import BitMap

from vfs_volatile.abi import anonymous as wire
from vfs_volatile.abi.anonymous import OrderKind
from vfs_volatile.core.anonymous import AnonymousSpace
from vfs_volatile.core.history import Cause
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan, page_set, runs
from vfs_volatile.core.reclaim import Victim
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.attachment import Attachment, Order
from vfs_volatile.fs.attachments import Attachments
from vfs_volatile.fs.bitmaps import pages_in
from vfs_volatile.fs.journal import Journal
from vfs_volatile.units import PAGE_SIZE

ANSWER_SECONDS = 2.0
"""How long a process has to answer. Its helper thread needs a millisecond, once it gets a CPU."""


class Orders:
    """All orders of a mount."""

    def __init__(self, attachments: Attachments, memory: Memory, journal: Journal) -> None:
        # -- dependencies --
        self._attachments = attachments
        self._memory = memory
        self._journal = journal
        # -- mutable --
        self._numbers = numbers(1)

    async def refresh(self) -> None:
        """Let all processes tell what they hold now."""
        await self._ask_to_look(self._attachments)

    async def drop(self, victims: Iterable[Victim], cause: Cause) -> int:
        """Have the processes drop what was chosen, as far as it may go; the pages that it freed."""
        wanted: dict[AnonymousSpace, dict[OrderKind, BitMap]] = {}
        for victim in victims:
            space = victim.entry.space
            if isinstance(space, AnonymousSpace):
                zero = space.volatility.reads_zero(victim.entry)
                kinds = wanted.setdefault(space, {})
                pages = kinds.setdefault(OrderKind.ZERO if zero else OrderKind.DROP, BitMap())
                for span in victim.spans:
                    pages |= page_set(span)
        if not wanted:
            return 0
        lineages = {space.lineage for space in wanted if len(space.lineage.members) > 1}
        sharers = (space for lineage in lineages for space in lineage.members)
        await self._ask_to_look(
            {owner for space in sharers if (owner := self._attachments.owner(space.ino))}
        )
        held = {space.lineage: space.lineage.charged for space in wanted}
        orders = list(self._orders_for(wanted))
        await self._carry_out(orders)
        for _, order in orders:
            self._record_drop(order, cause)
        return sum(max(0, before - lineage.charged) for lineage, before in held.items())

    async def wait_for_sharers(self, spans: list[tuple[AnonymousSpace, PageSpan]]) -> None:
        """Return when nobody is dropping a page that one of ``spans`` shares any more.

        Limited: a process that was stopped between fetching its order and doing it delays the
        others no longer than it may take to answer.
        """
        under_way = [
            order
            for space, span in spans
            for other in space.lineage.members
            if other is not space
            if (owner := self._attachments.owner(other.ino))
            for order in owner.fetched.values()
            if order.space is other and order.pages.intersect(page_set(span))
        ]
        if under_way:
            with trio.move_on_after(ANSWER_SECONDS):
                for order in under_way:
                    await order.done.wait()

    def fetch(self, attachment: Attachment) -> bytes:
        """The next order, as far as it still may be carried out. Raises SyscallError(EAGAIN)."""
        self._heard_of(attachment)
        while attachment.waiting:
            order = attachment.waiting.popleft()
            if order.space is None:
                return self._hand_out(attachment, order, 0, [])
            order.pages = order.space.allowed(order.pages)
            if self._attachments.owner(order.space.ino) is None or not order.pages:
                order.done.set()
                continue
            region = self._attachments.region(order.space.ino)
            told = list(islice(runs(order.pages), wire.MAX_RUNS))
            order.pages &= page_set(PageSpan(0, told[-1].end))  # the rest has its turn again
            return self._hand_out(attachment, order, region, told)
        raise SyscallError(errno.EAGAIN)

    def report(self, attachment: Attachment, report: wire.Report) -> bytes:
        """What a process holds, or has done. Raises SyscallError(EINVAL)."""
        self._heard_of(attachment)
        self._attachments.forget_unborn(attachment)  # a fork is over when the parent speaks again
        if report.pages:
            space = attachment.space(report.region)
            self._apply(space, report)
            attachment.changed.add(space.ino)
        if report.flags & wire.LAST:
            for space in attachment.spaces.values():
                if space.ino in attachment.changed or space.unknown:
                    space.told_all()
            attachment.changed.clear()
            order = attachment.fetched.pop(report.order, None)
            if order is not None:
                order.done.set()
        return b""

    # ---- helpers ----

    @staticmethod
    def _hand_out(attachment: Attachment, order: Order, region: int, told: list[PageSpan]) -> bytes:
        order.fetched = True
        attachment.fetched[order.number] = order
        return wire.pack_order(order.number, order.kind, region, told)

    @staticmethod
    def _apply(space: AnonymousSpace, report: wire.Report) -> None:
        span = PageSpan(report.first, report.first + report.pages)
        if (
            report.pages > wire.CHUNK_PAGES
            or report.first % wire.CHUNK_PAGES
            or span.end > space.lineage.pages
        ):
            raise SyscallError(errno.EINVAL)
        held, exclusive, purged = (
            pages_in(raw, span) for raw in (report.held, report.exclusive, report.purged)
        )
        space.report(span, held, exclusive, purged)

    def _heard_of(self, attachment: Attachment) -> None:
        if attachment.silent:
            attachment.is_silent(False)
            self._memory.signal_pressure()

    def _record_drop(self, order: Order, cause: Cause) -> None:
        space = order.space
        if space is None or self._attachments.owner(space.ino) is None:  # it has ended meanwhile
            return
        dropped = order.pages & space.volatility.purged
        if order.fetched and dropped:
            span = PageSpan(dropped.min(), dropped.max() + 1)
            size = len(dropped) * PAGE_SIZE
            self._attachments.record("purge", space, span, bytes=size, cause=cause)

    def _orders_for(
        self, wanted: dict[AnonymousSpace, dict[OrderKind, BitMap]]
    ) -> Iterator[tuple[Attachment, Order]]:
        for space, kinds in wanted.items():
            owner = self._attachments.owner(space.ino)
            if owner is None or not space.answers:
                continue
            for kind, pages in kinds.items():
                left = iter(list(runs(space.allowed(pages))))
                while part := list(islice(left, wire.MAX_RUNS)):
                    order = Order(next(self._numbers), kind, space)
                    for span in part:
                        order.pages |= page_set(span)
                    yield owner, order

    async def _ask_to_look(self, attachments: Iterable[Attachment]) -> None:
        await self._carry_out(
            [
                (attachment, Order(next(self._numbers), OrderKind.LOOK, None))
                for attachment in attachments
                if not attachment.silent
            ]
        )

    async def _carry_out(self, orders: list[tuple[Attachment, Order]]) -> None:
        """Return when all have been answered, or time is up."""
        for attachment, order in orders:
            attachment.order(order)
        try:
            with trio.move_on_after(ANSWER_SECONDS) as limit:
                for _, order in orders:
                    await order.done.wait()
            if limit.cancelled_caught:
                self._give_up(orders)
        finally:  # also when the caller is cancelled
            for attachment, order in orders:
                if not order.fetched and not order.done.is_set():
                    attachment.waiting.remove(order)
                    order.done.set()

    def _give_up(self, orders: list[tuple[Attachment, Order]]) -> None:
        for attachment, order in orders:
            if not order.done.is_set() and not attachment.silent:
                attachment.is_silent(True)
                by = [{"rule": "silent", **attachment.name}]
                self._journal.record("block", process=attachment.pid, by=by)
