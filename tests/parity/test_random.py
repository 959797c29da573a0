"""Random sequences of calls on both sides: each result, and in the end both trees, are equal."""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.parity.calls import renameat2
from tests.parity.machine import TwoSides
from tests.parity.sides import Sides, attempt, look
from tests.support.acls import ACCESS, DEFAULT, acl
from tests.support.files import fallocate
from tests.support.mount import Mount

PAGE = 4096
KEEP_SIZE = 1
PUNCH_HOLE = 3
NAMES = st.sampled_from(["a", "b", "d", "e", "d/a", "d/b", "d/e", "e/a", "e/d", "d/e/a", "d/e/d"])
KNOWN = st.integers(0, 11)
"""Number of a name that exists, see :meth:`Machine.known`."""
SLOTS = st.integers(0, 2)
"""Descriptors are kept in slots, by number; none is ever empty."""
OFFSETS = st.one_of(
    st.sampled_from([0, PAGE, 2 * PAGE, 5 * PAGE, 1 << 40]), st.integers(0, 6 * PAGE)
)
LENGTHS = st.one_of(st.sampled_from([0, PAGE, 2 * PAGE]), st.integers(0, 3 * PAGE))
FLAGS = st.sampled_from(
    [os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_TRUNC, os.O_APPEND, 0, os.O_NOFOLLOW]
)
ATTRIBUTES = st.sampled_from(["user.a", "user.b", "trusted.a", "security.a", ACCESS, DEFAULT])
LISTS = st.sampled_from(
    ["u:rw,g:r,o:", "u:rwx,u5:rw,g:r,m:rwx,o:r", "u:rwx,u6:,g:rx,g6:w,m:rx,o:x", "u:r,g:rw,m:,o:"]
).map(acl)
"""Access control lists."""


class Replica:
    """One side: the calls, with results in a form that can be compared."""

    def __init__(self, root: Path) -> None:
        for directory in (root, root / "d", root / "d/e", root / "e"):
            directory.mkdir()
        self.root = root
        self.slots: dict[int, int] = {}
        for slot, name in enumerate(("a", "d/a", "e/a")):
            self.open(slot, name, os.O_CREAT)

    def open(self, slot: int, name: str, flags: int) -> str:
        fd = os.open(self.root / name, os.O_RDWR | flags, 0o644)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return "not a regular file"
        self.close(slot)
        self.slots[slot] = fd
        return "ok"

    def close(self, slot: int) -> None:
        if slot in self.slots:
            os.close(self.slots.pop(slot))

    def on_name(self, call: Callable[..., object], name: str, *arguments: object) -> object:
        return attempt(call, self.root / name, *arguments)

    def on_names(self, call: Callable[..., object], one: str, two: str, *rest: object) -> object:
        return attempt(call, self.root / one, self.root / two, *rest)

    def end(self) -> list[object]:
        """Everything there is: the tree, and what is open."""
        seen: list[object] = [(slot, _file(fd)) for slot, fd in sorted(self.slots.items())]
        seen += sorted(self._entries(self.root), key=str)
        for slot in list(self.slots):
            self.close(slot)
        shutil.rmtree(self.root)
        return seen

    def _entries(self, directory: Path) -> Iterator[tuple[object, ...]]:
        twins: dict[int, str] = {}
        for path in sorted(directory.rglob("*")):
            name = str(path.relative_to(directory))
            twin = twins.setdefault(os.lstat(path).st_ino, name)
            attributes = [
                (key, os.getxattr(path, key, follow_symlinks=False))
                for key in sorted(os.listxattr(path, follow_symlinks=False))
            ]
            yield name, twin, look(path), attributes, _content(path)


def _content(path: Path) -> object:
    if path.is_symlink():
        return os.readlink(path)
    if not path.is_file():
        return ""
    fd = os.open(path, os.O_RDONLY)
    try:
        return _file(fd)
    finally:
        os.close(fd)


def _file(fd: int) -> object:
    """stat(2) and the content: the first MiB, and the data after it, which is rare."""
    parts = [os.pread(fd, 1 << 20, 0), os.pread(fd, 1 << 20, 1 << 40)]
    return look(fd), [hashlib.sha1(part).hexdigest() for part in parts]


def _store(fd: int, offset: int) -> object:
    """Through a shared mapping, flushed, so that tmpfs and we count the page alike."""
    size = os.fstat(fd).st_size
    if size == 0 or size > 1 << 20:
        return "not mapped"
    with mmap.mmap(fd, size) as shared:
        shared[offset % size] = 7
        shared.flush()
    return "stored"


class Machine(TwoSides[Replica]):
    """What is done to names, and to files."""

    def __init__(self, sides: Sides, mount: Mount) -> None:
        super().__init__(sides, mount, Replica)
        self.umask_before = os.umask(0o022)

    def teardown(self) -> None:
        os.umask(self.umask_before)
        super().teardown()

    @initialize(may_allocate=st.booleans())
    def choose(self, may_allocate: bool) -> None:
        """Either allocate or look for holes: they differ, see ``docs/limits.md``."""
        self.may_allocate = may_allocate

    def same_on(self, slot: int, call: Callable[[int], object]) -> None:
        self.same(lambda side: call(side.slots[slot]))

    def known(self, number: int) -> str:
        """A name that exists (on both): random names alone would mostly meet ENOENT."""
        root = self.both[1].root
        names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
        return names[number % len(names)] if names else "none"

    @rule(slot=SLOTS, name=NAMES, flags=FLAGS)
    def open(self, slot: int, name: str, flags: int) -> None:
        self.same(lambda side: side.open(slot, name, flags))

    @rule(slot=SLOTS, offset=OFFSETS, length=LENGTHS, byte=st.integers(1, 255))
    def write(self, slot: int, offset: int, length: int, byte: int) -> None:
        data = bytes([byte]) * length
        self.same_on(slot, lambda fd: os.pwrite(fd, data, offset))

    @rule(slot=SLOTS, offset=OFFSETS, length=LENGTHS)
    def read(self, slot: int, offset: int, length: int) -> None:
        self.same_on(slot, lambda fd: os.pread(fd, length, offset))

    @rule(slot=SLOTS, offset=OFFSETS)
    def store(self, slot: int, offset: int) -> None:
        self.same_on(slot, lambda fd: _store(fd, offset))

    @rule(slot=SLOTS, size=OFFSETS)
    def truncate(self, slot: int, size: int) -> None:
        self.same_on(slot, lambda fd: os.ftruncate(fd, size))

    @rule(slot=SLOTS, offset=OFFSETS, length=LENGTHS)
    def punch(self, slot: int, offset: int, length: int) -> None:
        self.same_on(slot, lambda fd: fallocate(fd, PUNCH_HOLE, offset, length))

    @precondition(lambda self: self.may_allocate)
    @rule(slot=SLOTS, mode=st.sampled_from([0, KEEP_SIZE]), offset=OFFSETS, length=LENGTHS)
    def allocate(self, slot: int, mode: int, offset: int, length: int) -> None:
        self.same_on(slot, lambda fd: fallocate(fd, mode, offset, length))

    @precondition(lambda self: not self.may_allocate)
    @rule(slot=SLOTS, offset=OFFSETS, whence=st.sampled_from([os.SEEK_DATA, os.SEEK_HOLE]))
    def seek(self, slot: int, offset: int, whence: int) -> None:
        self.same_on(slot, lambda fd: os.lseek(fd, offset, whence))

    @rule(source=SLOTS, goal=SLOTS, at=OFFSETS, to=OFFSETS, length=LENGTHS)
    def copy(self, source: int, goal: int, at: int, to: int, length: int) -> None:
        self.same(
            lambda side: os.copy_file_range(side.slots[source], side.slots[goal], length, at, to)
        )

    @rule(name=NAMES, call=st.sampled_from([os.mkdir, os.mkfifo]))
    def make(self, name: str, call: Callable[[Path], object]) -> None:
        self.same(lambda side: side.on_name(call, name))

    @rule(number=KNOWN, call=st.sampled_from([os.rmdir, os.unlink]))
    def remove(self, number: int, call: Callable[[Path], object]) -> None:
        name = self.known(number)
        self.same(lambda side: side.on_name(call, name))

    @rule(name=NAMES, leads_to=st.sampled_from(["a", "d", "../a", "nothing", "."]))
    def symlink(self, name: str, leads_to: str) -> None:
        self.same(lambda side: attempt(os.symlink, leads_to, side.root / name))

    @rule(number=KNOWN, goal=NAMES)
    def link(self, number: int, goal: str) -> None:
        name = self.known(number)
        self.same(lambda side: side.on_names(os.link, name, goal))

    @rule(number=KNOWN, goal=NAMES, flags=st.sampled_from([0, 0, 0, 1, 2, 2]))
    def rename(self, number: int, goal: str, flags: int) -> None:
        name = self.known(number)
        self.same(lambda side: side.on_names(renameat2, name, goal, flags))

    @rule(number=KNOWN, mode=st.sampled_from([0o644, 0o4755, 0o2755, 0o1777, 0]))
    def chmod(self, number: int, mode: int) -> None:
        name = self.known(number)
        self.same(lambda side: side.on_name(os.chmod, name, mode))

    @rule(number=KNOWN, uid=st.sampled_from([-1, 0, 5]), gid=st.sampled_from([-1, 0, 6]))
    def chown(self, number: int, uid: int, gid: int) -> None:
        name = self.known(number)
        self.same(lambda side: side.on_name(os.chown, name, uid, gid))

    @rule(number=KNOWN, key=ATTRIBUTES, value=st.binary(max_size=20), flags=st.integers(0, 2))
    def set_attribute(self, number: int, key: str, value: bytes, flags: int) -> None:
        name = self.known(number)
        self.same(lambda side: side.on_name(os.setxattr, name, key, value, flags))

    @rule(number=KNOWN, key=st.sampled_from([ACCESS, DEFAULT]), value=LISTS)
    def set_list(self, number: int, key: str, value: bytes) -> None:
        name = self.known(number)
        self.same(lambda side: side.on_name(os.setxattr, name, key, value))

    @rule(umask=st.sampled_from([0, 0o022, 0o277]))
    def set_umask(self, umask: int) -> None:
        os.umask(umask)

    @rule(number=KNOWN, key=ATTRIBUTES)
    def remove_attribute(self, number: int, key: str) -> None:
        name = self.known(number)
        self.same(lambda side: side.on_name(os.removexattr, name, key))

    @rule(number=KNOWN)
    def look_at(self, number: int) -> None:
        name = self.known(number)
        self.same(lambda side: side.on_name(look, name))
        self.same(lambda side: side.on_name(lambda path: sorted(os.listdir(path)), name))


@pytest.mark.timeout(400)  # a failure is shrunk before it is reported, that takes minutes
def test_random_calls(sides: Sides, ours: Mount) -> None:
    run_state_machine_as_test(
        lambda: Machine(sides, ours),  # type: ignore[arg-type]  # documented to take a factory
        settings=settings(
            max_examples=200,
            stateful_step_count=50,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
