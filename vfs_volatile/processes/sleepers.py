"""What sleeping processes have mapped: what they had when they were last asked.

Only a running thread maps, unmaps, runs another program or makes a thread, and in its own memory
alone. So a process none of whose threads has run since it was asked need not be asked again, if no
other process uses its memory. docs/concurrency.md has the argument.
"""

from __future__ import annotations

from vfs_volatile.processes.folding import Mapped
from vfs_volatile.processes.kernel import Kernel
from vfs_volatile.processes.sharing import UncertainError, not_sharing

_MOST_THREADS = 16
_MOST_BYTES = 10 << 20
"""Of memory, for what all processes have mapped."""
_PASSES = 5


class _Sleeper:
    """A process that is followed: by its first thread, and by all once they are found asleep."""

    __slots__ = ("alone", "mapped", "pid", "turns")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.turns: list[tuple[int, bytes]] = []
        """Of each thread the descriptor and what it said; the first thread first."""
        # INVARIANT: at some moment since its ``turns`` were read all its threads were among them
        # and asleep, and nobody shared its memory. So it is until one of the ``turns`` differs.
        self.alone = False
        # INVARIANT: set only if ``alone``, and from an answer given since that moment.
        self.mapped: Mapped | None = None


class Sleepers:
    """Remembers what processes have mapped while they sleep. Not for two looks at the same time.

    In a look processes are first sought here (:meth:`recall`), and those asked of which nothing is
    known (:meth:`learn`). One that sleeps is asked in two looks: in the first it is seen, in the
    second found asleep and alone before it is asked, so that its answer can be kept.
    """

    def __init__(self, kernel: Kernel, most_files: int) -> None:
        self._kernel = kernel
        self._most_files = most_files
        """How many descriptors may be open. Each takes some 5 KiB in the kernel."""
        self._known: dict[int, _Sleeper] = {}
        self._files = 0
        self._bytes = 0
        """That all that is remembered takes."""

    def recall(self, pids: set[int], seen: set[int]) -> dict[int, Mapped]:
        """What those of ``pids`` have mapped now of which it is known; the others must be asked.

        Once a look for each; ``seen`` are those that were sought before in this look.
        """
        found: dict[int, Mapped] = {}
        asleep: set[int] = set()
        for pid in pids:
            sleeper = self._known.get(pid)
            if sleeper is None:
                self._follow(pid)
            elif not self._slept(sleeper):
                self._start_over(sleeper)
            elif sleeper.mapped is not None:
                found[pid] = sleeper.mapped
            elif not sleeper.alone and self._all_sleep(sleeper):
                asleep.add(pid)
        if asleep:
            self._find_alone(asleep, seen | pids)
        return found

    def will_keep(self, pid: int) -> bool:
        """Is what a process answers now to be told to :meth:`learn`?"""
        sleeper = self._known.get(pid)
        return sleeper is not None and sleeper.alone and self._bytes < _MOST_BYTES

    def learn(self, pid: int, mapped: Mapped) -> None:
        """All that a process has mapped, as it answered after :meth:`recall`.

        If it has run meanwhile, the next look will notice.
        """
        if self._bytes + mapped.size <= _MOST_BYTES:
            self._known[pid].mapped = mapped
            self._bytes += mapped.size

    def retain(self, pids: set[int]) -> None:
        """Forget all processes but these."""
        for pid in self._known.keys() - pids:
            self._forget(self._known[pid])

    # ---- following ----

    def _follow(self, pid: int) -> None:
        sleeper = _Sleeper(pid)
        if self._open(sleeper, pid):
            self._known[pid] = sleeper

    def _open(self, sleeper: _Sleeper, tid: int) -> bool:
        """Follow one thread more, if that can be."""
        if self._files >= self._most_files:
            return False
        try:
            descriptor = self._kernel.open_turns(sleeper.pid, tid)
        except OSError:  # it has ended, or too many files are open
            return False
        self._files += 1
        sleeper.turns.append((descriptor, self._kernel.turns(descriptor)))
        return True

    def _slept(self, sleeper: _Sleeper) -> bool:
        """Has none of the threads that are followed run since what they said?"""
        turns = self._kernel.turns
        for descriptor, before in sleeper.turns:
            if turns(descriptor) != before or not before:
                return False
        return True

    def _start_over(self, sleeper: _Sleeper) -> None:
        """It has run, or may have: follow its first thread from now on.

        Where no more files may be open, one that has slept may have its place.
        """
        self._narrow(sleeper)
        descriptor, _ = sleeper.turns[0]
        sleeper.turns[0] = (descriptor, self._kernel.turns(descriptor))
        if not sleeper.turns[0][1] or self._files >= self._most_files:
            self._forget(sleeper)

    def _narrow(self, sleeper: _Sleeper) -> None:
        """Follow the first thread only."""
        for descriptor, _ in sleeper.turns[1:]:
            self._kernel.close(descriptor)
        self._files -= len(sleeper.turns) - 1
        del sleeper.turns[1:]
        if sleeper.mapped is not None:
            self._bytes -= sleeper.mapped.size
            sleeper.mapped = None
        sleeper.alone = False

    def _forget(self, sleeper: _Sleeper) -> None:
        self._narrow(sleeper)
        self._kernel.close(sleeper.turns[0][0])
        self._files -= 1
        del self._known[sleeper.pid]

    # ---- who sleeps alone ----

    def _all_sleep(self, sleeper: _Sleeper) -> bool:
        """Follow all its threads; do they all sleep, off their run queues?"""
        self._narrow(sleeper)
        pid = sleeper.pid
        try:
            threads = list(self._kernel.threads(pid))
            return (
                len(threads) <= _MOST_THREADS
                and all(self._open(sleeper, tid) for tid in threads[1:])
                and all(self._kernel.is_off_queue(pid, tid) for tid in threads)
            )
        except OSError:
            return False

    def _find_alone(self, asleep: set[int], seen: set[int]) -> None:
        """Mark those of ``asleep`` that sleep alone; follow the others anew."""
        alone = self._alone(asleep, seen)
        for pid in asleep:
            if pid in alone:
                self._known[pid].alone = True
            else:
                self._start_over(self._known[pid])

    def _alone(self, asleep: set[int], seen: set[int]) -> set[int]:
        """Those that have slept until now and share their memory with nobody, as far as is seen.

        Nobody comes to share it while they sleep: that takes a clone(2) by one who uses it. They
        are not compared with those known to be alone: it would have to be one's offspring, and
        these are older than this look, before which the other slept.
        """
        others = seen - {pid for pid, found in self._known.items() if found.alone}
        asleep = {pid for pid in asleep if self._is_whole(pid)}
        for _ in range(_PASSES):
            try:
                no_memory = {pid for pid in asleep if not self._kernel.has_memory(pid, pid)}
                alone = not_sharing(self._kernel, asleep - no_memory, others, seen) | no_memory
            except (OSError, UncertainError):
                alone = set()
            awake = {pid for pid in asleep if not self._slept(self._known[pid])}
            if not awake:
                return alone
            asleep -= awake  # their memory may have changed while it was compared
        return set()

    def _is_whole(self, pid: int) -> bool:
        """Are all threads of a process followed?

        A first thread without memory is a kernel thread if it is the only one; it never maps
        anything before it has run.
        """
        threads = len(self._known[pid].turns)
        try:
            return self._kernel.thread_count(pid) == threads and (
                threads == 1 or self._kernel.has_memory(pid, pid)
            )
        except OSError:
            return False
