"""What is left of a file that neither a name nor the kernel refers to any more."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable

import trio

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.errors import refusal_text
from vfs_volatile.fs.electorate import Electorate
from vfs_volatile.store.arena import CHUNKS_AT_ONCE, Arena
from vfs_volatile.store.detached import DetachedTmpfs, in_use

log = logging.getLogger(__name__)

_TRIES = 20
_TRY_SECONDS = 0.05
"""DirectFiles takes a file from the kernel within a second."""
_AGAIN_SECONDS = 0.5
"""After there was no memory for it."""


def clear_away(electorate: Electorate, space: AddressSpace) -> None:
    """Give back what it holds: at once, or in the background if it has very many ranges, or if
    there is no memory for it now.
    """
    electorate.forget(space)
    if len(space.volatility.ranges) > AT_ONCE or not _close(space):
        trio.lowlevel.spawn_system_task(_clear_away_in_steps, space)


def _close(space: AddressSpace) -> bool:
    """Whoever deletes a file is not told what becomes of its memory. False: no memory for it."""
    try:
        space.close()
    except MemoryError:
        return False
    except OSError as error:
        log.warning("a deleted file leaves something behind: %s", refusal_text(error))
    return True


class InBackground:
    """Does what was left undone, in a task."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        """``work`` comes to an end when nothing is left."""
        self._work = work
        self._busy = False

    def start(self) -> None:
        """Something was left. Without memory for a task it is done with the next."""
        if not self._busy:
            try:
                trio.lowlevel.spawn_system_task(self._run)
                self._busy = True
            except MemoryError:
                pass

    async def _run(self) -> None:
        try:
            await self._work()
        except Exception:  # would end the daemon, and with it every file
            log.exception("memory that no file uses was not freed")
        finally:
            self._busy = False


async def free_chunks(arena: Arena) -> None:
    """What chunks of an arena hold that no file uses."""
    while arena.free_some(CHUNKS_AT_ONCE):
        await trio.lowlevel.checkpoint()


async def free_removed(tmpfs: DetachedTmpfs) -> None:
    """What large files of the direct path hold that were deleted."""
    while tmpfs.left:
        fd = tmpfs.left.pop()
        try:
            await _free_one(tmpfs, fd)
        finally:
            os.close(fd)


async def _free_one(tmpfs: DetachedTmpfs, fd: int) -> None:
    """Whoever has it mapped keeps it, and frees it in the end."""
    for _ in range(_TRIES):  # the kernel has it until we are told that it is closed, or longer
        if not in_use(fd):
            while tmpfs.free_some(fd):
                await trio.lowlevel.checkpoint()
            return
        await trio.sleep(_TRY_SECONDS)


async def _clear_away_in_steps(space: AddressSpace) -> None:
    """However long there is no memory for it: nobody would do it later."""
    done = False
    while not done:
        try:
            with contextlib.suppress(OSError):  # it is told, if what is left cannot be freed either
                for _ in space.truncating(0):
                    await trio.lowlevel.checkpoint()
            done = _close(space)
        except MemoryError:
            pass
        except Exception:  # would end the daemon, and with it every file
            log.exception("a deleted file was not cleared away")
            return
        if not done:
            await trio.sleep(_AGAIN_SECONDS)
