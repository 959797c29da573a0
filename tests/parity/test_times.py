"""Which times change with which operation, and setting them to the ns."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.parity.calls import RENAME_EXCHANGE, birth_ns, renameat2, statx_mask, utimensat
from tests.parity.sides import as_user, attempt, look, made, on_both, opened
from tests.support.files import fallocate

UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2
OLD = 10**18 + 123_456_789
"""ns since the epoch, a day in the past."""
PAGE = 4096
CLOCK_REALTIME_COARSE = 5  # <linux/time.h>; the time module has no name for it


Times = tuple[tuple[int, int], tuple[int, int]]
"""(seconds, ns) of atime and mtime."""


class Clock:
    """Tells which times of which entries an operation changed."""

    def __init__(self, here: Path, *names: str) -> None:
        self.paths = {name: here / name for name in names}

    def changed_by(self, call: Callable[..., object], *arguments: object) -> tuple[object, str]:
        """The result, and for instance ``file:mc dir:a``. Before it, atime < mtime < ctime, so
        that relatime has every reason to act.
        """
        for path in self.paths.values():
            if os.path.lexists(path):
                os.utime(path, ns=(OLD, OLD + 1), follow_symlinks=False)
        before = self._times()
        wait_for_the_next_tick()
        result = attempt(call, *arguments)
        after = self._times()
        return result, " ".join(
            f"{name}:{_letters(before[name], now)}" for name, now in after.items() if name in before
        )

    def _times(self) -> dict[str, tuple[int, int, int]]:
        found = {}
        for name, path in self.paths.items():
            with contextlib.suppress(OSError):
                now = os.lstat(path)
                found[name] = (now.st_atime_ns, now.st_mtime_ns, now.st_ctime_ns)
        return found


def _letters(before: tuple[int, ...], after: tuple[int, ...]) -> str:
    return "".join(k for k, b, a in zip("amc", before, after, strict=True) if a != b)


def wait_for_the_next_tick() -> None:
    """Until the coarse clock, with which tmpfs stamps, has moved."""
    start = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) == start:
        time.sleep(0.0005)  # the pause of a poll


@on_both
def test_times_of_files(here: Path) -> Iterator[object]:
    made(here / "file", b"x" * 3 * PAGE)
    clock = Clock(here, "file", ".")
    with opened(here / "file") as fd, opened(here / "file", os.O_RDONLY) as reader:
        for call, *arguments in (
            (os.stat, here / "missing"), (os.fstat, -1),
            (os.pwrite, fd, b"x", 0), (os.pwrite, fd, b"", 0),
            (os.pwrite, fd, b"x" * PAGE, 5 * PAGE),
            (os.ftruncate, fd, 6 * PAGE), (os.ftruncate, fd, 100), (os.ftruncate, fd, 2 * PAGE),
            (os.truncate, here / "file", 2 * PAGE), (os.truncate, here / "file", PAGE),
            (fallocate, fd, 0, 0, 3 * PAGE), (fallocate, fd, 1, 0, 9 * PAGE),
            (fallocate, fd, 3, 0, PAGE), (os.fsync, fd), (os.lseek, fd, 0, os.SEEK_DATA),
            (os.chmod, here / "file", 0o600), (os.chmod, here / "file", 0o600),
            (os.chown, here / "file", 1, 1), (os.chown, here / "file", -1, -1),
            (os.setxattr, here / "file", "user.a", b"1"),
            (os.setxattr, here / "file", "user.a", b"2"),
            (os.setxattr, here / "file", "user.a", b"1", os.XATTR_CREATE),
            (os.removexattr, here / "file", "user.a"), (os.removexattr, here / "file", "user.a"),
            (os.listxattr, here / "file"), (os.access, here / "file", os.R_OK),
            (os.copy_file_range, reader, fd, 10, 0, 50),
            (os.copy_file_range, reader, fd, 10, 10**6, 50),
        ):  # fmt: skip
            result, times = clock.changed_by(call, *arguments)
            yield call.__name__, arguments[1:], result if isinstance(result, str) else "", times
        yield "O_TRUNC", clock.changed_by(_open, here / "file", os.O_WRONLY | os.O_TRUNC)
        yield "O_TRUNC of nothing", clock.changed_by(_open, here / "file", os.O_WRONLY | os.O_TRUNC)
        yield "O_CREAT", clock.changed_by(_open, here / "file", os.O_WRONLY | os.O_CREAT)


def _open(path: Path, flags: int) -> None:
    os.close(os.open(path, flags))


@on_both
def test_times_of_names(here: Path) -> Iterator[object]:
    for name in ("one", "two"):
        (here / name / "dir").mkdir(parents=True)
        made(here / name / "file")
    os.symlink("file", here / "one/link")
    clock = Clock(here, ".", "one", "two", "one/file", "two/file", "one/dir", "two/dir", "one/link",
                  "one/new", "two/new")  # fmt: skip
    for call, *names in (
        (made, "one/new"), (os.unlink, "one/new"), (os.mkdir, "one/new"), (os.rmdir, "one/new"),
        (os.mkfifo, "one/new"), (os.unlink, "one/new"), (os.link, "one/file", "two/new"),
        (os.link, "one/file", "two/new"), (os.rename, "one/file", "two/new"),
        (os.unlink, "two/new"),
        (os.rename, "one/file", "one/new"), (os.rename, "one/new", "two/new"),
        (os.rename, "two/new", "two/file"), (os.rename, "one/dir", "two/new"),
        (os.rename, "two/new", "two/dir"), (os.rename, "two/dir", "two/dir"), (os.mkdir, "two"),
        (os.unlink, "one/missing"), (os.rename, "two/dir", "one/dir"),
    ):  # fmt: skip
        result, times = clock.changed_by(call, *(here / name for name in names))
        yield call.__name__, names, result if isinstance(result, str) else "", times
    for left, right in (("one/dir", "two/file"), ("one/link", "one/dir"), ("one/link", "one/link")):
        yield left, right, clock.changed_by(renameat2, here / left, here / right, RENAME_EXCHANGE)


@on_both
def test_reading_changes_atime(here: Path) -> Iterator[object]:
    """relatime: once, until the next change. Read from the daemon, that is, not from the cache."""
    made(here / "file", b"x" * 4 * PAGE)
    (here / "dir").mkdir()
    made(here / "dir" / "inside")
    os.symlink("file", here / "link")
    clock = Clock(here, "file", "dir", "link")
    with opened(here / "file", os.O_RDONLY) as fd:
        _forget_pages(fd)
        yield "read", clock.changed_by(os.pread, fd, 5, 0)[1]
    yield "readdir", clock.changed_by(os.listdir, here / "dir")[1]
    yield "readlink", clock.changed_by(os.readlink, here / "link")
    yield "stat", clock.changed_by(os.listxattr, here / "link")
    for number, (atime, mtime) in enumerate(((1, 2), (2, 1), (0, None))):
        path = made(here / f"aged{number}", b"x" * PAGE)
        now = time.time_ns()
        times = (atime * 10**9, mtime * 10**9) if mtime is not None else (now + 10**18, 0)
        os.utime(path, ns=times)
        with opened(path, os.O_RDONLY) as fd:
            for _ in range(2):
                _forget_pages(fd)
                before = os.fstat(fd).st_atime_ns
                os.pread(fd, 5, 0)
                yield number, os.fstat(fd).st_atime_ns != before
    with opened(here / "file", os.O_RDONLY | os.O_NOATIME) as fd:
        _forget_pages(fd)
        yield "O_NOATIME", clock.changed_by(os.pread, fd, 5, 0)


def _forget_pages(fd: int) -> None:
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


@on_both
def test_a_mapping_and_times(here: Path) -> Iterator[object]:
    """A store counts at the latest when it is written back (how soon: test_limits.py)."""
    made(here / "file", b"x" * 3 * PAGE)
    clock = Clock(here, "file")
    with opened(here / "file") as fd, mmap.mmap(fd, 3 * PAGE) as shared:
        for page, sync in enumerate((shared.flush, lambda: os.fsync(fd))):
            yield page, clock.changed_by(_store, shared, page * PAGE, sync)
        yield "nothing is dirty", clock.changed_by(shared.flush)
    with opened(here / "file") as fd:
        shared = mmap.mmap(fd, 3 * PAGE)
        yield "munmap", clock.changed_by(_store, shared, 5, shared.close)


def _store(shared: mmap.mmap, at: int, sync: Callable[[], object]) -> None:
    shared[at] = 5
    sync()


@on_both
def test_setting_times(here: Path) -> Iterator[object]:
    path = made(here / "file")
    os.symlink("file", here / "link")
    for ns in (0, 1, 999_999_999, 10**9, -1, -(10**9), -1_500_000_000, 2**31 * 10**9,
               2**33 * 10**9 + 5, OLD, -(2**31) * 10**9):  # fmt: skip
        yield ns, attempt(os.utime, path, ns=(ns, ns + 3))
        yield os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns
    yield attempt(os.utime, here / "link", ns=(5, 6), follow_symlinks=False)
    yield os.lstat(here / "link").st_mtime_ns, os.stat(path).st_mtime_ns
    for atime, mtime in (
        ((0, UTIME_OMIT), (5, 6)), ((7, 8), (0, UTIME_OMIT)), ((0, UTIME_OMIT), (0, UTIME_OMIT)),
        ((5, 10**9), (0, 0)), ((9, 9), (0, UTIME_NOW)), ((0, UTIME_NOW), (3, 4)),
        ((0, UTIME_NOW), (0, UTIME_OMIT)),
    ):  # fmt: skip
        before = os.stat(path).st_ctime_ns
        wait_for_the_next_tick()
        yield atime, mtime, attempt(utimensat, path, atime, mtime)
        found = os.stat(path)
        yield (
            [stamp if stamp < OLD else "now" for stamp in (found.st_atime_ns, found.st_mtime_ns)],
            found.st_ctime_ns != before,
        )
    utimensat(path, (0, UTIME_NOW), (0, UTIME_NOW))
    found = os.stat(path)
    yield abs(found.st_mtime_ns - time.time_ns()) < 10**10, found.st_mtime_ns - found.st_atime_ns


@on_both
def test_who_may_set_times(here: Path) -> Iterator[object]:
    made(here / "foreign", mode=0o644)
    made(here / "writable", mode=0o666)
    os.chown(made(here / "own", mode=0o444), 12345, 12345)
    now, omit = (0, UTIME_NOW), (0, UTIME_OMIT)
    choices: list[Times] = [((1, 2), (3, 4)), (now, now), (now, omit), (omit, omit)]
    for name in ("foreign", "writable", "own"):
        for times in choices:
            yield name, times, as_user(partial(_set_times, name, times), here)


def _set_times(name: str, times: Times, at: Path) -> list[object]:
    return [attempt(utimensat, at / name, *times)]


@on_both
def test_new_entries_are_stamped_now(here: Path) -> Iterator[object]:
    start = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    made(here / "file")
    (here / "dir").mkdir()
    os.symlink("x", here / "link")
    for name in ("file", "dir", "link"):
        found = os.lstat(here / name)
        stamps = (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
        yield name, all(start <= stamp <= time.time_ns() for stamp in stamps)
        yield stat.S_IFMT(found.st_mode), statx_mask(here / name, 0xFFF)


@on_both
def test_the_birth_of_a_file(here: Path) -> Iterator[object]:
    """It is when the entry was made, whatever happens to it later; nobody can set it."""
    start = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    made(here / "file", b"content")
    os.mkdir(here / "dir")
    os.symlink("file", here / "link")
    os.mkfifo(here / "fifo")
    os.mknod(here / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    end = time.time_ns()
    names = ("file", "dir", "link", "fifo", "null")
    births = {name: birth_ns(here / name) for name in names}
    for name in names:
        yield name, start <= births[name] <= end, os.lstat(here / name).st_rdev
        os.utime(here / name, ns=(OLD, OLD), follow_symlinks=False)
        os.lchown(here / name, 5, 5)
        os.rename(here / name, here / f"{name}2")
        yield birth_ns(here / f"{name}2") == births[name], look(here / f"{name}2")
    wait_for_the_next_tick()
    with opened(here / "file2") as fd:
        os.pwrite(fd, b"longer content", 0)
        os.ftruncate(fd, 3)
    yield birth_ns(here / "file2") == births["file"], look(here / "file2")
    os.rename(made(here / "other"), here / "file2")
    yield birth_ns(here / "file2") > births["file"]
