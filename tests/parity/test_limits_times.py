"""Limits of times, and of stores through a mapping: the kernel tells of them at write-back."""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.parity.limits import ROWS, limit
from tests.parity.sides import attempt, is_empty, made, opened
from tests.parity.test_times import wait_for_the_next_tick
from tests.support.files import fallocate
from tests.support.mount import MountFactory, run
from tests.support.waiting import PATIENCE

PAGE = 4096
OLD = 10**18


@contextmanager
def changes(path: Path, seen: list[str]) -> Iterator[None]:
    """Which of its times change: appends for instance ``mc``."""
    before = os.stat(path)
    wait_for_the_next_tick()
    yield
    after = os.stat(path)
    names = {"a": "st_atime_ns", "m": "st_mtime_ns", "c": "st_ctime_ns"}
    seen.append("".join(k for k, n in names.items() if getattr(before, n) != getattr(after, n)))


@limit("atime of cached reads", ours=["", "", "a"], tmpfs=["a", "a", "a"])
def test_reading_from_the_page_cache(here: Path) -> object:
    seen: list[str] = []
    for offset, cached in ((0, True), (10 * PAGE, True), (0, False)):
        path = made(here / f"{offset}{cached}", b"x" * PAGE)
        os.utime(path, ns=(OLD, OLD + 1))
        with opened(path, os.O_RDONLY) as fd:
            if not cached:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            with changes(path, seen):
                os.pread(fd, 1, offset)
    return seen


@limit("atime of `mmap`", ours=[""], tmpfs=["a"])
def test_mapping_and_atime(here: Path) -> object:
    seen: list[str] = []
    path = made(here / "file", b"x" * PAGE)
    os.utime(path, ns=(OLD, OLD + 1))
    with opened(path) as fd, changes(path, seen):
        mmap.mmap(fd, PAGE).close()
    return seen


@limit("times of FIFOs and sockets", ours=["", "", ""], tmpfs=["mc", "a", "a"])
def test_using_fifos_and_sockets(here: Path) -> object:
    seen: list[str] = []
    os.mkfifo(here / "fifo")
    with opened(here / "fifo", os.O_RDWR) as fd:
        with changes(here / "fifo", seen):
            os.write(fd, b"x")
        os.utime(here / "fifo", ns=(OLD, OLD + 1))
        with changes(here / "fifo", seen):
            os.read(fd, 1)
    start = os.open(".", os.O_PATH)
    os.chdir(here)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("socket")
            server.listen()
            with changes(here / "socket", seen):
                client.connect("socket")
    finally:
        os.fchdir(start)
        os.close(start)
    return seen


@limit("`O_NOATIME` on a directory", ours=["a"], tmpfs=[""])
def test_reading_a_directory_without_a_trace(here: Path) -> object:
    seen: list[str] = []
    os.utime(here, ns=(OLD, OLD + 1))
    with opened(here, os.O_RDONLY | os.O_NOATIME) as fd, changes(here, seen):
        os.listdir(fd)
    return seen


ROWS.append("`-o nodiratime`, `-o strictatime`, remounting with `noatime`")


def test_options_of_atime(mount: MountFactory) -> None:
    mounted = mount()
    remount = ["mount", "-i", "-o", "remount,noatime", str(mounted.path)]
    subprocess.run(remount, check=True, timeout=PATIENCE)
    assert os.statvfs(mounted.path).f_flag & os.ST_NOATIME
    seen: list[str] = []
    os.utime(mounted.path, ns=(OLD, OLD + 1))
    with changes(mounted.path, seen):
        os.listdir(mounted.path)
    assert seen == ["a"]
    for option in ("nodiratime", "strictatime"):
        assert run("mount", mounted.path, "-o", option).returncode == 2


@limit("times and blocks after a store", ours=("", 0, "mc", 8), tmpfs=("mc", 8, "", 8))
def test_a_store_is_seen_at_write_back(here: Path) -> object:
    path = here / "file"
    seen: list[str] = []
    with opened(path) as fd:
        os.ftruncate(fd, PAGE)
        with mmap.mmap(fd, PAGE) as shared:
            with changes(path, seen):
                shared[0] = 1
            before = os.stat(path).st_blocks
            with changes(path, seen):
                shared.flush()
            return seen[0].strip("a"), before, seen[1], os.stat(path).st_blocks


@limit("a store beyond the end of file", ours=(5, 0), tmpfs=(5, 5))
def test_storing_beyond_the_end(here: Path) -> object:
    with opened(here / "file") as fd:
        os.ftruncate(fd, PAGE)
        with mmap.mmap(fd, PAGE) as shared:
            os.ftruncate(fd, 100)
            shared[120] = 5
            before = shared[120]
            shared.flush()
            return before, shared[120]


@limit("a store when the mount is full", ours=("stored", "ENOSPC"), tmpfs=("SIGBUS", None))
def test_storing_on_a_full_mount(here: Path) -> object:
    assert is_empty(here)
    with opened(here / "most") as most, opened(here / "file") as fd:
        fallocate(most, 0, 0, os.statvfs(here).f_bfree * PAGE)
        os.ftruncate(fd, PAGE)
        with mmap.mmap(fd, PAGE) as shared:
            pid = os.fork()
            if pid == 0:
                faulthandler.disable()
                shared[0] = 1
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            result = attempt(shared.flush)
    ended = os.waitstatus_to_exitcode(status)
    return {-signal.SIGBUS: "SIGBUS", 0: "stored"}.get(ended, ended), result
