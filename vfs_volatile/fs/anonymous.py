"""Anonymous memory: what ``libfvrange`` says of it, and having processes drop pages.

A process is an *attachment*: an open file that its library has made one, until it is closed. Only
the process itself can drop its pages, so a purge is an *order* to each that has some of them.
Orders are announced by POLLPRI and fetched; the answer is a report. One that does not answer
in time is *silent*: nothing that it holds is dropped anywhere until it asks for orders again.

That a page goes only if all who share it have marked it holds at the moment each process
fetches its order: all that had been marked or taken back until then is known here. Whoever takes a
page back after that waits, within limits, until the others have done what they fetched.
"""

from __future__ import annotations

import errno
import logging
import secrets
from collections.abc import Iterable, Iterator
from itertools import count as numbers
from itertools import islice

import trio
from pyroaring import BitMap

from vfs_volatile.abi import anonymous as wire
from vfs_volatile.abi.anonymous import OrderKind
from vfs_volatile.abi.ioctls import BEHAVIOR_MASK, VRANGE_NONVOLATILE, VRANGE_VOLATILE
from vfs_volatile.core.anonymous import AnonymousSpace, Lineage
from vfs_volatile.core.history import Cause
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan, count, page_set, runs
from vfs_volatile.core.reclaim import Victim
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.attachment import Attachment, Order
from vfs_volatile.fs.bitmaps import pages_in
from vfs_volatile.fs.journal import Journal, Kind
from vfs_volatile.processes.identity import process_of_thread
from vfs_volatile.units import PAGE_SIZE

log = logging.getLogger(__name__)

ANSWER_SECONDS = 2.0
"""How long a process has to answer. Its helper thread needs a millisecond, once it gets a CPU."""
_MOST_PAGES = 1 << 26
"""Of one allocation: 256 GiB. What is kept here of a claim grows with its size."""
_MOST_REGIONS = 1 << 16
"""Of one process."""


class Anonymous:
    """All anonymous memory that counts into one mount."""

    def __init__(self, memory: Memory, journal: Journal) -> None:
        # -- dependencies --
        self._memory = memory
        self._journal = journal
        # -- mutable --
        self.attachments: list[Attachment] = []
        self._keys = numbers(-1, -1)
        self._regions = numbers(1)
        self._orders = numbers(1)
        self._owners: dict[int, tuple[Attachment, int]] = {}
        """By key of the space: whose it is, and the number of the region."""

    @property
    def resident(self) -> int:
        """Pages of memory that all processes hold together."""
        lineages = {space.lineage for owner in self.attachments for space in owner.spaces.values()}
        return sum(lineage.charged for lineage in lineages)

    def owner(self, key: int) -> Attachment | None:
        """Whose memory it is; None for a child that is not born yet."""
        found = self._owners.get(key)
        return found[0] if found is not None else None

    @property
    def silent(self) -> int:
        """How many processes do not answer."""
        return sum(attachment.silent for attachment in self.attachments)

    # ---- requests of the library ----

    async def ioctl(
        self, attachment: Attachment | None, command: int, data: bytes, tid: int
    ) -> tuple[Attachment, bytes]:
        """Answer one request; whose it is from now on, and what to hand back.

        Raises SyscallError: EINVAL, EAGAIN (no order), ENOSPC (too many regions).
        """
        if command == wire.ANON_ATTACH:
            return self._attach(attachment, wire.Attach.unpack(data)), b""
        if attachment is None:
            raise SyscallError(errno.EINVAL)
        if attachment.pid is None:
            attachment.pid = process_of_thread(tid)
        match command:
            case wire.ANON_FORK:
                answer = self._fork(attachment)
            case wire.ANON_ALLOC:
                answer = self._allocate(attachment, wire.Region.unpack(data))
            case wire.ANON_FREE:
                answer = self._free(attachment, wire.Region.unpack(data).region)
            case wire.ANON_MARK:
                answer = await self._mark(attachment, wire.Marks.unpack_one(data))
            case wire.ANON_MARKS:
                answer = await self._mark(attachment, _marks(data))
            case wire.ANON_FETCH:
                answer = self._fetch(attachment)
            case _:
                answer = self._report(attachment, wire.Report.unpack(data))
        return attachment, answer

    def released(self, attachment: Attachment) -> None:
        """The process has ended, or runs another program."""
        self.attachments.remove(attachment)
        for region in list(attachment.spaces):
            self._leave(attachment, region)
        self._forget_unborn(attachment)
        for order in [*attachment.waiting, *attachment.fetched.values()]:
            order.done.set()
        attachment.waiting.clear()
        attachment.fetched.clear()

    def _attach(self, already: Attachment | None, asked: wire.Attach) -> Attachment:
        if already is not None or asked.version != wire.VERSION:
            raise SyscallError(errno.EINVAL)
        new = Attachment()
        if asked.token:
            parent = next(
                (a for a in self.attachments if a.unborn and a.unborn[0] == asked.token), None
            )
            if parent is None or parent.unborn is None:
                raise SyscallError(errno.EINVAL)
            new.spaces, new.addresses = parent.unborn[1], dict(parent.addresses)
            parent.unborn = None
            for region, space in new.spaces.items():
                space.answers = True
                self._owners[space.ino] = (new, region)
        self.attachments.append(new)
        return new

    def _fork(self, parent: Attachment) -> bytes:
        """The child is known, and shares all pages, before it is born."""
        self._forget_unborn(parent)
        token = secrets.randbits(63) | 1
        spaces = {region: space.lineage.fork(space) for region, space in parent.spaces.items()}
        for space in spaces.values():
            space.answers = False  # not yet
        parent.unborn = (token, spaces)
        return wire.pack_fork(token)

    def _forget_unborn(self, parent: Attachment) -> None:
        """A child that was announced was never attached."""
        if parent.unborn is not None:
            for space in parent.unborn[1].values():
                space.lineage.leave(space)
        parent.unborn = None

    def _allocate(self, attachment: Attachment, asked: wire.Region) -> bytes:
        if not 0 < asked.pages <= _MOST_PAGES:
            raise SyscallError(errno.EINVAL)
        if len(attachment.spaces) >= _MOST_REGIONS:
            raise SyscallError(errno.ENOSPC)
        region = next(self._regions)
        space = Lineage(self._memory, asked.pages, self._keys).first()
        space.answers = not attachment.silent
        attachment.spaces[region] = space
        attachment.addresses[region] = asked.address
        self._owners[space.ino] = (attachment, region)
        return asked._replace(region=region).pack()

    def _free(self, attachment: Attachment, region: int) -> bytes:
        self._space(attachment, region)
        self._leave(attachment, region)
        return b""

    def _leave(self, attachment: Attachment, region: int) -> None:
        space = attachment.spaces.pop(region)
        attachment.addresses.pop(region)
        self._owners.pop(space.ino)
        space.lineage.leave(space)

    async def _mark(self, attachment: Attachment, marks: wire.Marks) -> bytes:
        """All or nothing."""
        if marks.mode not in (VRANGE_VOLATILE, VRANGE_NONVOLATILE) or (
            marks.behavior & ~BEHAVIOR_MASK
        ):
            raise SyscallError(errno.EINVAL)
        spans = [
            (self._space(attachment, region), PageSpan(first, end))
            for region, first, end in marks.ranges
        ]
        if any(not 0 <= span.first < span.end <= space.lineage.pages for space, span in spans):
            raise SyscallError(errno.EINVAL)
        for space, span in spans:
            if marks.mode == VRANGE_VOLATILE:
                space.mark(span, marks.behavior)
                self._record("mark", space, span, behavior=marks.behavior)
            else:
                lost = count(space.volatility.purged, span)
                space.unmark(span)
                self._record("unmark", space, span, purged=lost * PAGE_SIZE)
        if marks.mode == VRANGE_NONVOLATILE:
            await self._wait_for_sharers(spans)
        return b""

    def _record(
        self,
        kind: Kind,
        space: AnonymousSpace,
        span: PageSpan,
        purged: int | None = None,
        **details: object,
    ) -> None:
        owner, region = self._owners[space.ino]
        start = owner.addresses[region] + span.first * PAGE_SIZE
        length = (span.end - span.first) * PAGE_SIZE
        self._journal.record(kind, None, [(start, length)], purged, process=owner.pid, **details)

    async def _wait_for_sharers(self, spans: list[tuple[AnonymousSpace, PageSpan]]) -> None:
        """Return when nobody is dropping a page that one of ``spans`` shares any more.

        Limited: a process that was stopped between fetching its order and doing it delays the
        others no longer than it may take to answer.
        """
        under_way = [
            order
            for space, span in spans
            for other in space.lineage.members
            if other is not space
            if other.ino in self._owners
            for order in self._owners[other.ino][0].fetched.values()
            if order.space is other and order.pages.intersect(page_set(span))
        ]
        if under_way:
            with trio.move_on_after(ANSWER_SECONDS):
                for order in under_way:
                    await order.done.wait()

    def _fetch(self, attachment: Attachment) -> bytes:
        """The next order, as far as it still may be carried out. Raises SyscallError(EAGAIN)."""
        self._heard_of(attachment)
        while attachment.waiting:
            order = attachment.waiting.popleft()
            if order.space is None:
                return self._hand_out(attachment, order, 0, [])
            order.pages = order.space.allowed(order.pages)
            if order.space.ino not in self._owners or not order.pages:
                order.done.set()
                continue
            _, region = self._owners[order.space.ino]
            told = list(islice(runs(order.pages), wire.MAX_RUNS))
            order.pages &= page_set(PageSpan(0, told[-1].end))  # the rest has its turn again
            return self._hand_out(attachment, order, region, told)
        raise SyscallError(errno.EAGAIN)

    @staticmethod
    def _hand_out(attachment: Attachment, order: Order, region: int, told: list[PageSpan]) -> bytes:
        order.fetched = True
        attachment.fetched[order.number] = order
        return wire.pack_order(order.number, order.kind, region, told)

    def _report(self, attachment: Attachment, report: wire.Report) -> bytes:
        self._heard_of(attachment)
        self._forget_unborn(attachment)  # a fork is over when the parent speaks again
        if report.pages:
            space = self._space(attachment, report.region)
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

    @staticmethod
    def _space(attachment: Attachment, region: int) -> AnonymousSpace:
        try:
            return attachment.spaces[region]
        except KeyError:
            raise SyscallError(errno.EINVAL) from None

    # ---- purging ----

    async def refresh(self) -> None:
        """Let all processes tell what they hold now."""
        await self._ask_to_look(self.attachments)

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
        await self._ask_to_look(
            {
                self._owners[space.ino][0]
                for lineage in lineages
                for space in lineage.members
                if space.ino in self._owners
            }
        )
        held = {space.lineage: space.lineage.charged for space in wanted}
        orders = list(self._orders_for(wanted))
        await self._carry_out(orders)
        for _, order in orders:
            self._record_drop(order, cause)
        return sum(max(0, before - lineage.charged) for lineage, before in held.items())

    def _record_drop(self, order: Order, cause: Cause) -> None:
        space = order.space
        if space is None or space.ino not in self._owners:  # the process has ended meanwhile
            return
        dropped = order.pages & space.volatility.purged
        if order.fetched and dropped:
            span = PageSpan(dropped.min(), dropped.max() + 1)
            self._record("purge", space, span, bytes=len(dropped) * PAGE_SIZE, cause=cause)

    def _orders_for(
        self, wanted: dict[AnonymousSpace, dict[OrderKind, BitMap]]
    ) -> Iterator[tuple[Attachment, Order]]:
        for space, kinds in wanted.items():
            if space.ino not in self._owners or not space.answers:
                continue
            for kind, pages in kinds.items():
                left = iter(list(runs(space.allowed(pages))))
                while part := list(islice(left, wire.MAX_RUNS)):
                    order = Order(next(self._orders), kind, space)
                    for span in part:
                        order.pages |= page_set(span)
                    yield self._owners[space.ino][0], order

    async def _ask_to_look(self, attachments: Iterable[Attachment]) -> None:
        await self._carry_out(
            [
                (attachment, Order(next(self._orders), OrderKind.LOOK, None))
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


def _marks(data: bytes) -> wire.Marks:
    try:
        return wire.Marks.unpack(data)
    except ValueError:
        raise SyscallError(errno.EINVAL) from None
