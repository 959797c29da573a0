"""Keeps votes in step with those who cast them: fork copies them, exec and exit end them."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable

import trio

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.errors import log_failure
from vfs_volatile.fs.orphans import Look, Orphans
from vfs_volatile.processes.connector import Event, Exec, Fork, ProcessEvents, ThreadEnd
from vfs_volatile.processes.identity import ProcessId, look_at
from vfs_volatile.processes.kernel import Kernel
from vfs_volatile.processes.openers import boot_ticks
from vfs_volatile.processes.roll import Roll

log = logging.getLogger(__name__)

_PURGE_SECONDS = 0.01
"""Between two looks whether a purge has ended during which a voter did."""

_AGAIN_SECONDS = 0.5
"""Until the next try, after one that failed."""


class Electorate:
    """The processes that have cast votes, and the files they cast them on.

    With ``events`` each fork, exec and exit is known in its order. Without, a child is recognised
    when its mappings are looked at, and takes its parent's votes only if it is younger than all of
    them: a vote that may be younger than the child is not taken for the child's.
    """

    def __init__(self, events: ProcessEvents | None, look: Look = lambda: None) -> None:
        # -- dependencies --
        self._events = events
        self._roll = Roll(Kernel())
        """Of all voters."""
        # -- mutable --
        self._complete = events is not None
        """Has every birth been seen? No more once the kernel has dropped events."""
        self._untaken: deque[Event] = deque()
        """Events that have come: the first could not be taken in, if there are any."""
        self._may_have_ended = False
        """Has a voter perhaps ended, and has not been looked at since?"""
        self._voters: dict[ProcessId, set[AddressSpace]] = {}
        self.orphans = Orphans(look)
        # INVARIANT: how many voters of a file have this stack; there is no 0.
        self._kin: Counter[tuple[AddressSpace, int]] = Counter()
        self._by_pid: dict[int, ProcessId] = {}
        """The voters that are alive, as far as is known."""
        self._last_vote: dict[ProcessId, int] = {}
        """When a voter voted last, in clock ticks since boot."""
        self._unswept: set[AddressSpace] = set()
        """Files where votes have ended, and perhaps not yet all that they made volatile."""
        self._left_behind = trio.Event()
        """Set when there are some."""

    @property
    def view(self) -> str:
        """How processes are followed, for whoever asks."""
        return "connector" if self._events else "scan"

    def voted(self, process: ProcessId, space: AddressSpace, ticks: int) -> None:
        """``process`` votes on ``space`` now; call catch_up() before it does."""
        spaces = self._voters.setdefault(process, set())
        if space not in spaces:
            spaces.add(space)
            self._kin[space, process.stack] += 1
            self.orphans.votes(space, process.stack)
        self._roll.add(process)
        self._by_pid[process.pid] = process
        self._last_vote[process] = ticks

    def knows(self, process: ProcessId) -> bool:
        """Has it voted, and has neither ended nor run another program since, by what is known?"""
        return self._by_pid.get(process.pid) == process

    def catch_up(self) -> None:
        """Take in all that has happened to voters until now. Raises OSError."""
        self._take_in_events()
        ended = self._roll.call()
        self._may_have_ended = False
        if ended:
            self._take_in_events()  # what they did before they ended: their children inherit
        for process in ended:
            self._drop(process)
        self._sweep()

    def recognise(self, space: AddressSpace, processes: Iterable[object]) -> None:
        """Give voters' children that were born unseen the votes they inherited."""
        if self._complete:
            return
        for child in processes:
            if isinstance(child, ProcessId) and space not in self._voters.get(child, ()):
                self._recognise(space, child)

    def forget(self, space: AddressSpace) -> None:
        """A file is deleted: its voters may live long."""
        for process in self._voters.keys() & space.ballots.keys():
            if space in self._voters[process]:
                self._voters[process].remove(space)
                self._lost_one(space, process)
        self.orphans.forget(space)
        self._unswept.discard(space)

    async def follow(self) -> None:
        """Take events in as they come, until cancelled."""
        if self._events is None:
            await trio.sleep_forever()
        while self._events is not None:
            if not self._untaken and not self._may_have_ended:
                await trio.lowlevel.wait_readable(self._events.socket)
            try:
                self._take_in_events()
                if self._may_have_ended:
                    self.catch_up()
            except Exception as error:  # whoever votes meanwhile is refused
                log_failure(log, "following processes", error)
                await trio.sleep(_AGAIN_SECONDS)

    async def sweep(self) -> None:
        """End what votes have left behind that ended, in steps, until cancelled."""
        while True:
            await self._left_behind.wait()
            try:
                self._sweep()
            except Exception as error:  # what is left is not volatile
                log_failure(log, "ending votes", error)
                await trio.sleep(_AGAIN_SECONDS)
            if any(space.votes.forsaken for space in self._unswept):
                await trio.lowlevel.checkpoint()
            elif self._unswept:
                await trio.sleep(_PURGE_SECONDS)
            else:
                self._left_behind = trio.Event()

    # ---- helpers ----

    def _sweep(self) -> None:
        """The next step: AT_ONCE ranges or so."""
        left = AT_ONCE
        for space in list(self._unswept):
            left -= space.votes.sweep(left)
            if not space.votes.unfinished:
                self._unswept.discard(space)
            if left <= 0:
                return

    def _take_in_events(self) -> None:
        """Take in the events that are pending, in their order. Raises OSError."""
        if self._events is None:
            return
        try:
            self._untaken += self._events.pending()
        except MemoryError:
            self._events.overrun = True  # what was received may be lost
            raise
        self._complete = self._complete and not self._events.overrun
        self._may_have_ended |= self._events.overrun
        while self._untaken:
            self._handle(self._untaken[0])
            self._untaken.popleft()

    def _handle(self, event: Event) -> None:
        match event:
            case Fork(parent, child) if parent in self._by_pid:
                # As it was at birth: if it has run another program since, it is not this one.
                # If it has gone already, its own children still inherit from it.
                voter = self._by_pid[parent]
                born = look_at(child)
                self._inherit(voter, ProcessId(child, born.id.born if born else 0, voter.stack))
            case Exec(pid) if pid in self._by_pid:
                self._drop(self._by_pid[pid])
            case ThreadEnd(pid) if pid in self._by_pid:
                self._may_have_ended = True

    def _recognise(self, space: AddressSpace, child: ProcessId) -> None:
        """fork(2) copies the stack, so a process with a voter's stack descends from it.

        What it agreed to is certain only if its parent lives and has not voted since; what it holds
        may be anything that one of its kin held.
        """
        looked = look_at(child.pid)
        parent = self._by_pid.get(looked.parent) if looked else None
        if parent and parent.stack == child.stack and child.born > self._last_vote[parent]:
            self._inherit(parent, child)
        elif space.votes.inherit_holds(child.stack, child):
            self.voted(child, space, boot_ticks())

    def _inherit(self, parent: ProcessId, child: ProcessId) -> None:
        for space in self._voters[parent]:
            space.votes.inherit(parent, child)
            self.voted(child, space, self._last_vote[parent])

    def _drop(self, process: ProcessId) -> None:
        """It is on the roll until all is done: without memory it is called once more."""
        spaces = self._voters.get(process, set())
        while spaces:
            space = next(iter(spaces))
            self._unswept.add(space)
            space.votes.drop(process)
            spaces.remove(space)
            self._lost_one(space, process)
            if space.votes.unfinished:
                self._left_behind.set()
            else:
                self._unswept.remove(space)
        self._voters.pop(process, None)
        if self._by_pid.get(process.pid) == process:
            del self._by_pid[process.pid]
        self._last_vote.pop(process, None)
        self._roll.remove(process)

    def _lost_one(self, space: AddressSpace, process: ProcessId) -> None:
        """A voter of a file has gone."""
        kin = space, process.stack
        self._kin[kin] -= 1
        last = not self._kin[kin]
        if last:
            del self._kin[kin]
        if not self._complete:
            self.orphans.add(space, process, last=last)
        elif last:
            space.votes.forget_kin(process.stack)
