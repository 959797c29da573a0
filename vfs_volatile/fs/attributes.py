"""The extended attributes that mark, unmark and purge, and tell the state of a file or the mount.

Everything is checked before anything changes, so a failed call changes nothing.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict
from typing import TypeVar

import trio

from vfs_volatile.abi import xattrs
from vfs_volatile.abi.statistics import Statistics
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.byte_spans import ByteSpan
from vfs_volatile.core.consent import forbidden
from vfs_volatile.core.history import Cause
from vfs_volatile.core.memory import Memory
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.addressed import Addressed
from vfs_volatile.fs.aids import NAMES as AIDS
from vfs_volatile.fs.aids import DebugAids
from vfs_volatile.fs.anonymous_view import processes_json
from vfs_volatile.fs.direct import DirectFiles
from vfs_volatile.fs.journal import Journal
from vfs_volatile.fs.news import News, blockers_of
from vfs_volatile.fs.purges import Purges
from vfs_volatile.fs.ranking import Ranking
from vfs_volatile.units import PAGE_SIZE, pages_for, parse_size

T = TypeVar("T")
_DIGITS = 20
"""Of the number of an event."""
_Setter = Callable[[AddressSpace, str, int], Awaitable[None]]


class ControlAttributes:
    """All extended attributes of a mount that are not the user's own."""

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

    # ---- of a file ----

    async def set_of_file(self, space: AddressSpace, name: str, value: bytes, tid: int) -> None:
        """Raises SyscallError: EINVAL (syntax), EPERM (read-only), EOPNOTSUPP (no such)."""
        if name in self._setters:
            await self._setters[name](space, _text(value), tid)
            self._direct.count()
        elif name in self._getters or name in (xattrs.BLOCKERS, xattrs.DATA_PATH):
            raise SyscallError(errno.EPERM)
        else:
            raise SyscallError(errno.EOPNOTSUPP)

    async def get_of_file(self, space: AddressSpace, name: str) -> bytes:
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

    async def remove_of_file(self, space: AddressSpace, name: str, tid: int) -> None:
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
        starts, lengths = zip(*spans, strict=True)
        self._journal.record("mark", space, starts, lengths, behavior=behavior, tid=tid)
        await self._aids.after_mark([(space, span) for span in spans], purged)

    async def _set_nonvolatile(self, space: AddressSpace, text: str, tid: int) -> None:
        await self._unmark(space, _parse(xattrs.parse_ranges, text), tid)

    async def _unmark(self, space: AddressSpace, spans: list[ByteSpan], tid: int) -> None:
        parts = [(space, span) for span in spans]
        purged = sum(await self._purges.unmark(parts, record_lost=True))
        starts, lengths = zip(*spans, strict=True)
        self._journal.record("unmark", space, starts, lengths, purged=purged, tid=tid)

    async def _set_purge(self, space: AddressSpace, text: str, tid: int) -> None:
        await self._purges.purge(space, _parse(xattrs.parse_ranges, text))

    # ---- of the mount's root ----

    async def set_of_mount(self, name: str, value: bytes, tid: int) -> None:
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

    async def get_of_mount(self, name: str) -> bytes:
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
        """All counters of the mount. Raises MemoryError if some are in doubt, and stay so."""
        memory, purges = self._memory, self._purges
        memory.mend()
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
            "tasks": trio.lowlevel.current_statistics().tasks_living,
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
