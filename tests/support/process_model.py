"""Simulated processes that may run between any two calls to their kernel.

They obey what processes/sleepers.py relies on: a thread that was off its run queue is counted as
switched in before it does anything, and only running threads change memory, in their own alone.
Pids are used again soon, but not within a look: the kernel goes through all before it does.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.mappings import columns, mapping
from vfs_volatile.processes.identity import ProcessId
from vfs_volatile.processes.kernel import COMES_AFTER, COMES_BEFORE, SAME_MEMORY, Kernel
from vfs_volatile.processes.maps import Columns

INO = 7
_PIDS = range(10**8, 10**8 + 1000)
"""None is that of the test's own process."""
_MOST_PROCESSES = 8
_MOST_THREADS = 3
_PACES = (0.0, 0.0, 0.02, 0.3)
_CHANGES_OF_PACE = 0.01
"""The probability that the pace changes at a call."""


@dataclass(eq=False)
class Memory:
    """An mm; ``number`` is its place in the kernel's order."""

    number: int
    private: set[int] = field(default_factory=set)
    """Pages of the file mapped private. Each is mapped once and after that only inherited."""


@dataclass(eq=False)
class Task:
    memory: Memory | None
    turns: int = 1
    running: bool = True
    """On a run queue."""
    # Nanoseconds run and waited, which are never those of another thread.
    time: int = field(default_factory=itertools.count().__next__)
    lender: Task | None = None
    """Who waits in vfork(2) for this one to run another program, or end."""


@dataclass(eq=False)
class Number:
    """A struct pid: what a descriptor means. It outlives its task and is never used again."""

    value: int
    task: Task | None


@dataclass(eq=False)
class Process:
    threads: list[Number]
    """The first is the first thread, which stays as a zombie until all have ended."""

    @property
    def living(self) -> list[Number]:
        return [number for number in self.threads if number.task and number.task.memory]


class World(Kernel):
    """The processes, and their kernel."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__(self._ask)
        self._dice = dice
        self._pace = 0.0
        """How probable it is that something happens before a call is answered; it changes."""
        self._fresh_pids: list[int] = []
        self._pages = iter(range(1_000_000))
        self._descriptors: dict[int, Number] = {}
        self.processes: dict[int, Process] = {}
        for _ in range(4):
            self._add_process(Task(self._new_memory()))

    @property
    def private(self) -> set[int]:
        """All pages that are mapped private now."""
        return {
            page
            for process in self.processes.values()
            for number in process.living
            if number.task and number.task.memory
            for page in number.task.memory.private
        }

    @property
    def open_files(self) -> int:
        return len(self._descriptors)

    def use_pids_again(self) -> None:
        """Give the lowest free pids away again from now on."""
        used = {number.value for found in self.processes.values() for number in found.threads}
        self._fresh_pids = sorted(set(_PIDS) - used, reverse=True)

    # ---- what happens ----

    def happen(self, pace: float | None = None) -> None:
        """Something happens, or nothing."""
        if self._dice.random() < _CHANGES_OF_PACE:
            self._pace = self._dice.choice(_PACES)
        while self._dice.random() < (pace or self._pace):
            process = self._dice.choice(list(self.processes.values()))
            if not process.living:
                del self.processes[process.threads[0].value]  # reaped
                for number in process.threads:
                    number.task = None
                if not self.processes:
                    self._add_process(Task(self._new_memory()))
                continue
            self._run(process, self._dice.choice(process.living))

    def _run(self, process: Process, number: Number) -> None:
        task = number.task
        assert task is not None
        if any(other.lender is task for other in self._tasks()):
            return  # it waits in vfork(2)
        if not task.running:
            task.turns += 1
            task.running = True
        for _ in range(self._dice.randrange(3)):
            act = self._dice.choice(
                [self._map, self._map, self._unmap, self._thread, self._fork, self._clone,
                 self._vfork, self._exec, self._exit_thread, self._exit, self._wait]
            )  # fmt: skip
            act(process, number)
            if number.task is not task or task.memory is None or not task.running:
                return
        if self._dice.random() < 0.95:
            task.running = False

    def _map(self, _: Process, number: Number) -> None:
        self._memory_of(number).private.add(next(self._pages))

    def _unmap(self, _: Process, number: Number) -> None:
        if private := self._memory_of(number).private:
            private.remove(self._dice.choice(sorted(private)))

    def _thread(self, process: Process, number: Number) -> None:
        if len(process.threads) < _MOST_THREADS:
            process.threads.append(Number(self._free_pid(), Task(self._memory_of(number))))

    def _fork(self, _: Process, number: Number) -> None:
        copy = self._new_memory()
        copy.private |= self._memory_of(number).private
        self._add_process(Task(copy))

    def _clone(self, _: Process, number: Number) -> None:
        self._add_process(Task(self._memory_of(number)))

    def _vfork(self, _: Process, number: Number) -> None:
        assert number.task is not None
        if self._add_process(Task(self._memory_of(number), lender=number.task)):
            number.task.running = False

    def _exec(self, process: Process, number: Number) -> None:
        """All other threads end; this one is the first thread now, and has its number."""
        task, first = number.task, process.threads[0]
        assert task is not None
        for other in process.threads:
            if other.task is not task:
                self._end(other)
            other.task = None
        self._release(task)
        first.task, task.memory = task, self._new_memory()
        process.threads[:] = [first]

    def _exit_thread(self, process: Process, number: Number) -> None:
        self._end(number)
        if number is not process.threads[0]:
            number.task = None
            process.threads.remove(number)

    def _exit(self, process: Process, _: Number) -> None:
        for number in list(process.threads):
            self._exit_thread(process, number)

    def _wait(self, _: Process, number: Number) -> None:
        assert number.task is not None
        number.task.running = False

    def _end(self, number: Number) -> None:
        if number.task:
            self._release(number.task)
            number.task.memory = None
            number.task.running = False

    def _release(self, task: Task) -> None:
        if task.lender:
            task.lender.turns += 1
            task.lender.running = True
            task.lender = None

    def _add_process(self, task: Task) -> bool:
        if len(self.processes) == _MOST_PROCESSES:
            return False
        value = self._free_pid()
        self.processes[value] = Process([Number(value, task)])
        return True

    def _new_memory(self) -> Memory:
        return Memory(self._dice.randrange(1 << 62))

    def _memory_of(self, number: Number) -> Memory:
        assert number.task is not None
        assert number.task.memory is not None
        return number.task.memory

    def _tasks(self) -> Iterator[Task]:
        for process in self.processes.values():
            yield from (number.task for number in process.threads if number.task)

    def _free_pid(self) -> int:
        if not self._fresh_pids:
            self.use_pids_again()
        return self._fresh_pids.pop()

    # ---- what the kernel answers ----

    def tells_who_slept(self) -> bool:
        return True

    def pids(self) -> set[int]:
        self.happen()
        return set(self.processes)

    def identify(self, pid: int) -> ProcessId | None:
        return ProcessId(pid, 0, 0)

    def threads(self, pid: int) -> Iterator[int]:
        seen: set[int] = set()
        fresh = [pid]
        while fresh:
            yield from fresh
            seen.update(fresh)
            self.happen()
            process = self.processes.get(pid)
            now = [number.value for number in process.threads] if process else []
            fresh = [tid for tid in now if tid not in seen]

    def thread_count(self, pid: int) -> int:
        self.happen()
        if pid not in self.processes:
            raise FileNotFoundError
        return len(self.processes[pid].threads)

    def open_turns(self, pid: int, tid: int) -> int:
        number = self._number(tid, pid)
        descriptor = next(self._pages)
        self._descriptors[descriptor] = number
        return descriptor

    def turns(self, descriptor: int) -> bytes:
        self.happen()
        task = self._descriptors[descriptor].task
        return b"%d %d" % (task.time, task.turns) if task else b""

    def close(self, descriptor: int) -> None:
        del self._descriptors[descriptor]

    def is_off_queue(self, pid: int, tid: int) -> bool:
        task = self._number(tid, pid).task
        if task is None or task.running:
            return False
        # A thread may still sleep when it has given up its memory on the way to its end.
        return task.memory is not None or self._dice.random() < 0.5

    def has_memory(self, pid: int, tid: int) -> bool:
        task = self._number(tid, pid).task
        return task is not None and task.memory is not None

    def compare(self, one: int, other: int) -> int:
        first, second = (
            task.memory.number if task and task.memory else -1
            for task in (self._number(tid).task for tid in (one, other))
        )
        if first == second:
            return SAME_MEMORY
        return COMES_BEFORE if first < second else COMES_AFTER

    def _ask(self, tid: int, major: int, minor: int) -> list[Columns]:
        """A query (processes/maps.py)."""
        task = self._number(tid).task
        if task is None or task.memory is None:
            raise ProcessLookupError
        rows = [mapping(page, 1, INO) for page in sorted(task.memory.private)]
        return [columns(rows)] if rows else []

    def _number(self, tid: int, pid: int = 0) -> Number:
        self.happen()
        for value, process in self.processes.items():
            for number in process.threads:
                if number.value == tid and (not pid or pid == value):
                    return number
        raise ProcessLookupError
