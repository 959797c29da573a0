"""One process of the soak: it does everything to files of its own, and checks each answer.

    python -m tests.support.soaker DIRECTORY SEED SECONDS

The record is that of ``worker.Owner``, which knows only what it wrote and what it was told. Beside
the calls on single pages there are those on the whole file, and processes that come and go: each
child looks at what it inherited, and half of them are killed in the middle of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.support import fvrange
from tests.support.files import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate
from tests.support.fvrange import PAGE, pages
from tests.support.worker import LieError, Owner

COUNT = 48
"""Pages of a file."""


class Soaker(Owner):
    """The record of one file, and all that can be done to it."""

    def __init__(self, path: Path, seed: int) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.ftruncate(fd, COUNT * PAGE)
        super().__init__(fd, 0, COUNT, seed)
        self.path = path
        self.counts |= {"whole": 0, "children": 0}

    def step(self) -> None:
        if self.random.random() < 0.8:
            super().step()
            return
        whole = (self.punch, self.cut, self.rename, self.by_attribute, self.flush, self.child)
        self.random.choice((*whole, self.list, self.purge, self.purge))()
        self.counts["whole"] += 1

    def punch(self) -> None:
        first = self.random.choice(self.pages)
        run = range(first, min(first + 4, COUNT))
        fallocate(self.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, *pages(first, len(run)))
        for page in run:
            self.content[page] = bytes(PAGE)

    def purge(self) -> None:
        """Mark and purge a few, and take some of them back."""
        first = self.random.choice(self.pages)
        for page in range(first, min(first + 8, COUNT)):
            self.mark(page)
        fvrange.purge(self.fd, *pages(first, 8))
        for page in range(first, min(first + 8, COUNT)):
            self.random.choice((self.unmark, self.read))(page)

    def cut(self) -> None:
        """Cut the file, and let it grow again: what was beyond is zero, and volatile no more."""
        first = self.random.choice(self.pages)
        os.ftruncate(self.fd, first * PAGE)
        os.ftruncate(self.fd, COUNT * PAGE)
        for page in range(first, COUNT):
            self.content[page] = bytes(PAGE)
            self.volatile.discard(page)

    def rename(self) -> None:
        new = self.path.with_name(f"{self.path.name[:8]}{self.random.randrange(1000)}")
        os.rename(self.path, new)
        self.path = new

    def by_attribute(self) -> None:
        """All at once: an attribute tells of what it found purged in ``lost``."""
        os.setxattr(self.fd, "user.fvrange.nonvolatile", b"all")
        lost = os.getxattr(self.fd, "user.fvrange.lost").decode()
        os.removexattr(self.fd, "user.fvrange.lost")
        for part in filter(None, lost.split(",")):
            start, length = map(int, part.split("+"))
            for page in range(start // PAGE, (start + length) // PAGE):
                if page not in self.volatile and self.content[page] != bytes(PAGE):
                    raise LieError(f"page {page}: lost, but it was not volatile")
                self.content[page] = bytes(PAGE)
        self.volatile.clear()
        for page in self.pages:
            self.read(page)

    def flush(self) -> None:
        os.fsync(self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def list(self) -> None:
        """What is said to be volatile is what was marked."""
        said = {
            page
            for run in fvrange.ranges(self.fd)
            for page in range(run.start // PAGE, (run.start + run.length) // PAGE)
        }
        if said != self.volatile:
            raise LieError(f"volatile: {said ^ self.volatile} differ")

    def child(self) -> None:
        """A child with a private mapping of its own sees all that is not volatile as it is."""
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                private = mmap.mmap(self.fd, COUNT * PAGE, mmap.MAP_PRIVATE)
                for page in set(self.pages) - self.volatile:
                    if private[page * PAGE : (page + 1) * PAGE] != self.content[page]:
                        os._exit(1)
                os._exit(0)
            os._exit(2)
        if self.random.random() < 0.5:
            time.sleep(self.random.random() / 500)  # somewhere in the midst of it
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if status not in (0, signal.SIGKILL):
            raise LieError(f"a child saw other data, or failed: {status}")
        self.counts["children"] += 1

    def end(self) -> None:
        self.settle()
        self.map.close()
        os.close(self.fd)
        os.unlink(self.path)


def main(directory: str, seed: str, seconds: str) -> int:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the test
    dice = random.Random(int(seed))
    deadline = time.monotonic() + float(seconds)
    counts: dict[str, int] = {}
    while time.monotonic() < deadline:
        name = f"{seed:>04}-{dice.randrange(1 << 16):x}"[:8]
        soaker = Soaker(Path(directory) / name, dice.randrange(1 << 30))
        try:
            until = min(deadline, time.monotonic() + 5)
            while time.monotonic() < until:
                soaker.step()
            soaker.end()
        except LieError as lie:
            print(f"seed {seed}: {lie}", file=sys.stderr)
            return 1
        for key, value in soaker.counts.items():
            counts[key] = counts.get(key, 0) + value
    print(json.dumps(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
