"""One process of a stress test, with its own record of what each of its pages has to hold.

    python -m tests.support.worker ROLE FILE FIRST COUNT SEED SECONDS

An ``owner`` alone writes, marks and unmarks the COUNT pages from page FIRST of FILE, and checks
every answer against its record. A ``purger`` purges anything in FILE, as often as it can. A
``filler`` marks its pages and goes on rewriting them, to press on the budget. A ``scribbler``
writes parts of its volatile pages that the kernel has not cached: such a page is locked until the
write is answered. Each prints a JSON object at its end; an owner that meets a lie exits with 1
and says which.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import sys
import time

from tests.support import fvrange
from tests.support.fvrange import PAGE, PARTIAL, SIGBUS, ZERO, pages


class LieError(Exception):
    """The file system said something that the record disproves."""


class Owner:
    """The record: content and mark of each page that this process owns."""

    def __init__(self, fd: int, first: int, count: int, seed: int) -> None:
        self.fd = fd
        self.map = mmap.mmap(fd, 0)
        self.pages = range(first, first + count)
        self.random = random.Random(seed)
        self.content = dict.fromkeys(self.pages, bytes(PAGE))
        self.volatile: set[int] = set()
        self.zero: set[int] = set()
        self.counts = {"written": 0, "intact": 0, "purged": 0, "met": 0}

    def step(self) -> None:
        choice = self.random.choices(
            (self.write, self.store, self.mark, self.unmark, self.read, self.flash),
            weights=(2, 2, 4, 1, 3, 2),
        )[0]
        choice(self.random.choice(self.pages))

    def write(self, page: int) -> None:
        data = self.random.randbytes(16) * (PAGE // 16)
        if os.pwrite(self.fd, data, page * PAGE) != PAGE:
            raise LieError(f"page {page}: a whole page was written short")
        self.content[page] = data
        self.counts["written"] += 1

    def store(self, page: int) -> None:
        """Store through the shared mapping; a volatile page could be a SIGBUS, so not there."""
        if page in self.volatile:
            return
        data = self.random.randbytes(16) * (PAGE // 16)
        self.map[page * PAGE : (page + 1) * PAGE] = data
        self.content[page] = data
        self.counts["written"] += 1

    def mark(self, page: int) -> None:
        if page in self.volatile:
            return
        behavior = self.random.choice((SIGBUS, ZERO)) | self.random.choice((0, PARTIAL))
        if fvrange.mark(self.fd, *pages(page), behavior) != 0:
            raise LieError(f"page {page}: purged before it was marked")
        self.volatile.add(page)
        (self.zero.add if behavior & ZERO else self.zero.discard)(page)

    def unmark(self, page: int) -> None:
        """The heart of it: the answer, the content and the record have to agree."""
        purged = fvrange.unmark(self.fd, *pages(page))
        found = os.pread(self.fd, PAGE, page * PAGE)
        if self.map[page * PAGE : (page + 1) * PAGE] != found:
            raise LieError(f"page {page}: the mapping and read(2) differ")
        if purged not in (0, PAGE):
            raise LieError(f"page {page}: {purged} bytes purged")
        if purged:
            if page not in self.volatile:
                raise LieError(f"page {page}: purged without a mark")
            if found != bytes(PAGE):
                raise LieError(f"page {page}: reported purged, but it does not read as zeros")
            self.content[page] = found
        elif found != self.content[page]:
            raise LieError(f"page {page}: reported intact, but it is not what was written")
        self.volatile.discard(page)
        self.counts["purged" if purged else "intact"] += 1

    def read(self, page: int) -> None:
        """Any page reads as written; a volatile one may be found purged instead."""
        try:
            found = os.pread(self.fd, PAGE, page * PAGE)
        except OSError as error:
            if error.errno == errno.ENODATA and page in self.volatile - self.zero:
                self.counts["met"] += 1
                return
            raise
        if found == self.content[page]:
            return
        if found == bytes(PAGE) and page in self.volatile & self.zero:
            self.counts["met"] += 1
            return
        raise LieError(f"page {page}: read neither what was written nor the sign of a purge")

    def flash(self, page: int) -> None:
        """Dirty in the kernel, volatile and unmarked at once: purges in the midst of it all."""
        run = range(page, min(page + 8, self.pages.stop))
        for step in (self.store, self.mark, self.unmark):
            for index in run:
                step(index)

    def settle(self) -> None:
        for page in self.pages:
            self.unmark(page)
        for page in self.pages:
            self.read(page)


def own(fd: int, first: int, count: int, seed: int, deadline: float) -> dict[str, int]:
    owner = Owner(fd, first, count, seed)
    while time.monotonic() < deadline:
        for _ in range(50):
            owner.step()
    owner.settle()
    return owner.counts


def purge(fd: int, first: int, count: int, seed: int, deadline: float) -> dict[str, int]:
    dice = random.Random(seed)
    calls = 0
    while time.monotonic() < deadline:
        start = dice.randrange(first, first + count)
        fvrange.purge(fd, *pages(start, dice.randint(1, 8)))
        calls += 1
    return {"calls": calls}


def fill(fd: int, first: int, count: int, seed: int, deadline: float) -> dict[str, int]:
    fvrange.mark(fd, *pages(first, count), PARTIAL)
    data = random.Random(seed).randbytes(PAGE) * 16
    written = 0
    while time.monotonic() < deadline:
        for page in range(first, first + count, 16):
            written += os.pwrite(fd, data, page * PAGE)
    return {"written": written // PAGE}


def scribble(fd: int, first: int, count: int, seed: int, deadline: float) -> dict[str, int]:
    dice = random.Random(seed)
    fvrange.mark(fd, *pages(first, count), ZERO)
    written = 0
    while time.monotonic() < deadline:
        start = dice.randrange(first * PAGE, (first + count) * PAGE - 2 * PAGE)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        written += os.pwrite(fd, b"x" * dice.choice([1, 100, PAGE + 100]), start)
    return {"scribbled": written}


ROLES = {"owner": own, "purger": purge, "filler": fill, "scribbler": scribble}


def main(role: str, path: str, *numbers: str) -> int:
    first, count, seed = map(int, numbers[:3])
    fd = os.open(path, os.O_RDWR)
    try:
        print(json.dumps(ROLES[role](fd, first, count, seed, time.monotonic() + float(numbers[3]))))
    except LieError as lie:
        print(f"{role} of pages {first}+{count}, seed {seed}: {lie}", file=sys.stderr)
        return 1
    finally:
        os.close(fd)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
