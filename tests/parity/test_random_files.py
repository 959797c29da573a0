"""Random sequences on open files of both sides: descriptors with positions and flags, mappings that
stay, names that move below them, locks. Each result is equal, and in the end all that can be seen.

Blocks and holes are left to ``test_random``: here pages are loaded through mappings, see limits.md.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.parity.calls import renameat2
from tests.parity.content import runs
from tests.parity.machine import TwoSides
from tests.parity.sides import Sides, attempt
from tests.parity.test_times import wait_for_the_next_tick
from tests.support.files import fallocate
from tests.support.mount import Mount

PAGE = 4096
MAPPED = 4
"""Pages of a mapping."""
NAMES = st.sampled_from(["a", "b", "c"])
SLOTS = st.integers(0, 3)
MAPS = st.integers(0, 1)
SIZES = st.one_of(st.sampled_from([0, 1, PAGE, 3 * PAGE]), st.integers(0, 6 * PAGE))
FLAGS = st.builds(
    lambda way, extra: way | extra,
    st.sampled_from([os.O_RDWR, os.O_RDWR, os.O_RDONLY, os.O_WRONLY]),
    st.sampled_from([os.O_CREAT, os.O_APPEND | os.O_CREAT, os.O_TRUNC, os.O_EXCL | os.O_CREAT, 0]),
)
# <linux/falloc.h>: none, keep size, punch, punch without keep, collapse, insert, unshare.
MODES = st.sampled_from([0, 1, 3, 3, 2, 8, 32, 64])
LOCKS = st.sampled_from([fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN])
OFD_SETLK = 37
KINDS = {fcntl.LOCK_SH: fcntl.F_RDLCK, fcntl.LOCK_EX: fcntl.F_WRLCK, fcntl.LOCK_UN: fcntl.F_UNLCK}


class Side:
    """One side: what is open and mapped."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.root = root
        self.fds: list[int] = []
        self.maps: list[mmap.mmap] = []
        self.scratch = os.memfd_create("scratch")
        for name in ("a", "a", "b", "c"):
            self.fds.append(os.open(root / name, os.O_RDWR | os.O_CREAT))
        for fd in self.fds[1:3]:
            os.pwrite(fd, b"m" * MAPPED * PAGE, 0)
            self.maps.append(mmap.mmap(fd, MAPPED * PAGE))

    def open(self, slot: int, name: str, flags: int) -> None:
        fd = os.open(self.root / name, flags, 0o644)
        os.close(self.fds[slot])
        self.fds[slot] = fd

    def map(self, number: int, slot: int, kind: int, access: int) -> object:
        try:
            new = mmap.mmap(self.fds[slot], MAPPED * PAGE, kind, access)
        except ValueError as error:  # mmap(2) takes more than the file has; Python does not
            return str(error)
        self.maps[number].close()
        self.maps[number] = new
        return None

    def load(self, number: int) -> list[object]:
        """The content of each page: by a system call, which says EFAULT where a load is SIGBUS."""
        with memoryview(self.maps[number]) as view:
            seen = []
            for at in range(0, MAPPED * PAGE, PAGE):
                found = attempt(os.pwrite, self.scratch, view[at : at + PAGE], 0)
                seen.append(runs(os.pread(self.scratch, PAGE, 0)) if found == PAGE else found)
            return seen

    def store(self, number: int, at: int, byte: int) -> object:
        """Below the end of file; beyond it sides differ, see limits.md."""
        os.pwrite(self.scratch, bytes([byte]), 0)
        with memoryview(self.maps[number]) as view:
            if view.readonly:
                return "cannot be stored to"
            return os.preadv(self.scratch, [view[at : at + 1]], 0)

    def lock(self, slot: int, kind: int, start: int, length: int) -> None:
        wanted = struct.pack("hhqqi4x", KINDS[kind], os.SEEK_SET, start, length, 0)
        fcntl.fcntl(self.fds[slot], OFD_SETLK, wanted)

    def look(self) -> list[object]:
        """All that can be seen, but for blocks and times."""
        seen: list[object] = [(_stat(fd), runs(_content(fd))) for fd in self.fds]
        seen += [self.load(number) for number in range(len(self.maps))]
        for path in sorted(self.root.iterdir()):
            fd = os.open(path, os.O_RDONLY)
            seen.append((path.name, _stat(fd), runs(_content(fd))))
            os.close(fd)
        return seen

    def times(self, slot: int) -> tuple[int, int]:
        found = os.fstat(self.fds[slot])
        return found.st_mtime_ns, found.st_ctime_ns

    def flush(self) -> None:
        for mapped in self.maps:
            attempt(mapped.flush)

    def end(self) -> list[object]:
        seen = self.look()
        for mapped in self.maps:
            mapped.close()
        for fd in (*self.fds, self.scratch):
            os.close(fd)
        shutil.rmtree(self.root)
        return seen


def _stat(fd: int) -> tuple[int, ...]:
    found = os.fstat(fd)
    return found.st_mode, found.st_nlink, found.st_size


def _content(fd: int) -> bytes:
    """Also of what is open for writing alone."""
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    try:
        return os.pread(again, 1 << 20, 0)
    finally:
        os.close(again)


class Machine(TwoSides[Side]):
    """What is done to open files."""

    def __init__(self, sides: Sides, mount: Mount) -> None:
        super().__init__(sides, mount, Side)

    @rule(slot=SLOTS, name=NAMES, flags=FLAGS)
    def open(self, slot: int, name: str, flags: int) -> None:
        self.same(lambda side: side.open(slot, name, flags))

    @rule(slot=SLOTS, size=SIZES, byte=st.integers(1, 255))
    def write(self, slot: int, size: int, byte: int) -> None:
        """At the position, which is the end with O_APPEND."""
        self.same(lambda side: os.write(side.fds[slot], bytes([byte]) * size))
        self.same(lambda side: os.lseek(side.fds[slot], 0, os.SEEK_CUR))

    @rule(slot=SLOTS, offset=SIZES, size=SIZES)
    def write_at(self, slot: int, offset: int, size: int) -> None:
        self.same(lambda side: os.pwrite(side.fds[slot], b"p" * size, offset))

    @rule(slot=SLOTS, size=SIZES)
    def read(self, slot: int, size: int) -> None:
        self.same(lambda side: runs(os.read(side.fds[slot], size)))

    @rule(slot=SLOTS, offset=st.integers(-PAGE, 6 * PAGE), whence=st.integers(0, 2))
    def seek(self, slot: int, offset: int, whence: int) -> None:
        self.same(lambda side: os.lseek(side.fds[slot], offset, whence))

    @rule(slot=SLOTS, size=SIZES, again=st.one_of(st.none(), SIZES))
    def truncate(self, slot: int, size: int, again: int | None) -> None:
        """What is cut off and uncovered again is zero, mapped or not."""
        self.same(lambda side: os.ftruncate(side.fds[slot], size))
        if again is not None:
            self.same(lambda side: os.ftruncate(side.fds[slot], again))
            self.same(Side.look)

    @rule(slot=SLOTS, mode=MODES, offset=SIZES, length=SIZES)
    def allocate(self, slot: int, mode: int, offset: int, length: int) -> None:
        self.same(lambda side: fallocate(side.fds[slot], mode, offset, length))

    @rule(
        number=MAPS,
        slot=SLOTS,
        kind=st.sampled_from([mmap.MAP_SHARED, mmap.MAP_PRIVATE]),
        access=st.sampled_from([mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_READ]),
    )
    def map(self, number: int, slot: int, kind: int, access: int) -> None:
        self.same(lambda side: side.map(number, slot, kind, access))

    @rule(number=MAPS)
    def load(self, number: int) -> None:
        self.same(lambda side: side.load(number))

    @rule(number=MAPS, at=st.integers(0, MAPPED * PAGE - 1), byte=st.integers(1, 255))
    def store(self, number: int, at: int, byte: int) -> None:
        if at < self.both[1].maps[number].size():  # that of the file now
            self.same(lambda side: side.store(number, at, byte))

    @rule(number=MAPS)
    def flush(self, number: int) -> None:
        self.same(lambda side: side.maps[number].flush())

    @rule(name=NAMES, goal=NAMES, flags=st.sampled_from([0, 0, 1, 2]))
    def rename(self, name: str, goal: str, flags: int) -> None:
        """Over what is open and mapped."""
        self.same(lambda side: renameat2(side.root / name, side.root / goal, flags))

    @rule(name=NAMES, goal=NAMES)
    def link(self, name: str, goal: str) -> None:
        self.same(lambda side: os.link(side.root / name, side.root / goal))

    @rule(name=NAMES)
    def unlink(self, name: str) -> None:
        self.same(lambda side: os.unlink(side.root / name))

    @rule(slot=SLOTS, kind=LOCKS)
    def flock(self, slot: int, kind: int) -> None:
        self.same(lambda side: fcntl.flock(side.fds[slot], kind | fcntl.LOCK_NB))

    @rule(slot=SLOTS, kind=LOCKS, start=st.integers(0, 9), length=st.integers(0, 3))
    def lock(self, slot: int, kind: int, start: int, length: int) -> None:
        """A lock of the open file (OFD), so that those of one process can be in the way."""
        self.same(lambda side: side.lock(slot, kind, start, length))

    @rule(slot=SLOTS, size=SIZES, kind=st.integers(0, 5))
    def change_times(self, slot: int, size: int, kind: int) -> None:
        """Which of mtime and ctime change."""
        calls: list[Callable[[int], object]] = [
            lambda fd: os.pwrite(fd, b"t" * size, 0),
            lambda fd: os.ftruncate(fd, size),
            lambda fd: fallocate(fd, 3, 0, size),
            lambda fd: os.fchmod(fd, 0o600),
            lambda fd: os.pread(fd, size, 0),
            lambda fd: os.utime(fd, ns=(1, size)),
        ]
        for side in self.both:
            side.flush()
        before = [side.times(slot) for side in self.both]
        wait_for_the_next_tick()
        self.same(lambda side: calls[kind](side.fds[slot]))
        after = [side.times(slot) for side in self.both]
        ours, tmpfs = (
            [one != other for one, other in zip(*pair, strict=True)]
            for pair in zip(before, after, strict=True)
        )
        assert ours == tmpfs

    @rule()
    def look(self) -> None:
        self.same(Side.look)


@pytest.mark.timeout(400)  # a failure is shrunk before it is reported, that takes minutes
def test_random_calls_on_open_files(sides: Sides, ours: Mount) -> None:
    run_state_machine_as_test(
        lambda: Machine(sides, ours),  # type: ignore[arg-type]  # documented to take a factory
        settings=settings(
            max_examples=10,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
