"""Content: reading, writing, sizes, holes, space, and ways to copy."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from tests.parity.sides import attempt, in_child, is_empty, look, made, on_both, opened
from tests.support.files import fallocate

PAGE = 4096
TERA = 1 << 40
KEEP = 1
PUNCH = 2 | KEEP
COLLAPSE = 8
INSERT = 32
UNSHARE = 64


def holes(fd: int) -> list[object]:
    """Where SEEK_DATA and SEEK_HOLE lead from each half page, and from beyond the end."""
    size = os.fstat(fd).st_size
    at = [*range(0, min(size, 16 * PAGE) + PAGE, PAGE // 2), size - 1, size, -1]
    return [
        (start, *(attempt(os.lseek, fd, start, whence) for whence in (os.SEEK_DATA, os.SEEK_HOLE)))
        for start in at
    ]


def runs(data: bytes) -> list[tuple[int, int]]:
    """(byte, how many) of each run of equal bytes, so that a difference can be read."""
    found: list[tuple[int, int]] = []
    for byte in data:
        if found and found[-1][0] == byte:
            found[-1] = (byte, found[-1][1] + 1)
        else:
            found.append((byte, 1))
    return found


def whole(fd: int) -> list[tuple[int, int]]:
    return runs(os.pread(fd, os.fstat(fd).st_size, 0))


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
def test_truncate(here: Path) -> Iterator[object]:
    """What is cut off and uncovered again reads as zeros."""
    with opened(here / "file") as fd:
        os.pwrite(fd, b"x" * 4 * PAGE, 0)
        for size in (3 * PAGE + 5, 4 * PAGE, 2 * PAGE, 2 * PAGE, PAGE - 1, 5 * PAGE, 0, 1, 0):
            os.ftruncate(fd, size)
            yield size, look(fd), whole(fd)
        os.pwrite(fd, b"y" * 100, 0)
        os.truncate(here / "file", 50)
        os.pwrite(fd, b"z", 200)
        yield whole(fd), attempt(os.ftruncate, fd, -1)
        with opened(here / "file", os.O_RDWR | os.O_TRUNC):
            yield look(fd), whole(fd)


@on_both
def test_fallocate(here: Path) -> Iterator[object]:
    modes = (0, KEEP, PUNCH, 2, COLLAPSE, INSERT, UNSHARE, 128, COLLAPSE | KEEP)
    spans = ((0, PAGE), (100, 50), (PAGE - 1, 2), (PAGE, 2 * PAGE), (3 * PAGE + 1, 3 * PAGE),
             (20 * PAGE, 5), (0, 0), (-1, 5), (5, -1), ((1 << 63) - 1, 1),
             (1 << 62, 1 << 62))  # fmt: skip
    for mode, (start, length) in product(modes, spans):
        with opened(here / f"{mode}.{start}.{length}") as fd:
            os.pwrite(fd, b"x" * 3 * PAGE + b"tail", 0)
            os.ftruncate(fd, 6 * PAGE + 10)
            yield mode, start, length, attempt(fallocate, fd, mode, start, length)
            yield look(fd), whole(fd)


@on_both
def test_memory_beyond_the_end(here: Path) -> Iterator[object]:
    """Allocated by FALLOC_FL_KEEP_SIZE: counted, zero when the file grows over it."""
    with opened(here / "file") as fd:
        os.pwrite(fd, b"x", 0)
        fallocate(fd, KEEP, 0, 8 * PAGE)
        yield look(fd)
        os.pwrite(fd, b"y", 6 * PAGE)
        yield look(fd), whole(fd)
        fallocate(fd, PUNCH, 7 * PAGE, PAGE)
        yield look(fd)
        os.ftruncate(fd, 7 * PAGE)
        yield look(fd)
        os.ftruncate(fd, 6 * PAGE)
        yield look(fd)


@on_both
def test_holes(here: Path) -> Iterator[object]:
    with opened(here / "file") as fd:
        yield holes(fd)
        os.ftruncate(fd, 3 * PAGE + 5)
        yield holes(fd)
        os.pwrite(fd, b"x", PAGE)
        yield holes(fd), look(fd)
        os.pwrite(fd, b"x" * PAGE, 5 * PAGE)
        os.pwrite(fd, bytes(PAGE), 7 * PAGE)
        yield holes(fd), look(fd)
        fallocate(fd, PUNCH, 5 * PAGE + 1, PAGE)
        yield holes(fd), look(fd)
        fallocate(fd, PUNCH, 5 * PAGE, PAGE)
        yield holes(fd), look(fd)
        os.ftruncate(fd, PAGE + 1)
        yield holes(fd), look(fd)
        os.ftruncate(fd, 0)
        yield holes(fd), look(fd)


@on_both
def test_sparse_files_of_terabytes(here: Path) -> Iterator[object]:
    with opened(here / "file") as fd:
        for tera in (1, 2, 15):
            yield os.pwrite(fd, b"x" * 10, tera * TERA), look(fd)
            yield os.pread(fd, 20, tera * TERA - 5), os.lseek(fd, 0, os.SEEK_DATA)
            yield os.lseek(fd, tera * TERA, os.SEEK_HOLE), attempt(os.lseek, fd, 0, os.SEEK_HOLE)
            fallocate(fd, PUNCH, tera * TERA, PAGE)
            yield look(fd), attempt(os.lseek, fd, 0, os.SEEK_DATA)
        largest = 16 * TERA
        for size in (largest - 2 * PAGE, largest - PAGE, largest):
            yield size, attempt(os.ftruncate, fd, size), look(fd)
            yield attempt(os.pwrite, fd, b"ab", size - 2), attempt(os.pread, fd, 9, size - 2)
            yield look(fd), attempt(os.lseek, fd, 0, os.SEEK_DATA)
        yield attempt(os.ftruncate, fd, 5), look(fd), whole(fd)


@on_both
def test_the_limit_on_file_size(here: Path) -> Iterator[object]:
    """RLIMIT_FSIZE: a write that crosses it is short, then EFBIG and SIGXFSZ."""

    def child() -> list[object]:
        signal.signal(signal.SIGXFSZ, lambda *_: seen.append("SIGXFSZ"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (PAGE, PAGE))
        seen: list[object] = []
        with opened(here / "file") as fd:
            for call, *arguments in (
                (os.pwrite, fd, b"x" * 3 * PAGE, 0), (os.pwrite, fd, b"x", PAGE),
                (os.ftruncate, fd, PAGE + 1), (fallocate, fd, 0, 0, PAGE + 1),
                (os.ftruncate, fd, PAGE),
            ):  # fmt: skip
                seen.append(attempt(call, *arguments))  # the handler appends too
            seen.append(look(fd))
        return seen

    yield in_child(child)


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


@on_both
def test_full(here: Path) -> Iterator[object]:
    """At --size: a short write, then ENOSPC; and all of it comes back."""

    def free() -> list[int]:
        found = os.statvfs(here)
        return [found.f_blocks, found.f_bfree, found.f_bavail]

    yield is_empty(here), free()
    total = os.statvfs(here).f_bfree
    with opened(here / "most") as most, opened(here / "rest") as fd:
        fallocate(most, 0, 0, (total - 3) * PAGE)
        yield look(most), free()
        yield attempt(os.pwrite, fd, b"x" * 5 * PAGE, 100), look(fd), free()
        yield attempt(os.pwrite, fd, b"y" * 5 * PAGE, 100), whole(fd)
        yield attempt(os.pwrite, fd, b"y", 100 * PAGE), look(fd)
        yield attempt(os.pwrite, fd, b"fits", 3 * PAGE - 4), look(fd)
        yield attempt(fallocate, fd, 0, 0, 8 * PAGE), look(fd), free()
        yield attempt(fallocate, fd, KEEP, 50 * PAGE, 1), attempt(os.ftruncate, fd, 99 * PAGE)
        fallocate(most, PUNCH, 0, 5 * PAGE)
        yield attempt(fallocate, fd, 0, 0, 4 * PAGE), look(fd), free()
        yield attempt(fallocate, fd, 0, 0, 1 << 43), look(fd), free()
        os.unlink(here / "most")
        yield "still open", free()
    os.truncate(here / "rest", 0)
    yield is_empty(here)
