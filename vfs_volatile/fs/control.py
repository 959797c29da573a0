"""Where ioctl and xattr meet: the calls that mark, unmark, list and purge, checked in one place.

Everything is checked before anything changes, so a failed call changes nothing.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict
from typing import TypeVar

from vfs_volatile.abi import anonymous, ioctls, xattrs
from vfs_volatile.abi.ioctls import FvrangeArgs, FvrangeInfo, FvrangeVec
from vfs_volatile.abi.statistics import Statistics
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.consent import forbidden
from vfs_volatile.core.history import Cause
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import MAX_BYTES
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.core.residency import ByteSpan
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.addressed import Addressed
from vfs_volatile.fs.aids import NAMES as AIDS
from vfs_volatile.fs.aids import DebugAids
from vfs_volatile.fs.anonymous_view import processes_json
from vfs_volatile.fs.attachment import Attachment
from vfs_volatile.fs.direct import DirectFiles
from vfs_volatile.fs.inode import Handle
from vfs_volatile.fs.journal import Journal
from vfs_volatile.fs.news import News, blockers_of
from vfs_volatile.fs.purges import Purges
from vfs_volatile.fs.ranking import Ranking
from vfs_volatile.units import PAGE_SIZE, pages_for, parse_size

T = TypeVar("T")
_ALLOCATED_AT_ONCE = 32 << 20
"""Bytes: some ten milliseconds."""
_COMMANDS = (
    ioctls.FVRANGE_IOC_FVRANGE,
    ioctls.FVRANGE_IOC_MVRANGE,
    ioctls.FVRANGE_IOC_NEXT,
    ioctls.FVRANGE_IOC_PURGE,
    ioctls.FVRANGE_IOC_VEC,
    ioctls.FVRANGE_IOC_MAP,
)
_DIGITS = 20
"""Of the number of an event."""
_Setter = Callable[[AddressSpace, str, int], Awaitable[None]]


def check_range(args: FvrangeArgs) -> None:
    """Raise SyscallError(EINVAL) unless FVRANGE and MVRANGE may be called so (fvrange.h)."""
    both = ioctls.VRANGE_ZERO | ioctls.VRANGE_SIGBUS
    if (
        args.mode not in (ioctls.VRANGE_VOLATILE, ioctls.VRANGE_NONVOLATILE)
        or args.behavior & ~ioctls.BEHAVIOR_MASK
        or args.behavior & both == both
        or (args.mode == ioctls.VRANGE_NONVOLATILE and args.behavior)
        or args.start + args.length > ioctls.U64_MAX
    ):
        raise SyscallError(errno.EINVAL)


def _check_vec(vec: FvrangeVec) -> None:
    """Raise SyscallError(EINVAL) unless VEC may be called so."""
    if vec.reserved or vec.counted != len(vec.ranges):
        raise SyscallError(errno.EINVAL)
    check_range(FvrangeArgs(0, 0, vec.mode, vec.behavior))
    if any(start + length > ioctls.U64_MAX for start, length, _ in vec.ranges):
        raise SyscallError(errno.EINVAL)


def _few(space: AddressSpace, spans: list[ByteSpan]) -> bool:
    """Do ``spans`` meet and make so few ranges that it takes no time?"""
    if len(space.volatility.ranges) <= AT_ONCE:
        return True
    return sum(length or MAX_BYTES for _, length in spans) <= AT_ONCE * PAGE_SIZE


def _with_purged(span: ByteSpan, purged: int) -> tuple[int, int, int]:
    return *span, purged


class Control:
    """The control interface of a mount."""

    def __init__(
        self,
        memory: Memory,
        purges: Purges,
        addressed: Addressed,
        journal: Journal,
        news: News,
        ranking: Ranking,
        aids: DebugAids,
        direct: DirectFiles,
        facts: Mapping[str, str],
    ) -> None:
        self._memory = memory
        self._purges = purges
        self._addressed = addressed
        self._journal = journal
        self._news = news
        self._ranking = ranking
        self._aids = aids
        self._direct = direct
        self._facts = facts
        """What does not change while mounted: the rules, and how processes are followed."""
        self._setters: dict[str, _Setter] = {
            xattrs.VOLATILE: self._set_volatile,
            xattrs.NONVOLATILE: self._set_nonvolatile,
            xattrs.PURGE: self._set_purge,
        }
        self._getters: dict[str, Callable[[AddressSpace], Iterable[ByteSpan]]] = {
            xattrs.VOLATILE: AddressSpace.volatile_spans,
            xattrs.PURGED: AddressSpace.purged_spans,
            xattrs.LOST: AddressSpace.lost_spans,
        }

    # ---- ioctls ----

    def ioctl_at_once(self, handle: Handle, command: int, data: bytes, tid: int) -> bytes | None:
        """As :meth:`ioctl`, for a call that has nothing to wait for; None if it may have to wait.

        A task costs more than a mark. Raises SyscallError, and nothing has changed then.
        """
        space = handle.inode.space
        if space is None or space.volatility.drains or self._aids.may_wait:
            return None
        if command == ioctls.FVRANGE_IOC_NEXT:
            self._addressed.catch_up()
            return self._next(handle, space, data)
        if not handle.writable:
            return None
        if command == ioctls.FVRANGE_IOC_FVRANGE:
            args = FvrangeArgs.unpack(data)
            check_range(args)
            span = (args.start, args.length)
            if not _few(space, [span]):
                return None
            purged = self._change_at_once(space, [span], args.mode, args.behavior, tid)
            return args._replace(purged=purged[0]).pack() if purged else None
        if command == ioctls.FVRANGE_IOC_VEC:
            vec = FvrangeVec.unpack(data)
            _check_vec(vec)
            spans = [(start, length) for start, length, _ in vec.ranges]
            if not spans or not _few(space, spans):
                return None
            purged = self._change_at_once(space, spans, vec.mode, vec.behavior, tid)
            if not purged:
                return None
            return vec._replace(ranges=list(map(_with_purged, spans, purged))).pack()
        return None

    def _change_at_once(
        self, space: AddressSpace, spans: list[ByteSpan], mode: int, behavior: int, tid: int
    ) -> list[int]:
        """Mark or unmark; the bytes of each span found purged. Empty if that has to wait."""
        self._addressed.catch_up()
        if mode == ioctls.VRANGE_VOLATILE:
            space.require_honoured(behavior)
            purged = space.mark_many(spans, behavior)
        elif any(space.zeroed_by_unmark(*span) for span in spans if space.volatility.purged):
            return []
        else:
            purged = space.unmark_many(spans)
        self._record(space, spans, mode, behavior, sum(purged), tid)
        self._direct.count()
        return purged

    async def ioctl(self, handle: Handle, command: int, data: bytes, tid: int) -> bytes:
        """Answer one ioctl of thread ``tid``; the struct to hand back.

        Raises SyscallError: ENOTTY (not one of ours, or not a regular file), EBADF (not open for
        writing), EINVAL, ENXIO (NEXT past the last range), and what MVRANGE adds.
        """
        space = handle.inode.space
        if space is not None and command in anonymous.COMMANDS:
            handle.attachment, answer = await self._purges.anonymous.ioctl(
                handle.attachment, command, data, tid
            )
            return answer
        if space is None or command not in _COMMANDS:
            raise SyscallError(errno.ENOTTY)
        self._addressed.catch_up()
        if command == ioctls.FVRANGE_IOC_NEXT:
            await self._purges.drains.wait_for(space)
            return self._next(handle, space, data)
        if not handle.writable:
            raise SyscallError(errno.EBADF)
        if command == ioctls.FVRANGE_IOC_VEC:
            return (await self._vec(space, FvrangeVec.unpack(data), tid)).pack()
        args = FvrangeArgs.unpack(data)
        if command == ioctls.FVRANGE_IOC_MAP:
            return (await self._map(space, args)).pack()
        match command:
            case ioctls.FVRANGE_IOC_FVRANGE:
                purged = await self._fvrange(space, args, tid)
            case ioctls.FVRANGE_IOC_PURGE:
                purged = await self._purge(space, args)
            case _:
                check_range(args)
                purged = await self._addressed.mvrange(handle, args, tid)
        self._direct.count()
        return args._replace(purged=purged).pack()

    def detached(self, attachment: Attachment) -> None:
        """The open file that stood for a process is closed."""
        self._purges.anonymous.released(attachment)

    @staticmethod
    def _next(handle: Handle, space: AddressSpace, data: bytes) -> bytes:
        handle.told()  # also if there is none
        return FvrangeInfo(*space.next_run(FvrangeInfo.unpack(data).start)).pack()

    async def _fvrange(self, space: AddressSpace, args: FvrangeArgs, tid: int) -> int:
        check_range(args)
        span = (args.start, args.length)
        if args.mode == ioctls.VRANGE_VOLATILE:
            space.require_honoured(args.behavior)
            (purged,) = await self._purges.mark([(space, span)], args.behavior)
            self._record(space, [span], args.mode, args.behavior, purged, tid)
            (purged,) = await self._aids.after_mark([(space, span)], [purged])
        else:
            (purged,) = await self._purges.unmark([(space, span)])
            self._record(space, [span], args.mode, args.behavior, purged, tid)
        return purged

    async def _vec(self, space: AddressSpace, vec: FvrangeVec, tid: int) -> FvrangeVec:
        """FVRANGE for many ranges, all or nothing; at one moment, unless they meet thousands."""
        _check_vec(vec)
        if vec.mode == ioctls.VRANGE_VOLATILE:
            space.require_honoured(vec.behavior)
        parts = [(space, (start, length)) for start, length, _ in vec.ranges]
        if vec.mode == ioctls.VRANGE_VOLATILE:
            purged = await self._purges.mark(parts, vec.behavior)
        else:
            purged = await self._purges.unmark(parts)
        if parts:
            spans = [span for _, span in parts]
            self._record(space, spans, vec.mode, vec.behavior, sum(purged), tid)
        if vec.mode == ioctls.VRANGE_VOLATILE:
            purged = await self._aids.after_mark(parts, purged)
        done = [(*span, found) for (_, span), found in zip(parts, purged, strict=True)]
        return vec._replace(ranges=done)

    def _record(
        self,
        space: AddressSpace,
        spans: list[ByteSpan],
        mode: int,
        behavior: int,
        purged: int,
        tid: int,
    ) -> None:
        if mode == ioctls.VRANGE_VOLATILE:
            self._journal.record("mark", space, spans, behavior=behavior, tid=tid)
        else:
            self._journal.record("unmark", space, spans, purged=purged, tid=tid)

    async def _purge(self, space: AddressSpace, args: FvrangeArgs) -> int:
        if args.mode or args.behavior or args.start + args.length > ioctls.U64_MAX:
            raise SyscallError(errno.EINVAL)
        await self._purges.purge(space, [(args.start, args.length)])
        return space.purged_bytes(args.start, args.length)

    async def _map(self, space: AddressSpace, args: FvrangeArgs) -> FvrangeArgs:
        """Let touching a purged page be SIGBUS for a process that maps these bytes.

        On the direct path no page but purged ones may be missing, as a missing page is an error to
        that process. Raises SyscallError: EINVAL, ENOSPC, EOPNOTSUPP.
        """
        if args.mode or args.behavior or args.start + args.length > ioctls.U64_MAX:
            raise SyscallError(errno.EINVAL)
        if space.direct is None:
            if space.reads_zero:
                raise SyscallError(errno.EOPNOTSUPP)
            return args._replace(behavior=ioctls.VRANGE_SIGBUS)
        space.keeps_pages = True
        end = min(args.start + args.length, space.size) if args.length else space.size
        for start in range(args.start, end, _ALLOCATED_AT_ONCE):
            length = min(_ALLOCATED_AT_ONCE, end - start)
            await self._purges.make_room(pages_for(length) + 1)
            space.allocate(start, length, keep_size=True)
            self._direct.count()
        return args._replace(
            behavior=ioctls.VRANGE_ZERO, purged=space.purged_bytes(args.start, args.length)
        )

    # ---- extended attributes of a file ----

    async def set_file_xattr(self, space: AddressSpace, name: str, value: bytes, tid: int) -> None:
        """Raises SyscallError: EINVAL (syntax), EPERM (read-only), EOPNOTSUPP (no such)."""
        if name in self._setters:
            await self._setters[name](space, _text(value), tid)
            self._direct.count()
        elif name in self._getters or name in (xattrs.BLOCKERS, xattrs.DATA_PATH):
            raise SyscallError(errno.EPERM)
        else:
            raise SyscallError(errno.EOPNOTSUPP)

    async def get_file_xattr(self, space: AddressSpace, name: str) -> bytes:
        """Raises SyscallError: ENODATA for what cannot be read, E2BIG for thousands of ranges."""
        if name == xattrs.BLOCKERS:
            found = await self._purges.looks.objections([space])
            return json.dumps(blockers_of(found[space.ino], forbidden(found[space.ino]))).encode()
        if name not in self._getters:
            raise SyscallError(errno.ENODATA)
        self._addressed.catch_up()
        await self._purges.drains.wait_for(space)
        try:
            return xattrs.format_ranges(self._getters[name](space)).encode()
        except ValueError:
            raise SyscallError(errno.E2BIG) from None

    async def remove_file_xattr(self, space: AddressSpace, name: str, tid: int) -> None:
        """Unmark the whole file, or acknowledge what was lost. Raises SyscallError."""
        if name == xattrs.VOLATILE:
            await self._unmark(space, [(0, 0)], tid)
        elif name == xattrs.LOST:
            space.acknowledge_lost()
        elif name == xattrs.PURGED:
            raise SyscallError(errno.EPERM)
        else:
            raise SyscallError(errno.ENODATA)

    async def _set_volatile(self, space: AddressSpace, text: str, tid: int) -> None:
        spans, behavior = _parse(xattrs.parse_mark, text)
        space.require_honoured(behavior)
        purged = await self._purges.mark([(space, span) for span in spans], behavior)
        self._journal.record("mark", space, spans, behavior=behavior, tid=tid)
        await self._aids.after_mark([(space, span) for span in spans], purged)

    async def _set_nonvolatile(self, space: AddressSpace, text: str, tid: int) -> None:
        await self._unmark(space, _parse(xattrs.parse_ranges, text), tid)

    async def _unmark(self, space: AddressSpace, spans: list[ByteSpan], tid: int) -> None:
        parts = [(space, span) for span in spans]
        purged = sum(await self._purges.unmark(parts, record_lost=True))
        self._journal.record("unmark", space, spans, purged=purged, tid=tid)

    async def _set_purge(self, space: AddressSpace, text: str, tid: int) -> None:
        await self._purges.purge(space, _parse(xattrs.parse_ranges, text))

    # ---- extended attributes of the mount's root ----

    async def set_mount_xattr(self, name: str, value: bytes, tid: int) -> None:
        """Raises SyscallError: EINVAL (syntax), EPERM (read-only), EOPNOTSUPP (no such)."""
        text = _text(value)
        if name == xattrs.BUDGET:
            new_size = _parse(parse_size, text)
            await self._purges.anonymous.orders.refresh()
            self._memory.set_budget(new_size // PAGE_SIZE)
            self._direct.count()
            budget = self._memory.budget_pages * PAGE_SIZE
            self._journal.record("budget", bytes=budget, tid=tid)
        elif name == xattrs.MOUNT_PURGE:
            size = 0 if text == "all" else pages_for(_parse(parse_size, text))
            await self._purges.anonymous.orders.refresh()
            # Not "until so much less is resident": others store meanwhile, and it would never end.
            wanted = self._memory.resident if text == "all" else size
            await self._purges.reclaim(lambda freed: wanted - freed, Cause.REQUEST)
        elif name in AIDS:
            _parse(lambda value: self._aids.set(name, value), text)
        elif name == xattrs.STATS or name in xattrs.MOUNT_VALUES or is_private(name):
            raise SyscallError(errno.EPERM)
        else:
            raise SyscallError(errno.EOPNOTSUPP)

    async def get_mount_xattr(self, name: str) -> bytes:
        """Raises SyscallError(ENODATA) for what cannot be read."""
        if name == xattrs.STATS:
            return json.dumps(self._report()).encode()
        if name in xattrs.MOUNT_VALUES:
            return str(getattr(self.statistics(), xattrs.MOUNT_VALUES[name])).encode()
        if name in AIDS:
            return self._aids.get(name).encode()
        if name in xattrs.FILES:
            return await self._ranking.largest(xattrs.FILES[name])
        if name == xattrs.BLOCKED:
            return self._news.blocked()
        if name == xattrs.ANONYMOUS:
            return processes_json(self._purges.anonymous.attachments)
        if name.startswith(xattrs.EVENTS_FROM):
            return self._journal.after(_parse(_number, name.removeprefix(xattrs.EVENTS_FROM)))
        raise SyscallError(errno.ENODATA)

    def statistics(self) -> Statistics:
        """All counters of the mount."""
        memory, purges = self._memory, self._purges
        self._direct.count()
        return Statistics(
            size=memory.size_pages * PAGE_SIZE,
            budget=memory.budget_pages * PAGE_SIZE,
            # What is being purged counts until the kernel has dropped it too.
            resident=(memory.resident + purges.drains.pages) * PAGE_SIZE,
            passthrough=(memory.direct + memory.unseen) * PAGE_SIZE,
            highest_resident=memory.highest_resident * PAGE_SIZE,
            volatile=memory.volatile * PAGE_SIZE,
            purged=memory.purged * PAGE_SIZE,
            purged_ever=memory.purged_ever * PAGE_SIZE,
            marks=self._journal.counts["mark"],
            unmarks=self._journal.counts["unmark"],
            unmarked_purged=self._journal.unmarked_purged,
            blocked_purges=purges.blocked,
            pressure_events=purges.history.pressure_events,
            pressure_elsewhere=purges.history.pressure_elsewhere,
            looks_at_processes=purges.looks.durations.count,
            looks_milliseconds=round(1000 * purges.looks.durations.seconds),
            processes_asked=purges.looks.asked,
            processes_remembered=purges.looks.remembered,
            anonymous_processes=len(purges.anonymous.attachments),
            anonymous_resident=purges.anonymous.attachments.resident * PAGE_SIZE,
            anonymous_silent=purges.anonymous.attachments.silent,
        )

    def _report(self) -> dict[str, object]:
        """What ``stats`` says: the counters, and what is none."""
        return {
            "pid": os.getpid(),
            **asdict(self.statistics()),
            "purged_for": {
                cause: pages * PAGE_SIZE for cause, pages in self._purges.history.freed.items()
            },
            "last_purges": [
                {
                    "began": purged.began,
                    "ended": purged.ended,
                    "cause": purged.cause,
                    "bytes": purged.pages * PAGE_SIZE,
                }
                for purged in self._purges.history.recent
            ],
            "unreadable_processes": self._purges.looks.unreadable,
            **self._facts,
        }


def is_private(name: str) -> bool:
    """Does this attribute tell the names of files or who uses them, so to owners alone?"""
    return name.startswith(xattrs.EVENTS_FROM) or name in (
        xattrs.ANONYMOUS,
        xattrs.BLOCKED,
        xattrs.BLOCKERS,
        *xattrs.FILES,
    )


def _number(text: str) -> int:
    """Raises ValueError unless ``text`` is digits alone."""
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise ValueError
    return int(text)


def _text(value: bytes) -> str:
    try:
        return value.decode("ascii")
    except UnicodeDecodeError:
        raise SyscallError(errno.EINVAL) from None


def _parse(parser: Callable[[str], T], text: str) -> T:
    try:
        return parser(text)
    except ValueError:
        raise SyscallError(errno.EINVAL) from None
