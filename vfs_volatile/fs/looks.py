"""Looks at the mappings of all processes, to learn who forbids a purge."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping

import trio
from pyroaring import BitMap

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.consent import Mapper, Objection, objections
from vfs_volatile.core.durations import Durations
from vfs_volatile.core.pages import page_set
from vfs_volatile.core.semantics import Semantics
from vfs_volatile.errors import REFUSALS
from vfs_volatile.fs.electorate import Electorate
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.threads import NoThreadError, Standby, run_in_thread
from vfs_volatile.native.shortage import require_spare
from vfs_volatile.processes.mappings import Mappers, MappingScanner, Opened

HUNG_SECONDS = 3.0
"""How long a process may keep a look at it waiting before it counts as unreadable."""
_MORE_SECONDS = 0.1
"""As long for each after the first: many that do so delay a purge hardly more than one."""
_MOST_LOOKS = 200
"""Threads: one for each look under way, and for each process that one waits for in vain."""


class Looks:
    """What the rules say of those who map a file, or have voted on it."""

    def __init__(
        self,
        inodes: Mapping[int, Inode],
        rules: Semantics,
        scanner: MappingScanner,
        electorate: Electorate,
        standby: Standby,
    ) -> None:
        """``standby``: of its own, a process can make it wait for as long as it likes."""
        # -- dependencies --
        self._inodes = inodes
        self._rules = rules
        self._scanner = scanner
        self._electorate = electorate
        self._standby = standby
        # -- mutable --
        self._turn = trio.Lock()
        """To look in that thread; nobody who has it waits for one process longer than he may."""
        self._threads = trio.CapacityLimiter(_MOST_LOOKS)
        """Of their own, so that the kernel can be told of a purge whatever looks wait for."""
        self.durations = Durations()
        self.last_seconds = 0.0
        self.asked = 0
        self.remembered = 0
        """How many processes all looks asked, and how many slept since they had been asked."""
        self.unreadable: list[int] = []
        """Processes whose mappings could not be read at the last look."""

    async def objections(self, spaces: Collection[AddressSpace]) -> dict[int, list[Objection]]:
        """Inode -> why pages may not be purged, for who mapped them when this was called.

        Only of files that are open: nobody has others mapped.
        """
        opened = {
            space.ino: inode.openers
            for space in spaces
            if (inode := self._inodes.get(space.ino)) is not None and inode.openers is not None
        }
        found = Mappers()
        if self._rules.looks_at_mappers and opened:
            started = trio.current_time()
            found = await self._look(opened)
            self.last_seconds = trio.current_time() - started
            self.durations.add(self.last_seconds)
            self.asked += found.asked
            self.remembered += found.remembered
            self.unreadable = sorted(found.unreadable)
        self._electorate.catch_up()
        return {space.ino: self._objections(space, found.of(space.ino)) for space in spaces}

    async def _look(self, opened: Opened) -> Mappers:
        """Look again, without them, as long as there are processes that keep it waiting.

        Raises OSError if there can be no thread for it.
        """
        patience = HUNG_SECONDS
        refused: OSError | MemoryError | None = None
        while True:
            found, done = Mappers(), False

            async def scan(found: Mappers = found) -> None:
                nonlocal done, refused
                try:
                    await self._scan(opened, found)
                    done = True
                except REFUSALS as error:
                    refused = error  # raised below: a nursery would put it in a group
                nursery.cancel_scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(scan)
                self._scanner.skip(await _hung(found, patience))
                nursery.cancel_scope.cancel()
            if refused is not None:
                raise refused
            if done:
                return found
            patience = _MORE_SECONDS

    async def _scan(self, opened: Opened, found: Mappers) -> None:
        """In a thread of its own if there can be one."""
        scan = self._scanner.scan
        try:
            await run_in_thread(scan, opened, found, abandon_on_cancel=True, limiter=self._threads)
        except NoThreadError:
            async with self._turn:
                if self._standby.is_busy:
                    raise  # with a look that was given up
                await self._standby.run(scan, opened, found, abandon_on_cancel=True)

    def _objections(self, space: AddressSpace, mappers: list[Mapper]) -> list[Objection]:
        if not mappers and not space.ballots:
            return []
        inode = self._inodes.get(space.ino)
        span = space.span_of(0, 0)
        if self._rules.votes:
            self._electorate.recognise(space, (mapper.process for mapper in mappers))
        found = objections(
            self._rules,
            page_set(span),
            space.volatility.marked(span) if self._rules.votes else BitMap(),
            mappers,
            space.ballots,
            unlinked=inode is not None and inode.nlink == 0,
        )
        return [objection for objection in _while_there_is_memory(found) if objection.pages]


def _while_there_is_memory(found: Iterable[Objection]) -> Iterator[Objection]:
    """Of each mapper some pages: there may be very many. Raises MemoryError."""
    for objection in found:
        yield objection
        require_spare()


async def _hung(found: Mappers, seconds: float) -> int:
    """Wait until a look has been waiting for one process for so long; which."""
    while True:
        await trio.sleep(seconds / 2)
        if found.asking is not None and time.monotonic() - found.asking[1] > seconds:
            return found.asking[0]
