"""The ioctls that mark, unmark, list and purge, checked in one place.

Everything is checked before anything changes, so a failed call changes nothing.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from operator import add

from vfs_volatile.abi import anonymous, ioctls
from vfs_volatile.abi.ioctls import FvrangeArgs, FvrangeInfo, FvrangeVec
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.pages import MAX_BYTES
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.addressed import Addressed
from vfs_volatile.fs.aids import DebugAids
from vfs_volatile.fs.attachment import Attachment
from vfs_volatile.fs.direct import DirectFiles
from vfs_volatile.fs.inode import Handle
from vfs_volatile.fs.journal import Journal
from vfs_volatile.fs.purges import Purges
from vfs_volatile.units import PAGE_SIZE, pages_for

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


def check_range(start: int, length: int, mode: int, behavior: int) -> None:
    """Raise SyscallError(EINVAL) unless FVRANGE and MVRANGE may be called so (fvrange.h)."""
    both = ioctls.VRANGE_ZERO | ioctls.VRANGE_SIGBUS
    if (
        mode not in (ioctls.VRANGE_VOLATILE, ioctls.VRANGE_NONVOLATILE)
        or behavior & ~ioctls.BEHAVIOR_MASK
        or behavior & both == both
        or (mode == ioctls.VRANGE_NONVOLATILE and behavior)
        or start + length > ioctls.U64_MAX
    ):
        raise SyscallError(errno.EINVAL)


def _check_vec(vec: FvrangeVec) -> None:
    """Raise SyscallError(EINVAL) unless VEC may be called so."""
    if vec.reserved or vec.counted != len(vec.starts):
        raise SyscallError(errno.EINVAL)
    farthest = max(map(add, vec.starts, vec.lengths), default=0)
    check_range(0, farthest, vec.mode, vec.behavior)


def _few(space: AddressSpace, lengths: Sequence[int]) -> bool:
    """Do spans of so many bytes meet and make so few ranges, and pages, that it takes no time?"""
    if len(lengths) > 1 and sum(min(each or MAX_BYTES, space.size) for each in lengths) > MAX_BYTES:
        return False
    if len(space.volatility.ranges) <= AT_ONCE:
        return True
    return all(lengths) and sum(lengths) <= AT_ONCE * PAGE_SIZE


class Control:
    """All ioctls of a mount."""

    def __init__(
        self,
        purges: Purges,
        addressed: Addressed,
        journal: Journal,
        aids: DebugAids,
        direct: DirectFiles,
    ) -> None:
        self._purges = purges
        self._addressed = addressed
        self._journal = journal
        self._aids = aids
        self._direct = direct

    # ---- ioctls ----

    def fvrange_at_once(
        self, handle: Handle, start: int, length: int, mode: int, behavior: int, tid: int
    ) -> int | None:
        """FVRANGE: the bytes found purged; None, and nothing has changed, if it may have to wait.

        A task costs more than a mark. Raises SyscallError, and nothing has changed then either.
        """
        space = self._free_of_purges(handle)
        if space is None or not handle.writable:
            return None
        check_range(start, length, mode, behavior)
        if not _few(space, [length]):
            return None
        asked = FvrangeVec(mode, behavior, [start], [length])
        purged = self._change_at_once(space, asked, tid)
        return purged[0] if purged else None

    def ioctl_at_once(self, handle: Handle, command: int, data: bytes, tid: int) -> bytes | None:
        """As :meth:`fvrange_at_once`, for other calls: the struct to hand back."""
        space = self._free_of_purges(handle)
        if space is None:
            return None
        if command == ioctls.FVRANGE_IOC_NEXT:
            self._addressed.catch_up()
            return self._next(handle, space, data)
        if not handle.writable:
            return None
        if command == ioctls.FVRANGE_IOC_VEC:
            vec = FvrangeVec.unpack(data)
            _check_vec(vec)
            if not vec.starts or not _few(space, vec.lengths):
                return None
            return self._vec_at_once(space, vec, tid)
        return None

    def _vec_at_once(self, space: AddressSpace, vec: FvrangeVec, tid: int) -> bytes | None:
        expected: list[int] = []
        answer = b""
        if vec.mode == ioctls.VRANGE_NONVOLATILE and space.volatility.purged:
            # Made before: there may be no memory for it when what it tells has been forgotten.
            expected = list(map(space.purged_bytes, vec.starts, vec.lengths))
            answer = vec._replace(purged=expected).pack()
        purged = self._change_at_once(space, vec, tid)
        if purged and purged == expected:
            return answer
        return vec._replace(purged=purged).pack() if purged else None

    def _free_of_purges(self, handle: Handle) -> AddressSpace | None:
        """What was opened, if it is a file and no purge of it is under way or to be expected."""
        space = handle.inode.space
        if space is None or space.volatility.drains or self._aids.may_wait:
            return None
        return space

    def _change_at_once(self, space: AddressSpace, asked: FvrangeVec, tid: int) -> list[int]:
        """Mark or unmark; the bytes of each span found purged. Empty if that has to wait."""
        starts, lengths = asked.starts, asked.lengths
        self._addressed.catch_up()
        if asked.mode == ioctls.VRANGE_VOLATILE:
            space.require_honoured(asked.behavior)
            purged = space.mark_many(starts, lengths, asked.behavior)
        elif space.volatility.purged and any(map(space.zeroed_by_unmark, starts, lengths)):
            return []
        else:
            purged = space.unmark_many(starts, lengths)
        self._record(space, asked, purged, tid)
        self._direct.marked()
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
            vec = FvrangeVec.unpack(data)
            _check_vec(vec)
            found = await self._change(space, vec, tid)
            return vec._replace(purged=found).pack()
        args = FvrangeArgs.unpack(data)
        if command == ioctls.FVRANGE_IOC_MAP:
            return (await self._map(space, args)).pack()
        match command:
            case ioctls.FVRANGE_IOC_FVRANGE:
                check_range(args.start, args.length, args.mode, args.behavior)
                asked = FvrangeVec(args.mode, args.behavior, [args.start], [args.length])
                (purged,) = await self._change(space, asked, tid)
            case ioctls.FVRANGE_IOC_PURGE:
                purged = await self._purge(space, args)
            case _:
                check_range(args.start, args.length, args.mode, args.behavior)
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

    async def _change(self, space: AddressSpace, asked: FvrangeVec, tid: int) -> list[int]:
        """Mark or unmark, all or nothing; the bytes of each span found purged.

        At one moment, unless they meet thousands of ranges.
        """
        parts = [(space, span) for span in zip(asked.starts, asked.lengths, strict=True)]
        is_mark = asked.mode == ioctls.VRANGE_VOLATILE
        if is_mark:
            space.require_honoured(asked.behavior)
            purged = await self._purges.mark(parts, asked.behavior)
        else:
            purged = await self._purges.unmark(parts)
        if parts:
            self._record(space, asked, purged, tid)
        return await self._aids.after_mark(parts, purged) if is_mark else purged

    def _record(self, space: AddressSpace, asked: FvrangeVec, purged: list[int], tid: int) -> None:
        """Without memory the event is left out: whoever asked has yet to be told."""
        try:
            record, starts, lengths = self._journal.record, asked.starts, asked.lengths
            if asked.mode == ioctls.VRANGE_VOLATILE:
                record("mark", space, starts, lengths, behavior=asked.behavior, tid=tid)
            else:
                record("unmark", space, starts, lengths, purged=sum(purged), tid=tid)
        except MemoryError:
            pass

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
