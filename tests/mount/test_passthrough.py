"""What is particular to the direct path: its choice, its watching, and what processes do unseen."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import SharedMount
from tests.support.files import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, VFile, fallocate
from tests.support.fvrange import PAGE, SIGBUS, ZERO, pages
from tests.support.mount import Mount, MountFactory, run
from tests.support.waiting import eventually
from tests.support.watchdog import Watchdog
from vfs_volatile import VRANGE_VOLATILE, fvrange_many, mvrange

MIB = 1 << 20


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, probe: Path, watchdog: Watchdog
) -> Iterator[SharedMount]:
    made = SharedMount(
        lambda: Mount(tmp_path_factory.mktemp("direct"), watchdog, probe, access="zero")
    )
    yield made
    made.end()


@pytest.fixture
def direct(shared: SharedMount) -> Iterator[Mount]:
    mounted = shared.get()
    mounted.rearm()
    yield mounted
    shared.check()


def test_what_lies_beyond_16_tib_is_never_volatile(direct: Mount) -> None:
    """No page there has a number that fits; a mapping of it is in nobody's way."""
    end = 16 << 40
    file = direct.open("large")
    os.pwrite(file.fd, b"l" * 2 * PAGE, end - 2 * PAGE)
    os.pwrite(file.fd, b"b" * 4 * PAGE, end)
    with (
        mmap.mmap(file.fd, 4 * PAGE, offset=end - 2 * PAGE) as over,
        mmap.mmap(file.fd, 2 * PAGE, offset=end + 2 * PAGE) as beyond,
        mmap.mmap(file.fd, 2 * PAGE, mmap.MAP_PRIVATE, mmap.PROT_READ, offset=end + 2 * PAGE),
    ):
        assert mvrange(over, 4 * PAGE, VRANGE_VOLATILE, fd=file.fd) == 0
        assert mvrange(beyond, 2 * PAGE, VRANGE_VOLATILE, fd=file.fd) == 0
        file.mark()
        assert file.purge() == 2 * PAGE
        assert over[:] == bytes(2 * PAGE) + b"b" * 2 * PAGE
        assert beyond[:] == b"b" * 2 * PAGE
        assert file.unmark(end, 0) == 0
        assert file.unmark() == 2 * PAGE
    os.ftruncate(file.fd, 0)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


@contextmanager
def mapping_alone(file: VFile, flags: int) -> Iterator[int]:
    """The address of the file's pages, mapped; the mapping is all that is left of the open file.

    Python's own ``mmap`` keeps a descriptor.
    """
    length = os.fstat(file.fd).st_size
    address = _libc.mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, file.fd, 0)
    assert address not in (None, ctypes.c_void_p(-1).value)
    file.close()
    yield address
    _libc.munmap(address, length)


def path_of(path: Path) -> str:
    return os.getxattr(path, "user.fvrange.data_path").decode()


# ---- which files take it ----


def test_files_of_a_zero_mount_take_it(direct: Mount) -> None:
    file = direct.file("file", 3)
    assert path_of(file.path) == "passthrough: purged pages read as zeros"
    with_a_name = run("status", file.path)
    assert "passthrough: purged pages read as zeros" in with_a_name.stdout
    assert json.loads(run("status", file.path, "--json").stdout)["data_path"].startswith("pass")
    assert direct.stats()["passthrough"] == 3 * PAGE
    assert file.reads() == "abc"


def test_errors_cannot_be_asked_for_on_it(direct: Mount) -> None:
    file, other = direct.file("file", 3), direct.file("other", 1)
    with mmap.mmap(file.fd, 3 * PAGE) as memory:
        for mark in (
            lambda: file.mark(behavior=SIGBUS),
            lambda: file.set_attribute("volatile", "all;sigbus"),
            lambda: fvrange_many(file.fd, [pages(0), pages(2)], VRANGE_VOLATILE, SIGBUS),
            lambda: mvrange(memory, PAGE, VRANGE_VOLATILE, SIGBUS, fd=other.fd),
        ):
            with pytest.raises(OSError, match="not supported") as caught:
                mark()
            assert caught.value.errno == errno.EOPNOTSUPP
    assert file.ranges() == other.ranges() == []
    refused = run("mark", file.path, "--sigbus")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "mark it --zero" in refused.stderr


def test_on_a_mount_with_errors_it_is_for_what_is_marked_zero_before_it_is_open(fs: Mount) -> None:
    path = fs.path / "file"
    path.touch()
    assert path_of(path) == "cached: touching a purged page is an error, as the mount says"
    os.truncate(path, 4 * PAGE)
    os.setxattr(path, "user.fvrange.volatile", b"all;zero")
    assert path_of(path).startswith("passthrough")
    file = fs.open("file")
    file.fill(4)
    file.purge(*pages(1))
    assert file.reads() == "a0cd"
    with pytest.raises(OSError, match="not supported"):
        file.mark()
    assert file.unmark() == PAGE


def test_why_a_file_does_not_take_it(fs: Mount, mount: MountFactory) -> None:
    file = fs.file("file", 2)
    file.mark(behavior=ZERO)
    assert path_of(file.path) == "cached: it was open when it was marked zero"
    file.close()
    assert eventually(lambda: "it held data before" in path_of(file.path))
    file = fs.file("mixed", 2)
    file.mark(*pages(0), behavior=ZERO)
    file.mark(*pages(1), behavior=SIGBUS)
    assert path_of(file.path) == "cached: touching a purged page is an error, as a mark says"
    off = mount(access="zero", o="passthrough=off")
    assert path_of(off.file("file", 1).path) == "cached: the mount has -o passthrough=off"


# ---- what processes do unseen ----


def test_all_who_open_it_see_one_file(direct: Mount) -> None:
    file = direct.file("file", 4)
    actor = direct.actor(file).map("shared")
    assert actor.store(PAGE, "z") == "ok"
    os.pwrite(file.fd, b"y" * PAGE, 4 * PAGE)
    again = direct.open("file", os.O_RDONLY)
    assert os.fstat(again.fd).st_size == 5 * PAGE
    assert again.reads() == "a?cdy"
    os.truncate(file.path, 2 * PAGE)
    assert again.reads() == "a?"
    assert direct.resident == 2 * PAGE


def test_it_is_mapped_after_the_last_close(direct: Mount) -> None:
    """The kernel sends RELEASE then; what is mapped still fills, and counts, and blocks."""
    file = direct.file("file", 4)
    file.mark()
    with mapping_alone(file, mmap.MAP_PRIVATE) as address:
        assert ctypes.string_at(address, 1) == b"a"
        again = direct.open("file")
        assert again.purge() == 0, "mapped private by us"
        again.close()
        assert os.getxattr(file.path, "user.fvrange.purged") == b""
        os.setxattr(file.path, "user.fvrange.purge", b"all")
        assert os.getxattr(file.path, "user.fvrange.purged") == b""
    os.setxattr(file.path, "user.fvrange.purge", b"all")
    assert os.getxattr(file.path, "user.fvrange.purged") == b"0+16384"
    assert eventually(lambda: direct.resident == 0)


def test_what_a_mapping_stores_after_the_last_close_is_counted(direct: Mount) -> None:
    file = direct.open("file")
    os.ftruncate(file.fd, 4 * PAGE)
    with mapping_alone(file, mmap.MAP_SHARED) as address:
        ctypes.memset(address + PAGE, 1, 1)
        assert direct.resident == PAGE
        assert os.stat(file.path).st_blocks == 8
    os.unlink(file.path)
    assert eventually(lambda: direct.resident == 0)


def test_marks_last_until_it_is_unmapped(mount: MountFactory) -> None:
    last = mount(access="zero", lifetime="last-close")
    file = last.file("file", 4)
    file.mark()
    with mapping_alone(file, mmap.MAP_SHARED):
        again = last.open("file")
        assert len(again.ranges()) == 1
        again.close()
        assert os.getxattr(file.path, "user.fvrange.volatile") == b"0+16384"
    assert eventually(lambda: os.getxattr(file.path, "user.fvrange.volatile") == b"")


def test_an_unlinked_file_lives_while_it_is_open(direct: Mount) -> None:
    file = direct.file("file", 4)
    file.mark()
    os.unlink(file.path)
    assert file.purge(*pages(0, 2)) == 2 * PAGE
    assert file.reads() == "00cd"
    assert direct.resident == 2 * PAGE
    file.close()
    assert eventually(lambda: direct.resident == 0)


def test_appending_and_growing_unseen(direct: Mount) -> None:
    file = direct.open("file", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.write(file.fd, b"a" * PAGE)
    file.mark()
    os.write(file.fd, b"b" * PAGE)
    assert [(run.start, run.length) for run in file.ranges()] == [(0, PAGE)]
    file.mark()
    assert file.purge() == 2 * PAGE
    os.write(file.fd, b"c" * PAGE)
    assert file.reads() == "00c"
    fallocate(file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, *pages(0, 1))
    assert file.unmark() == PAGE, "punching a hole made the other intact"


def grow_by_truncate(file: VFile) -> None:
    os.ftruncate(file.fd, 2 * PAGE)


def grow_by_write(file: VFile) -> None:
    os.pwrite(file.fd, b"w", 2 * PAGE - 1)


def grow_by_fallocate(file: VFile) -> None:
    fallocate(file.fd, 0, PAGE, PAGE)


@pytest.mark.parametrize("grow", [grow_by_truncate, grow_by_write, grow_by_fallocate])
def test_what_the_kernel_knows_of_an_empty_file_ends_when_it_grows(
    direct: Mount, grow: Callable[[VFile], None]
) -> None:
    """Of an empty one it need not ask: nothing can be stored to it through a mapping."""
    file = direct.open("file")
    assert os.fstat(file.fd).st_size == 0
    grow(file)
    held = 0 if grow is grow_by_truncate else 8
    found = os.fstat(file.fd)
    assert (found.st_size, found.st_blocks) == (2 * PAGE, held)
    with mmap.mmap(file.fd, 2 * PAGE) as memory:
        assert os.fstat(file.fd).st_blocks == held
        memory[0] = 1
        assert os.fstat(file.fd).st_blocks == held + 8


def test_times_follow_what_is_stored_and_a_purge_is_no_change(direct: Mount) -> None:
    file = direct.file("file", 2)
    os.utime(file.fd, ns=(10**18, 10**18 + 5))
    found = os.fstat(file.fd)
    assert (found.st_atime_ns, found.st_mtime_ns) == (10**18, 10**18 + 5)
    file.mark()
    assert file.purge() == 2 * PAGE
    assert os.fstat(file.fd).st_mtime_ns == 10**18 + 5
    with mmap.mmap(file.fd, 2 * PAGE) as memory:
        memory[0] = 1
    changed = os.fstat(file.fd)
    assert changed.st_mtime_ns > 10**18 + 5
    assert changed.st_ctime_ns > found.st_ctime_ns


def test_it_opens_when_the_descriptors_of_the_daemon_are_few(direct: Mount) -> None:
    """A file costs none, however many are open."""
    before = len(os.listdir(f"/proc/{direct.process.pid}/fd"))
    files = [direct.file(f"file{number}", 1) for number in range(400)]
    assert len(os.listdir(f"/proc/{direct.process.pid}/fd")) - before <= 256
    for file in files:
        file.mark()
    assert sum(file.purge() for file in files) == 400 * PAGE
    assert {file.reads() for file in files} == {"0"}


# ---- budget and size ----


def test_what_is_filled_unseen_is_purged_for_the_budget(mount: MountFactory) -> None:
    mounted = mount(access="zero", budget="8M", size="64M")
    file = mounted.open("file")
    os.ftruncate(file.fd, 32 * MIB)
    file.mark()
    for start in range(0, 32 * MIB, MIB):
        os.pwrite(file.fd, b"x" * MIB, start)
    assert mounted.within_budget()
    assert len(file.purged_pages()) * PAGE >= 24 * MIB
    with mmap.mmap(file.fd, 32 * MIB) as memory:
        memory[:] = bytes(32 * MIB)
        assert mounted.within_budget(), "also what was filled again after it was purged"


def test_the_oldest_goes_first_and_no_more_than_needed(mount: MountFactory) -> None:
    mounted = mount(access="zero", budget="8M", size="64M")
    files = []
    for number in range(6):
        files.append(mounted.open(f"file{number}"))
        os.ftruncate(files[-1].fd, 2 * MIB)
        files[-1].mark()
    for file in files:
        os.pwrite(file.fd, b"x" * (2 * MIB), 0)
    assert mounted.within_budget()
    assert [bool(file.purged_pages()) for file in files] == [True, True, *[False] * 4]


def test_no_more_than_its_size_can_be_stored(mount: MountFactory) -> None:
    mounted = mount(access="zero", budget="4M", size="4M")
    file = mounted.open("file")
    assert fill(file, 8 * MIB) == 4 * MIB
    found = os.statvfs(mounted.path)
    assert (found.f_blocks * found.f_frsize, found.f_bfree) == (4 * MIB, 0)
    other = mounted.open("other")
    assert fill(other, PAGE) == 0
    file.mark(0, 2 * MIB)
    assert file.purge() == 2 * MIB
    assert fill(other, 4 * MIB) == 2 * MIB


def fill(file: VFile, size: int) -> int:
    """Bytes that could be written."""
    stored = 0
    try:
        while stored < size:
            stored += os.pwrite(file.fd, b"x" * min(MIB, size - stored), stored)
    except OSError as error:
        assert error.errno == errno.ENOSPC
    return stored
