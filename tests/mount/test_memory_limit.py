"""The daemon may have no more memory: requests fail with ENOMEM, and nothing else happens."""

from __future__ import annotations

import mmap
import os
import random
import resource
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from itertools import count
from pathlib import Path

import pytest

from tests.parity.sides import attempt, in_child
from tests.support.files import FALLOC_FL_KEEP_SIZE, content, fallocate
from tests.support.fvrange import PAGE
from tests.support.mount import ROOT, Mount, MountFactory
from tests.support.waiting import PATIENCE, eventually
from vfs_volatile import VRANGE_VOLATILE, VRANGE_ZERO, fvrange_many
from vfs_volatile.abi.ioctls import VEC_MAX

ROUNDS = 300
KNOWN = 6
PAGES = 24
HEADROOM = 1 << 20
LARGE = 60_000
MAPPINGS = 60_000
"""Of the 65,530 that a process may have (vm.max_map_count)."""
MAPPED_FILES = 3_000
RANGES = 87_000
"""Python's dict of them takes 2.6 MB at once; of some more it takes 5.2."""
SECONDS = 30.0
ALLOWED = ("ENOMEM", "ENOENT", "EEXIST")
"""ENOENT: what was to be renamed was not made; EEXIST: nor what should have been in its place."""


@contextmanager
def little_memory(mounted: Mount) -> Iterator[None]:
    """The daemon may take HEADROOM bytes more than it has."""
    pid = mounted.process.pid
    limit = resource.prlimit(pid, resource.RLIMIT_AS)
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmSize:"):
            has = int(line.split()[1]) << 10
    resource.prlimit(pid, resource.RLIMIT_AS, (has + HEADROOM, limit[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, limit)


class Hammer:
    """Calls of all kinds, at random, and what is known of files after them."""

    def __init__(self, mounted: Mount, behavior: int) -> None:
        self._root = mounted.path
        self._behavior = behavior
        self._random = random.Random(7)
        self._numbers = count()
        self._made: list[Path] = []
        self.said: Counter[tuple[str, object]] = Counter()
        self.known = [mounted.file(f"known{number}", PAGES) for number in range(KNOWN)]
        self.purged: list[set[int]] = [set() for _ in self.known]
        for file in self.known:
            file.mark(0, PAGES // 2 * PAGE, behavior)
        self.scratch = mounted.file("scratch", 1)
        self.written: dict[int, bytes] = {}
        """What write(2) has stored in the scratch file, by page."""

    def rounds(self) -> None:
        """In a process of its own: a store to a mount that has died ends it."""

        def work() -> object:
            for _ in range(ROUNDS):
                self._round()
            return self.said, self.purged, self.written

        self.said, self.purged, self.written = in_child(work)

    def _round(self) -> None:
        for call in (self.create, self.make_directory, self.link, self.rename, self.unlink,
                     self.set_attribute, self.write, self.allocate, self.store,
                     self.mark, self.mark_many, self.unmark, self.read):  # fmt: skip
            self._try(call)
        if self._random.randrange(8) == 0:  # these take longer
            self._try(self.purge)
            self._try(self.list)

    def _try(self, call: Callable[[], object]) -> None:
        found = attempt(call)
        failed = isinstance(found, str) and found.isupper()
        self.said[call.__name__, found if failed else "done"] += 1

    def create(self) -> None:
        path = self._root / f"new{next(self._numbers)}"
        os.close(os.open(path, os.O_RDWR | os.O_CREAT))
        self._made.append(path)

    def make_directory(self) -> None:
        (self._root / f"directory{next(self._numbers)}").mkdir()

    def link(self) -> None:
        os.link(self.scratch.path, self._root / f"link{next(self._numbers)}")

    def rename(self) -> None:
        if self._made:
            path = self._made.pop(0)
            path.rename(path.with_suffix(".old"))

    def unlink(self) -> None:
        if len(self._made) > 20:
            self._made.pop().unlink()

    def set_attribute(self) -> None:
        os.setxattr(self.scratch.fd, f"user.a{next(self._numbers)}", b"v" * LARGE)

    def list(self) -> None:
        os.listdir(self._root)

    def write(self) -> None:
        page = self._random.randrange(1 << 20)
        data = os.urandom(16) * (PAGE // 16)
        if os.pwrite(self.scratch.fd, data, page * PAGE) == PAGE:
            self.written[page] = data

    def allocate(self) -> None:
        fallocate(self.scratch.fd, FALLOC_FL_KEEP_SIZE, self._random.randrange(1 << 32), 4 * PAGE)

    def store(self) -> None:
        """The last page of a known file, again as it was; written back by msync(2)."""
        file = self._random.choice(self.known)
        with mmap.mmap(file.fd, PAGES * PAGE) as shared:
            last = slice((PAGES - 1) * PAGE, PAGES * PAGE)
            shared[last] = shared[last]
            shared.flush()

    def mark(self) -> None:
        self.scratch.mark(self._random.randrange(1 << 20) * PAGE, PAGE, self._behavior)
        self.scratch.unmark()

    def mark_many(self) -> None:
        first = self._random.randrange(1 << 20)
        spans = [((first + 2 * page) * PAGE, PAGE) for page in range(200)]
        fvrange_many(self.scratch.fd, spans, VRANGE_VOLATILE, self._behavior)

    def unmark(self) -> None:
        self.scratch.unmark()

    def purge(self) -> None:
        number = self._random.randrange(KNOWN)
        page = self._random.randrange(PAGES)
        self.known[number].purge(page * PAGE, PAGE)
        if page < PAGES // 2:
            self.purged[number].add(page)

    def read(self) -> None:
        file = self._random.choice(self.known)
        file.cool()
        assert os.pread(file.fd, PAGE, (PAGES - 1) * PAGE) == content(1, PAGES - 1)


@pytest.mark.parametrize("options", [{}, {"access": "zero"}], ids=["cached", "passthrough"])
def test_requests_fail_and_the_daemon_lives(mount: MountFactory, options: dict[str, str]) -> None:
    mounted = mount(**options)
    mounted.declared_stderr = True
    hammer = Hammer(mounted, VRANGE_ZERO if options else 0)
    with little_memory(mounted):
        hammer.rounds()
        refused = {what for (_, what) in hammer.said} - {"done"}
        assert "ENOMEM" in refused
        assert refused <= set(ALLOWED), hammer.said
        assert hammer.said["create", "ENOMEM"] > ROUNDS // 2, "there is no memory for long"
        assert hammer.said["unlink", "ENOMEM"] < hammer.said["unlink", "done"]
        assert hammer.said["purge", "done"]
    prove_honest(mounted, hammer)


@contextmanager
def many_mappings(paths: list[Path], count: int, stride: int) -> Iterator[subprocess.Popen[str]]:
    """A process with so many of each file."""
    program = [sys.executable, "-m", "tests.support.many_mappings", str(count), str(stride)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*program, *map(str, paths)], cwd=ROOT, stdin=pipe, stdout=pipe, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "mapped\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("mappings", [MAPPINGS // 3, MAPPINGS], ids=["many", "most"])
@pytest.mark.parametrize("stride", [2, 1 << 16], ids=["close", "far apart"])
def test_a_process_with_very_many_mappings(mount: MountFactory, mappings: int, stride: int) -> None:
    """To look at it takes memory: a purge may fail for that, not the daemon."""
    mounted = mount()
    mounted.declared_stderr = True
    file = mounted.file("file", PAGES)
    os.ftruncate(file.fd, mappings * stride * PAGE)
    file.mark()
    with many_mappings([file.path], mappings, stride):
        with little_memory(mounted):
            for page in range(PAGES):
                told = attempt(file.purge, page * PAGE, PAGE)
                assert told == "ENOMEM" or told == (PAGE if page % stride else 0)
            attempt(file.purge)
            assert attempt(os.stat, mounted.path / "nothing") in ("ENOENT", "ENOMEM")
        file.purge()
    assert file.purged_pages() == [page for page in range(PAGES) if page % stride]


def test_a_process_that_maps_very_many_files(mount: MountFactory) -> None:
    """What a look has taken is there again when it has ended."""
    mounted = mount()
    mounted.declared_stderr = True
    paths = [mounted.path / f"file{number}" for number in range(MAPPED_FILES)]
    for path in paths:
        path.write_bytes(b"a" * PAGE)
        os.setxattr(path, "user.fvrange.volatile", b"all")
    with many_mappings(paths, 1, 1) as process, little_memory(mounted):
        assert attempt(mounted.set_root, "purge", "all") in (None, "ENOMEM")
        process.kill()
        process.wait()
        mounted.set_root("purge", "all")
    assert mounted.number("purged") == MAPPED_FILES * PAGE


def test_a_file_with_very_many_ranges(mount: MountFactory) -> None:
    """What makes right again what a mark has left half done finds memory enough: until then all
    changes of all files fail.
    """
    mounted = mount(size="1G", budget="1G")
    mounted.declared_stderr = True
    other, file = mounted.file("other", PAGES), mounted.open("file")
    other.mark()
    os.ftruncate(file.fd, 2 * RANGES * PAGE)
    for _ in range(RANGES // 2000):
        os.write(file.fd, bytes(1000 * PAGE))
    firsts = count()

    def mark() -> object:
        spans = [(next(firsts) * PAGE, PAGE) for _ in range(VEC_MAX)]
        return attempt(fvrange_many, file.fd, spans, VRANGE_VOLATILE, 0)

    for _ in range(RANGES // VEC_MAX):
        mark()
    with little_memory(mounted):
        while mark() != "ENOMEM":
            pass
        assert os.pwrite(other.fd, content(1), 0) == PAGE
        assert other.purge() == PAGES * PAGE
        assert other.unmark() == PAGES * PAGE
        assert file.purge(0, PAGE) == PAGE
        assert attempt(file.unmark) == PAGE
    assert file.ranges() == []


def scrape(url: str) -> bytes:
    """Nothing if there is no answer."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return bytes(answer.read())
    except (OSError, HTTPException):
        return b""


def test_metrics_are_served(mount: MountFactory) -> None:
    """Just then somebody wants to see them; each answer takes a thread."""
    mounted = mount(metrics="127.0.0.1:0")
    url = str(mounted.stats()["metrics"])
    mounted.declared_stderr = True
    with little_memory(mounted):
        names = count()
        while attempt(os.mkdir, mounted.path / f"directory{next(names)}") is None:
            pass
        assert eventually(lambda: b"vfs_volatile_resident_bytes" in scrape(url), SECONDS)
    assert scrape(url)


def prove_honest(mounted: Mount, hammer: Hammer) -> None:
    """All works again, with all data, and it is told what was purged."""
    (mounted.path / "after").mkdir()
    for page, data in hammer.written.items():
        assert os.pread(hammer.scratch.fd, PAGE, page * PAGE) == data
    for file, purged in zip(hammer.known, hammer.purged, strict=True):
        assert set(file.purged_pages()) == purged
        seen = file.reads()
        gone = "0" if mounted.passthrough else "X"
        assert [page for page in range(PAGES) if seen[page] == gone] == sorted(purged)
        assert file.unmark() == len(purged) * PAGE
        file.mark()
        assert file.purge() == (PAGES - len(purged)) * PAGE
        assert file.unmark() == (PAGES - len(purged)) * PAGE
