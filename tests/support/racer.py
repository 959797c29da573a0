"""Processes that map, vote, fork and exit while purges run, and check what the rules promise them.

    python -m tests.support.racer ROLE FILE SECONDS SEED CLOCK

Every page of FILE holds its letter, and is volatile. CLOCK is a file whose first eight bytes count
the purges that have ended; one that began after a mapping was made may take nothing from it.

SECONDS is for how long, if that is enough to have done something; a purger goes on until there is
a file CLOCK.over.

The SEED also says how long a racer sleeps when it waits, so that some sleep through many looks.

A ``purger`` purges all, counts, and writes purged pages anew. A ``mapper`` maps pages private, also
in children, and watches that none goes that was there when the purges before its mapping had ended.
A ``relay`` maps once (SEED 0: private, else shared, holding all) and hands the mapping from parent
to child, each parent exiting at once. A ``voter`` casts a vote, perhaps forks, and is gone. Each
exits with 1 and a word if it met a lie.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.support import fvrange
from tests.support.files import content, letter
from tests.support.fvrange import PAGE
from tests.support.waiting import PATIENCE
from vfs_volatile.client.mapped import mvrange

VOLATILE, NONVOLATILE = 1, 0
A_FEW = 20
"""Rounds that are done in any case, on a machine that is slow."""
_PAUSES = (0.0005, 0.005, 0.03)


class LieError(Exception):
    """A page went that was promised to stay."""


class Clock:
    """How many purges have ended."""

    def __init__(self, path: str, pause: float) -> None:
        """``pause``: seconds between two looks at it."""
        self._pause = pause
        self._over = Path(f"{path}.over")
        with Path(path).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)

    @property
    def now(self) -> int:
        return int.from_bytes(self._map[:8], "little")

    @property
    def is_over(self) -> bool:
        return self._over.exists()

    def tick(self) -> None:
        self._map[:8] = (self.now + 1).to_bytes(8, "little")

    def wait(self, purges: int, deadline: float) -> bool:
        """Wait until so many more have ended; False if the time is up first."""
        goal = self.now + purges
        while self.now < goal:
            if time.monotonic() > deadline:
                return False
            time.sleep(self._pause)  # of a poll
        return True


def found(memory: mmap.mmap, page: int, pipe: tuple[int, int]) -> str:
    """The letter of a mapped page; X where a load were SIGBUS."""
    view = memoryview(memory)[page * PAGE : page * PAGE + 1]
    try:
        os.write(pipe[1], view)
        return os.read(pipe[0], 1).decode()
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return "X"
    finally:
        view.release()


def purge(path: str, deadline: float, seed: int, clock: Clock) -> None:
    fd = os.open(path, os.O_RDWR)
    count = os.fstat(fd).st_size // PAGE
    dice = random.Random(seed)
    while not clock.is_over:
        fvrange.purge(fd)
        clock.tick()
        for page in range(count):
            if dice.random() < 0.5:
                os.pwrite(fd, letter(page).encode() * PAGE, page * PAGE)
    clock.tick()
    clock.tick()


def watch(memory: mmap.mmap, first: int, clock: Clock, deadline: float, turns: int) -> int:
    """What is there once older purges have ended stays; the number of pages that stayed."""
    pipe = os.pipe()
    try:
        if not clock.wait(2, deadline):
            return 0
        count = len(memory) // PAGE
        there = [page for page in range(count) if found(memory, page, pipe) != "X"]
        for _ in range(turns):
            clock.wait(1, deadline)
            for page in there:
                seen = found(memory, page, pipe)
                if seen != letter(first + page):
                    raise LieError(f"page {first + page} reads {seen}")
        return len(there)
    finally:
        os.close(pipe[0])
        os.close(pipe[1])


def map_private(path: str, deadline: float, seed: int, clock: Clock) -> None:
    """Map some pages, watch them here and in a child that outlives the mapping, unmap."""
    fd = os.open(path, os.O_RDWR)
    count = os.fstat(fd).st_size // PAGE
    dice = random.Random(seed)
    stayed = 0
    latest = deadline + PATIENCE / 2
    while time.monotonic() < (deadline if stayed else latest):
        until = deadline if stayed else latest
        first = dice.randrange(count - 4)
        memory = mmap.mmap(fd, 4 * PAGE, mmap.MAP_PRIVATE, offset=first * PAGE)
        stayed += watch(memory, first, clock, until, 3)
        if dice.random() < 0.3:
            child = os.fork()
            if child == 0:
                _answer(partial(watch, memory, first, clock, until, 3))
            memory.close()
            _, status = os.waitpid(child, 0)
            if status:
                raise LieError("a child of mine met a lie")
        else:
            memory.close()
    if not stayed:
        raise LieError("no page was ever there: nothing was tried")
    print(stayed)


def relay(path: str, deadline: float, seed: int, clock: Clock) -> None:
    """The mapping, and with votes the hold, belong to the youngest of a line of processes."""
    fd = os.open(path, os.O_RDWR)
    memory = mmap.mmap(fd, 0, mmap.MAP_PRIVATE if seed == 0 else mmap.MAP_SHARED)
    os.pwrite(fd, content(len(memory) // PAGE), 0)
    if seed:
        mvrange(memory, len(memory), NONVOLATILE, fd=fd)
    os.close(fd)
    seconds = deadline - time.monotonic()
    if not clock.wait(2, deadline + PATIENCE / 2):
        raise LieError("no two purges have ended: nothing was tried")
    deadline = time.monotonic() + seconds
    pipe = os.pipe()
    there = [page for page in range(len(memory) // PAGE) if found(memory, page, pipe) != "X"]
    if not there:
        raise LieError("no page was there at the start")
    generations = 0
    while time.monotonic() < deadline or generations < A_FEW:
        if os.fork():
            os._exit(0)
        generations += 1
        for page in there:
            if (seen := found(memory, page, pipe)) != letter(page):
                raise LieError(f"page {page} reads {seen} in generation {generations}")
    print(generations)


def vote(path: str, deadline: float, seed: int, clock: Clock) -> None:
    """Short lives: agree or hold, fork or not, and exit without a word."""
    fd = os.open(path, os.O_RDWR)
    count = os.fstat(fd).st_size // PAGE
    dice = random.Random(seed)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    lives = 0
    while time.monotonic() < deadline or lives < A_FEW:
        first, mode = dice.randrange(count), dice.choice((VOLATILE, NONVOLATILE))
        forks, lives = dice.random() < 0.3, lives + 1
        child = os.fork()
        if child == 0:
            memory = mmap.mmap(fd, PAGE, offset=first * PAGE)
            mvrange(memory, PAGE, mode, fd=fd)
            if forks and os.fork() == 0:
                mvrange(memory, PAGE, VOLATILE, fd=fd)
            os._exit(0)
        if dice.random() < 0.5:
            clock.wait(1, deadline)
    print(lives)


def _answer(call: Callable[[], object]) -> None:
    """Run ``call`` as a child: exit with 1 if it raises."""
    try:
        call()
    except LieError as lie:
        print(lie, file=sys.stderr)
        os._exit(1)
    os._exit(0)


ROLES = {"purger": purge, "mapper": map_private, "relay": relay, "voter": vote}


def main(role: str, path: str, seconds: str, seed: str, clock: str) -> int:
    purges = Clock(clock, _PAUSES[int(seed) % len(_PAUSES)])
    try:
        ROLES[role](path, time.monotonic() + float(seconds), int(seed), purges)
    except LieError as lie:
        print(f"{role}, seed {seed}: {lie}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
