"""Files that processes reach without us: giving them to the kernel, and watching what they hold.

A mapping of such a file does not pin the open file that it was made with (backing_file_mmap in
linux/fs/backing-file.c), so the last RELEASE does not tell that nobody has the file mapped: this
is asked of the tmpfs, now and then.
"""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import monotonic

import trio

from vfs_volatile.core.memory import Memory
from vfs_volatile.core.paths import Path, choose_path
from vfs_volatile.errors import (
    REFUSALS,
    SyscallError,
    log_failure,
    refusal,
    refusal_reason,
    refusal_text,
)
from vfs_volatile.fs.inode import Inode
from vfs_volatile.native import shim
from vfs_volatile.store.detached import DetachedTmpfs
from vfs_volatile.units import PAGE_SIZE

log = logging.getLogger(__name__)

_FASTEST = (4 << 30) // PAGE_SIZE
"""Pages a second: a mount that is so many below its budget need not be looked at for a second."""
_LEAST_SECONDS = 0.002
_STILL_SECONDS = 0.05
"""Between two looks at a mount near its budget: while it fills, and while it does not."""
_MOST_SECONDS = 1.0
_MAPPED_SECONDS = 1.0
"""Between two looks whether a closed file is still mapped; at first they come sooner."""

WhenUnmapped = Callable[[Inode], Awaitable[None]]


@dataclass
class _Closed:
    """A file that nobody has open, but perhaps still mapped."""

    inode: Inode
    due: float
    pause: float


class DirectFiles:
    """The files of a mount that take the direct path. ``why_not``: why none can.

    ``forget_attributes(ino)``: the kernel is to ask anew; may not block.
    """

    def __init__(
        self,
        memory: Memory,
        tmpfs: DetachedTmpfs | None,
        why_not: str,
        inodes: Mapping[int, Inode],
        forget_attributes: Callable[[int], None],
    ) -> None:
        # -- dependencies --
        self._memory = memory
        self._tmpfs = tmpfs
        self._inodes = inodes
        self._forget_attributes = forget_attributes
        # -- mutable --
        self._why_not = why_not
        self._failure = ""
        """Why the last file that should have taken the path did not."""
        # INVARIANT: the inodes that are direct and open have an id here.
        self._backing: dict[int, int] = {}
        self._live: dict[int, Inode] = {}
        """By number: those that are open, or perhaps mapped."""
        self._closed: dict[int, _Closed] = {}
        """Those of them that nobody has open."""
        self._stirred = trio.Event()
        self._asleep = False
        self._next_look = 0.0
        self._hurry = trio.Event()
        """Set when the next look is not to wait for its time."""
        self._pause = _LEAST_SECONDS
        self._held = 0
        self._counted_at = -math.inf
        self._refused = False
        """Was the last count refused?"""

    def path_of(self, inode: Inode) -> Path:
        """The path of a regular file, or what it would be if it were opened now."""
        assert inode.space is not None
        path = choose_path(inode.space, why_not=self._reason(), opens=inode.opens)
        if path.direct and inode.space.direct is None and self._failure:
            return Path(direct=False, why=self._failure)
        return path

    def opening(self, inode: Inode, *, new: bool) -> int:
        """``inode`` is about to be opened: the backing id for the kernel; 0 on the cached path.

        ``new``: the kernel does not know it yet. Raises SyscallError if a file that is on the
        direct path cannot be opened.
        """
        space = inode.space
        if space is None:
            return 0
        if space.direct is None:
            path = choose_path(space, why_not=self._reason(), opens=inode.opens)
            if not path.direct or not self._go_direct(inode):
                return 0
        backing = self._backing.get(inode.number)
        if backing is None:
            backing = self._give_to_kernel(inode)
        self._closed.pop(inode.number, None)
        if inode.number not in self._live:
            self._live[inode.number] = inode
            if not new:  # from now on they change without us, and none is trusted any more
                self._forget_attributes(inode.number)
        self._stir()
        return backing

    def closed(self, inode: Inode) -> bool:
        """An open of ``inode`` has ended; is it certain that nobody has it open or mapped?"""
        if inode.opens or inode.number not in self._live:
            return not inode.opens
        # Not at once: the kernel lets go of the file a moment after it has sent RELEASE.
        due = trio.current_time() + _LEAST_SECONDS
        self._closed[inode.number] = _Closed(inode, due, _LEAST_SECONDS)
        if self._next_look > due:
            self._hurry.set()
        return False

    def count(self) -> None:
        """Count what the files hold now; later, if the system refuses it: callers are not told."""
        self._count_if_older(0.0)

    def marked(self) -> None:
        """Ranges were marked or unmarked: whether that is too much, a count of this moment tells.

        Nothing comes or goes by it, so of many marks one in a while is enough.
        """
        self._count_if_older(_LEAST_SECONDS)

    def _count_if_older(self, seconds: float) -> None:
        if self._tmpfs is None or not self._tmpfs.used:
            return
        try:
            if monotonic() - self._counted_at >= seconds:
                self._count(self._tmpfs)
            self._limit(self._tmpfs)
            self._refused = False
        except REFUSALS as error:
            if not self._refused:
                log.warning("files are counted later: %s", refusal_text(error))
            self._refused = True

    def _count(self, tmpfs: DetachedTmpfs) -> None:
        held = tmpfs.held_pages()
        if held != self._held:
            self._pause = _LEAST_SECONDS
        self._held = held
        self._memory.counted(held)
        self._counted_at = monotonic()

    def _limit(self, tmpfs: DetachedTmpfs) -> None:
        # Volatile pages may give way, so a writer may come as far above the size.
        slack = self._memory.slack if self._memory.queue else 0
        elsewhere = self._memory.seen - self._memory.direct
        tmpfs.limit(self._memory.size_pages + slack - elsewhere)

    async def watch(self, when_unmapped: WhenUnmapped) -> None:
        """Count while somebody may store, and notice when a file is no longer mapped."""
        while True:
            if not self._live:
                await self._sleep()
            try:
                for inode in self._look_at_closed():
                    await when_unmapped(inode)
                pause = self._look()
                self._hurry = trio.Event()
            except Exception as error:  # a bug here must not take the files of the mount with it
                log_failure(log, "looking at files", error)
                pause = _MOST_SECONDS
            self._next_look = trio.current_time() + pause
            with trio.move_on_after(pause):
                await self._hurry.wait()

    # ---- helpers ----

    async def _sleep(self) -> None:
        self._stirred = trio.Event()
        self._asleep = True
        try:
            await self._stirred.wait()
        finally:
            self._asleep = False

    def _reason(self) -> str:
        if not self._why_not and not shim.has_passthrough():
            self._why_not = "this kernel has no FUSE passthrough (CONFIG_FUSE_PASSTHROUGH, 6.9)"
        return self._why_not

    def _go_direct(self, inode: Inode) -> bool:
        assert self._tmpfs is not None
        assert inode.space is not None
        try:
            file = self._tmpfs.make_file(inode.number)
        except REFUSALS as error:
            self._failure = f"no file could be made for it: {refusal_reason(error)}"
            return False
        try:
            backing = shim.backing_open(file.fileno())
        except REFUSALS as error:
            file.close()
            if isinstance(error, PermissionError):
                self._why_not = "the daemon lacks CAP_SYS_ADMIN on the machine, outside containers"
            self._failure = f"the kernel does not take it: {refusal_reason(error)}"
            return False
        try:
            inode.space.go_direct(file)
        except REFUSALS as error:
            shim.backing_close(backing)
            file.close()
            self._failure = f"its size cannot be set: {refusal_reason(error)}"
            return False
        self._backing[inode.number] = backing
        inode.file = file
        inode.push_times()
        return True

    def _give_to_kernel(self, inode: Inode) -> int:
        assert inode.file is not None
        try:
            backing = shim.backing_open(inode.file.fileno())
        except OSError as error:
            raise SyscallError(refusal(error) or errno.EIO) from error
        self._backing[inode.number] = backing
        return backing

    def _take_from_kernel(self, number: int) -> None:
        """Nobody has it open. It is given anew when it is opened."""
        backing = self._backing.pop(number, None)
        if backing is not None:
            shim.backing_close(backing)

    def _at_rest(self, inode: Inode) -> bool:
        """Nobody has it open. Nobody mapped either? Then nothing of it changes unseen any more."""
        assert inode.space is not None
        assert inode.file is not None
        self._take_from_kernel(inode.number)
        if inode.file.in_use():
            return False
        inode.space.look_for_refilled()
        inode.space.keeps_pages = False
        inode.at_rest()
        del self._live[inode.number], self._closed[inode.number]
        return True

    def _look_at_closed(self) -> list[Inode]:
        """The files of which it has turned out that nobody has them mapped any more."""
        now = trio.current_time()
        unmapped = []
        for number in [number for number in self._closed if number not in self._inodes]:
            self._take_from_kernel(number)
            del self._closed[number], self._live[number]
        for closed in [closed for closed in self._closed.values() if closed.due <= now]:
            if self._at_rest(closed.inode):
                unmapped.append(closed.inode)
            else:
                closed.pause = min(2 * closed.pause, _MAPPED_SECONDS)
                closed.due = now + closed.pause
        return unmapped

    def _look(self) -> float:
        """Count, find what there is to purge; the seconds until the next look."""
        self._pause = min(2 * self._pause, _STILL_SECONDS)
        self.count()
        memory = self._memory
        if memory.excess:
            for inode in self._live.values():
                if inode.space is not None:
                    inode.space.look_for_refilled()
        far = (memory.budget_pages - memory.resident) / _FASTEST
        pause = max(self._pause, min(far, _MOST_SECONDS))
        if self._closed:
            due = min(closed.due for closed in self._closed.values())
            pause = min(pause, max(_LEAST_SECONDS, due - trio.current_time()))
        return pause

    def _stir(self) -> None:
        """Wake the watch if it sleeps until a file is opened; else it looks in time."""
        if self._asleep:
            self._stirred.set()
