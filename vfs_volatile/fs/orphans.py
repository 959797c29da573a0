"""Forgets what kin has held of which nobody lives, where births are not seen.

As long as a process lives that has a voter's stack, it may have been born by one, or have a child
that was, and then it holds what its kin has held. When all of them have gone, seen or unseen, none
can be born any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.errors import log_failure
from vfs_volatile.fs.threads import run_in_thread
from vfs_volatile.processes.identity import ProcessId
from vfs_volatile.processes.kin import Living

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 10.0
"""Between two looks at all processes; and at least a hundred times what one takes."""

Look = Callable[[], Living | None]
"""At all processes that live; None if they cannot be told now. Raises OSError."""


class Orphans:
    """Kin, by file and stack, that has voted and of which no voter is left."""

    def __init__(self, look: Look) -> None:
        # -- dependencies --
        self._look = look
        # -- mutable --
        self._eldest: dict[AddressSpace, dict[int, int]] = {}
        """By stack, when the eldest was born of the voters that have gone."""
        self._left: dict[AddressSpace, set[int]] = {}
        """Of those, the stacks that no voter has."""
        self._some = trio.Event()
        """Set when there are some."""

    def __len__(self) -> int:
        return sum(map(len, self._left.values()))

    def add(self, space: AddressSpace, gone: ProcessId, *, last: bool) -> None:
        """A voter of a file has gone; was it the last with its stack?"""
        eldest = self._eldest.setdefault(space, {})
        eldest[gone.stack] = min(gone.born, eldest.get(gone.stack, gone.born))
        if last:
            self._left.setdefault(space, set()).add(gone.stack)
            self._some.set()

    def votes(self, space: AddressSpace, stack: int) -> None:
        """There is a voter with this stack."""
        if space in self._left:
            self._left[space].discard(stack)

    def forget(self, space: AddressSpace) -> None:
        """A file is deleted."""
        self._eldest.pop(space, None)
        self._left.pop(space, None)

    async def follow(self) -> None:
        """Look now and then while there are some, until cancelled."""
        while True:
            await self._some.wait()
            started = trio.current_time()
            try:
                await self.end_gone()
            except Exception as error:  # a bug here must not take the files of the mount with it
                log_failure(log, "looking for orphans", error)
            took = trio.current_time() - started
            if not len(self):
                self._some = trio.Event()
            await trio.sleep(max(_PAUSE_SECONDS, 100 * took))

    async def end_gone(self) -> None:
        """Forget all of which nobody lives. Raises OSError."""
        asked = {space: set(stacks) for space, stacks in self._left.items()}
        living = await run_in_thread(self._look)
        if living is None:
            return
        for space, stacks in asked.items():
            # Who has voted in the meantime is no orphan any more, and may have children.
            for stack in stacks & self._left.get(space, set()):
                if not living.may_have_child(stack, self._eldest[space][stack]):
                    space.votes.forget_kin(stack)
                    self._left[space].discard(stack)
                    del self._eldest[space][stack]
