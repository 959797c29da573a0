"""Content: reading and writing, and ways to copy."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from tests.parity.content import PAGE, runs, whole
from tests.parity.sides import attempt, look, made, on_both, opened
from tests.support.files import fallocate


@on_both
def test_read_and_write_at_odd_places(here: Path) -> Iterator[object]:
    with opened(here / "file") as fd:
        for number, (offset, length) in enumerate(
            product((0, 1, PAGE - 1, PAGE, 3 * PAGE + 7), (0, 1, PAGE - 1, PAGE, 3 * PAGE))
        ):
            yield os.pwrite(fd, bytes([number]) * length, offset), look(fd)
            yield runs(os.pread(fd, length, offset)), runs(os.pread(fd, 2 * PAGE, offset + 5))
        yield whole(fd), os.pread(fd, 10, 100 * PAGE), attempt(os.pread, fd, 10, -1)
        yield attempt(os.pwrite, fd, b"x", -1), attempt(os.lseek, fd, -1, os.SEEK_SET)
        yield os.lseek(fd, 5, os.SEEK_END), os.write(fd, b"behind the end"), whole(fd)


@on_both
def test_large_reads_and_writes(here: Path) -> Iterator[object]:
    """Larger than a request of FUSE."""
    data = bytes(range(251)) * 30_000
    with opened(here / "file") as fd:
        yield os.pwrite(fd, data, 11), look(fd)
        yield os.pread(fd, len(data) + 100, 11) == data
        _forget(fd)
        yield (
            os.pread(fd, len(data), 11) == data,
            os.pread(fd, 3 << 20, 5 << 20) == data[(5 << 20) - 11 :],
        )


def _forget(fd: int) -> None:
    """Empty the page cache of the file: tmpfs is its own page cache and loses nothing."""
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


@on_both
def test_vectors_and_append(here: Path) -> Iterator[object]:
    with opened(here / "file") as fd, opened(here / "file", os.O_RDWR | os.O_APPEND) as end:
        yield os.writev(fd, [b"one", b"", b"two" * 3000]), look(fd)
        parts = [bytearray(2), bytearray(5), bytearray(10000)]
        yield os.preadv(fd, parts, 1), [runs(bytes(part)) for part in parts]
        yield os.pwrite(end, b"pwrite appends too", 0), os.write(end, b"append"), look(fd)
        yield os.pwritev(fd, [b"A", b"P"], 0, os.RWF_APPEND), whole(fd)
        yield os.lseek(end, 0, os.SEEK_CUR), os.lseek(fd, 0, os.SEEK_CUR)
        os.ftruncate(fd, 2)
        yield os.write(end, b"after"), whole(fd)


@on_both
def test_appenders_do_not_overwrite_each_other(here: Path) -> Iterator[object]:
    """Two processes, 300 records each: none torn, none lost."""

    def append(letter: bytes) -> None:
        with opened(here / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as fd:
            for _ in range(300):
                os.write(fd, letter * 700)

    pids = []
    for letter in (b"a", b"b"):
        pid = os.fork()
        if pid == 0:
            append(letter)
            os._exit(0)
        pids.append(pid)
    yield [os.waitpid(pid, 0)[1] for pid in pids]
    data = (here / "log").read_bytes()
    yield sorted({data[at : at + 700] for at in range(0, len(data), 700)}), len(data)


@on_both
def test_access_mode_of_the_descriptor(here: Path) -> Iterator[object]:
    made(here / "file", b"content")
    for way in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_PATH):
        with opened(here / "file", way) as fd:
            yield way, attempt(os.pread, fd, 10, 0), attempt(os.pwrite, fd, b"x", 0)
            yield attempt(os.ftruncate, fd, 20), attempt(fallocate, fd, 0, 0, 30)
            yield attempt(os.lseek, fd, 0, os.SEEK_END), attempt(os.fsync, fd)
            yield attempt(os.fchmod, fd, 0o600), attempt(os.fdatasync, fd)
            yield fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_ACCMODE & ~0o100000
    with opened(here, os.O_RDONLY) as fd:
        yield attempt(os.read, fd, 10), attempt(os.fsync, fd), attempt(os.ftruncate, fd, 0)
        yield attempt(fallocate, fd, 0, 0, 1), attempt(os.pread, fd, 1, 0)
    for name in ("", "missing", "file/x"):
        yield name, attempt(os.truncate, here / name, 0)


@on_both
def test_copying_in_the_kernel(here: Path) -> Iterator[object]:
    data = bytes(range(256)) * 600
    made(here / "source", data)
    with opened(here / "source") as source, opened(here / "goal") as goal:
        yield os.copy_file_range(source, goal, 100_000, 5, 7), whole(goal)[:20], look(goal)
        yield os.copy_file_range(source, goal, 10, len(data) - 3, 0), look(goal)
        yield os.copy_file_range(source, goal, 10, len(data), 0)
        yield attempt(os.copy_file_range, source, source, 100, 0, 50)
        yield os.copy_file_range(source, source, 100, 0, 1_000_000), look(source)
        yield os.sendfile(goal, source, 50, 100_000), os.lseek(goal, 0, os.SEEK_CUR)
        reader, writer = os.pipe()
        yield os.splice(source, writer, 5000, offset_src=11)
        yield os.splice(reader, goal, 5000, offset_dst=3)
        yield os.sendfile(writer, source, 30_000, 3000), os.splice(reader, goal, 3000)
        os.close(reader)
        os.close(writer)
        yield hash(os.pread(goal, 1 << 20, 0)), look(goal), os.lseek(goal, 0, os.SEEK_CUR)
    for flag in (0x40049409, 0xC0185879):  # FICLONE, FIDEDUPERANGE: no reflinks on either
        with opened(here / "source") as source, opened(here / "goal") as goal:
            argument = source if flag == 0x40049409 else bytes(64)
            yield flag, attempt(fcntl.ioctl, goal, flag, argument)


@on_both
def test_direct_io(here: Path) -> Iterator[object]:
    path, direct = here / "file", os.O_RDWR | os.O_CREAT | os.O_DIRECT
    with opened(path, direct) as fd, opened(path) as other:
        yield os.pwrite(fd, b"a" * 2 * PAGE, 0), whole(other), look(fd)
        yield os.pwrite(other, b"b" * 100, 50), runs(os.pread(fd, PAGE, 0))
        yield "unaligned", os.pwrite(fd, b"c" * 10, 3), whole(other), whole(fd)
        yield fcntl.fcntl(fd, fcntl.F_SETFL, 0), whole(fd)
        yield attempt(fcntl.fcntl, other, fcntl.F_SETFL, os.O_DIRECT), whole(other)
