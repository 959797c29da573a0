"""mvrange: from addresses of the caller to bytes of files, then as fvrange."""

from __future__ import annotations

import errno
from collections.abc import Mapping

import trio

from vfs_volatile.abi.ioctls import VRANGE_VOLATILE, FvrangeArgs
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.byte_spans import ByteSpan
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.core.semantics import Semantics
from vfs_volatile.core.telling import Telling
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.aids import DebugAids
from vfs_volatile.fs.electorate import Electorate
from vfs_volatile.fs.inode import Handle, Inode
from vfs_volatile.fs.journal import Journal
from vfs_volatile.fs.parts import Part, pages_of_each, require_to_end, take
from vfs_volatile.fs.purges import Purges
from vfs_volatile.fs.threads import run_in_thread
from vfs_volatile.native.requests import will_be_answered
from vfs_volatile.native.shortage import require_memory, require_spare
from vfs_volatile.processes.identity import ProcessId, identify, process_of_thread
from vfs_volatile.processes.maps import OwnMount, Piece, parse_maps, pieces_at, read_maps
from vfs_volatile.processes.openers import boot_ticks

_MOST_CALLERS = 200
"""Threads that look at the callers."""


class Addressed:
    """The call by address: it changes the state of the files, or casts votes of the caller."""

    def __init__(
        self,
        mount: OwnMount,
        rules: Semantics,
        inodes: Mapping[int, Inode],
        purges: Purges,
        electorate: Electorate,
        journal: Journal,
        aids: DebugAids,
    ) -> None:
        self._mount = mount
        self._rules = rules
        self._inodes = inodes
        self._purges = purges
        self._electorate = electorate
        self._journal = journal
        self._threads = trio.CapacityLimiter(_MOST_CALLERS)
        """Of their own: a caller can make one wait for as long as it likes."""
        self._aids = aids

    async def mvrange(self, handle: Handle, args: FvrangeArgs, tid: int) -> int:
        """Mark or unmark the files under the addresses of thread ``tid``, all or nothing.

        Returns the bytes found purged. Raises SyscallError: ENOMEM (a part is not mapped),
        EINVAL (memory that is no mapping of this mount, or of a kind that the rules refuse),
        EACCES (a file that is neither the handle's own nor mapped writable), ESRCH and EPERM
        (the caller cannot be looked at).
        """
        if not args.length:
            return 0  # as madvise(2)
        # In a thread: this waits for the mmap lock of the caller's process.
        process, pieces = await run_in_thread(
            _asked, tid, args.start, args.length, abandon_on_cancel=True, limiter=self._threads
        )
        parts = []
        for number, piece in enumerate(pieces, 1):
            parts.append(self._part(handle, piece))
            if number % AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
                require_spare()
        if args.mode == VRANGE_VOLATILE:
            for space, _ in parts:
                space.require_honoured(args.behavior)
        if self._rules.votes:
            purged = await self._vote(process, parts, args)
        elif args.mode == VRANGE_VOLATILE:
            purged = await self._purges.mark(parts, args.behavior)
        else:
            purged = await self._purges.unmark(parts)
        self._record(parts, args, purged, tid)
        if args.mode == VRANGE_VOLATILE:
            purged = await self._aids.after_mark(parts, purged)
        return sum(purged)

    def catch_up(self) -> None:
        """Let votes end whose processes have ended, before somebody asks for the state."""
        if self._rules.votes:
            self._electorate.catch_up()

    async def _vote(self, process: ProcessId, parts: list[Part], args: FvrangeArgs) -> list[int]:
        """Cast votes on ``parts``; the bytes of each that were found purged.

        At one moment, unless they meet or make very many ranges.
        """
        spaces = {space for space, _ in parts}
        if args.mode == VRANGE_VOLATILE:
            return await self._agree(process, parts, spaces, args.behavior)
        require_to_end(parts)
        telling = Telling(parts)
        again = False
        async for batch in self._purges.settled(telling):
            self._comes_to_vote(process, spaces, again=again)
            again = True
            for space, span in batch:
                space.votes.clean_for_hold(*span)
            for space, pages in pages_of_each(batch).items():
                space.votes.hold_intact(process, pages, kin=process.stack)
        for _ in telling.count(process):
            await trio.lowlevel.checkpoint()
        await self._purges.wait_until_drained(telling.pages, telling.draining)
        self._comes_to_vote(process, spaces, again=again)
        will_be_answered()
        return telling.hold(process, kin=process.stack)

    async def _agree(
        self, process: ProcessId, parts: list[Part], spaces: set[AddressSpace], behavior: int
    ) -> list[int]:
        self._comes_to_vote(process, spaces)
        return await take(
            parts,
            lambda space, span: space.votes.agreeing(process, *span, behavior),
            lambda: self._next_step(process, spaces),
        )

    async def _next_step(self, process: ProcessId, spaces: set[AddressSpace]) -> None:
        await trio.lowlevel.checkpoint()
        require_memory()
        self._comes_to_vote(process, spaces, again=True)

    def _comes_to_vote(
        self, process: ProcessId, spaces: set[AddressSpace], *, again: bool = False
    ) -> None:
        """Call it just before votes on ``spaces``, which are all cast before the next await.

        Raises SyscallError(ESRCH) if who began has ended since.
        """
        self._electorate.catch_up()  # a child born before these votes does not inherit them
        if again and not self._electorate.knows(process):
            raise SyscallError(errno.ESRCH)
        for space in spaces:
            self._electorate.recognise(space, [process])
            self._electorate.voted(process, space, boot_ticks())

    def _record(self, parts: list[Part], args: FvrangeArgs, purged: list[int], tid: int) -> None:
        """One event for each file: there may be tens of thousands of mappings."""
        spans: dict[AddressSpace, list[ByteSpan]] = {}
        lost: dict[AddressSpace, int] = {}
        for (space, span), found in zip(parts, purged, strict=True):
            spans.setdefault(space, []).append(span)
            lost[space] = lost.get(space, 0) + found
        vote = {"vote": True} if self._rules.votes else {}
        for space, of_it in spans.items():
            starts, lengths = zip(*of_it, strict=True)
            if args.mode == VRANGE_VOLATILE:
                details = {"behavior": args.behavior, "tid": tid}
                self._journal.record("mark", space, starts, lengths, **details, **vote)
            else:
                self._journal.record(
                    "unmark", space, starts, lengths, purged=lost[space], tid=tid, **vote
                )

    def _part(self, handle: Handle, piece: Piece) -> Part:
        """The bytes that ``piece`` maps, if the caller may mark them."""
        mapping = piece.mapping
        inode = self._inodes.get(mapping.ino)
        if mapping.device != self._mount.device or inode is None or inode.space is None:
            raise SyscallError(errno.EINVAL)
        if self._rules.mvrange_refused(private=not mapping.shared):
            raise SyscallError(errno.EINVAL)
        # One may store to a private mapping of a file that one may only read.
        if inode is not handle.inode and not (mapping.shared and mapping.writable):
            raise SyscallError(errno.EACCES)
        return inode.space, (piece.start, piece.length)


def _asked(tid: int, start: int, length: int) -> tuple[ProcessId, list[Piece]]:
    """The process of thread ``tid``, and what these addresses mean in it. Raises SyscallError."""
    try:
        pid = process_of_thread(tid)
        process = identify(pid) if pid else None
        if pid is None or process is None:
            raise SyscallError(errno.ESRCH)
        return process, pieces_at(parse_maps(read_maps(tid)), start, length)
    except (FileNotFoundError, ProcessLookupError):
        raise SyscallError(errno.ESRCH) from None
    except PermissionError:
        raise SyscallError(errno.EPERM) from None
