"""Anonymous memory: the requests of ``libfvrange``."""

from __future__ import annotations

import errno

from vfs_volatile.abi import anonymous as wire
from vfs_volatile.abi.ioctls import BEHAVIOR_MASK, VRANGE_NONVOLATILE, VRANGE_VOLATILE
from vfs_volatile.core.anonymous import AnonymousSpace
from vfs_volatile.core.growth import require_to_mark, require_to_unmark
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan, count
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.attachment import Attachment
from vfs_volatile.fs.attachments import Attachments
from vfs_volatile.fs.journal import Journal
from vfs_volatile.fs.orders import Orders
from vfs_volatile.processes.identity import process_of_thread
from vfs_volatile.units import PAGE_SIZE


class Anonymous:
    """All anonymous memory that counts into one mount."""

    def __init__(self, memory: Memory, journal: Journal) -> None:
        self._memory = memory
        self.attachments = Attachments(memory, journal)
        self.orders = Orders(self.attachments, memory, journal)

    async def ioctl(
        self, attachment: Attachment | None, command: int, data: bytes, tid: int
    ) -> tuple[Attachment, bytes]:
        """Answer one request; whose it is from now on, and what to hand back.

        Raises SyscallError: EINVAL, EAGAIN (no order), ENOMEM (too many ranges), ENOSPC (too many
        regions).
        """
        if command == wire.ANON_ATTACH:
            return self.attachments.attach(attachment, wire.Attach.unpack(data)), b""
        if attachment is None:
            raise SyscallError(errno.EINVAL)
        if attachment.pid is None:
            attachment.pid = process_of_thread(tid)
        match command:
            case wire.ANON_FORK:
                answer = self.attachments.fork(attachment)
            case wire.ANON_ALLOC:
                answer = self.attachments.allocate(attachment, wire.Region.unpack(data))
            case wire.ANON_FREE:
                answer = self.attachments.free(attachment, wire.Region.unpack(data).region)
            case wire.ANON_MARK:
                answer = await self._mark(attachment, wire.Marks.unpack_one(data))
            case wire.ANON_MARKS:
                answer = await self._mark(attachment, _marks(data))
            case wire.ANON_FETCH:
                answer = self.orders.fetch(attachment)
            case _:
                answer = self.orders.report(attachment, wire.Report.unpack(data))
        return attachment, answer

    def released(self, attachment: Attachment) -> None:
        """The process has ended, or runs another program."""
        self.attachments.remove(attachment)
        for order in [*attachment.waiting, *attachment.fetched.values()]:
            order.done.set()
        attachment.waiting.clear()
        attachment.fetched.clear()

    async def _mark(self, attachment: Attachment, marks: wire.Marks) -> bytes:
        """All or nothing."""
        if marks.mode not in (VRANGE_VOLATILE, VRANGE_NONVOLATILE) or (
            marks.behavior & ~BEHAVIOR_MASK
        ):
            raise SyscallError(errno.EINVAL)
        spans = [
            (attachment.space(region), PageSpan(first, end)) for region, first, end in marks.ranges
        ]
        if any(not 0 <= span.first < span.end <= space.lineage.pages for space, span in spans):
            raise SyscallError(errno.EINVAL)
        self._require_ranges(attachment, marks.mode, spans)
        for space, span in spans:
            if marks.mode == VRANGE_VOLATILE:
                space.mark(span, marks.behavior)
                self.attachments.record("mark", space, span, behavior=marks.behavior)
            else:
                lost = count(space.volatility.purged, span)
                space.unmark(span)
                self.attachments.record("unmark", space, span, purged=lost * PAGE_SIZE)
        if marks.mode == VRANGE_NONVOLATILE:
            await self.orders.wait_for_sharers(spans)
        return b""

    def _require_ranges(
        self, attachment: Attachment, mode: int, spans: list[tuple[AnonymousSpace, PageSpan]]
    ) -> None:
        """Raise SyscallError(ENOMEM) if a mark or an unmark might make too many ranges."""
        parts = [(space.volatility, span) for space, span in spans]
        more = len(spans)
        if mode == VRANGE_VOLATILE:
            require_to_mark(self._memory, len(spans), parts)
        else:
            require_to_unmark(self._memory, len(spans), parts)
            more = sum(volatility.ranges.splits(span) for volatility, span in parts)
        if more:
            self.attachments.require_ranges(attachment, more)


def _marks(data: bytes) -> wire.Marks:
    try:
        return wire.Marks.unpack(data)
    except ValueError:
        raise SyscallError(errno.EINVAL) from None
