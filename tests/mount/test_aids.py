"""The aids for tests of a program: attributes of the root that make rare moments common."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.files import VFile
from tests.support.fvrange import PAGE, pages
from tests.support.mount import Mount, MountFactory
from tests.support.waiting import PATIENCE, eventually
from vfs_volatile import VRANGE_VOLATILE, fvrange_many, mvrange

SLOW = 0.3


def get(mounted: Mount, name: str) -> str:
    return os.getxattr(mounted.path, f"user.vfs_volatile.{name}").decode()


# ---- slow_faults ----


def test_reads_are_held_back(mount: MountFactory) -> None:
    mounted = mount()
    file = mounted.file("f", 4)
    mounted.set_root("slow_faults", str(SLOW))
    assert get(mounted, "slow_faults") == str(SLOW)
    file.cool()
    began = time.monotonic()
    assert os.pread(file.fd, 1, 0) == b"a"
    assert time.monotonic() - began >= SLOW
    with mmap.mmap(file.fd, 0) as mapped:
        file.cool()
        began = time.monotonic()
        assert mapped[0] == ord("a")
        assert time.monotonic() - began >= SLOW
    mounted.set_root("slow_faults", "0")

    def is_quick() -> bool:
        file.cool()
        began = time.monotonic()
        assert file.reads() == "abcd"
        return time.monotonic() - began < SLOW

    assert eventually(is_quick)


def test_a_purge_waits_for_a_slow_read_and_no_longer(mount: MountFactory) -> None:
    mounted = mount()
    file = mounted.file("f", 1)
    file.cool()
    file.mark()
    mounted.set_root("slow_faults", "1")
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(os.pread, file.fd, 1, 0)
        assert eventually(lambda: is_waiting_for_a_page(reading.running))
        assert file.purge() == PAGE
        assert file.unmark() == PAGE
        # It was looked up after the purge, or after the unmark.
        assert reading.exception() is not None or reading.result() == b"\0"
    mounted.set_root("slow_faults", "0")
    assert file.reads() == "0"


def is_waiting_for_a_page(running: Callable[[], bool]) -> bool:
    """Does a thread of ours wait in the kernel for a page that is read?"""
    folio_wait = ("folio", "fuse")
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/wchan") as wchan:
            if running() and any(word in wchan.read() for word in folio_wait):
                return True
    return False


def test_the_end_of_a_slow_mount(mount: MountFactory) -> None:
    mounted = mount()
    file = mounted.file("f", 1)
    file.cool()
    mounted.set_root("slow_faults", "2")
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(os.pread, file.fd, 1, 0)
        assert eventually(lambda: is_waiting_for_a_page(reading.running))
        mounted.process.terminate()
        assert reading.exception() is not None or reading.result() == b"a"
        assert mounted.process.wait(PATIENCE) == 0
    mounted.ended_by_test()


# ---- purge_on_mark ----


@pytest.fixture
def purging(mount: MountFactory) -> Mount:
    mounted = mount()
    mounted.set_root("purge_on_mark", "1")
    assert get(mounted, "purge_on_mark") == "1"
    return mounted


def test_what_is_marked_is_purged_at_once(purging: Mount) -> None:
    file = purging.file("f", 6)
    assert file.mark(*pages(0, 2)) == 2 * PAGE
    assert file.reads() == "XXcdef"
    file.set_attribute("volatile", f"{2 * PAGE}+{PAGE}")
    assert file.reads() == "XXXdef"
    assert fvrange_many(file.fd, [pages(3), pages(5)], VRANGE_VOLATILE) == [PAGE, PAGE]
    assert file.reads() == "XXXXeX"
    with mmap.mmap(file.fd, 0) as mapped:
        assert mvrange(mapped, 6 * PAGE, VRANGE_VOLATILE) == 6 * PAGE
    assert file.reads() == "XXXXXX"
    assert file.unmark() == 6 * PAGE


def test_what_the_kernel_alone_holds_goes_too(purging: Mount) -> None:
    file = purging.open("f")
    os.truncate(file.fd, 2 * PAGE)
    with mmap.mmap(file.fd, 0) as mapped:
        mapped[0:2] = b"ab"
        assert file.mark() == PAGE, "page 1 is a hole"
    assert file.reads() == "X0"


def test_what_reads_as_zeros_on_both_data_paths(zero_fs: Mount) -> None:
    zero_fs.set_root("purge_on_mark", "1")
    try:
        file = zero_fs.file("f", 2)
        with mmap.mmap(file.fd, 0) as mapped:
            mapped[0] = ord("z")
            assert file.mark(*pages(0)) == PAGE
            assert mapped[0] == 0
            assert mapped[PAGE] == ord("b")
        assert file.unmark() == PAGE
    finally:
        zero_fs.set_root("purge_on_mark", "0")


def test_what_somebody_holds_stays(purging: Mount) -> None:
    file = purging.file("f", 2)
    with mmap.mmap(file.fd, PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ):
        assert file.mark() == PAGE
        assert file.reads() == "aX"


def test_votes_purge_when_all_agree(mount: MountFactory) -> None:
    mounted = mount(semantics="kim")
    mounted.set_root("purge_on_mark", "1")
    file = mounted.file("f", 1)
    actor = mounted.actor(file).map()
    with mmap.mmap(file.fd, 0) as mapped:
        assert mvrange(mapped, PAGE, VRANGE_VOLATILE) == 0
        assert file.reads() == "a"
        actor.unmap()
        assert mvrange(mapped, PAGE, VRANGE_VOLATILE) == PAGE
    assert file.reads() == "X"


def test_switched_off_again(purging: Mount) -> None:
    purging.set_root("purge_on_mark", "0")
    file = purging.file("f", 1)
    assert file.mark() == 0
    assert file.reads() == "a"


# ---- both ----


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("slow_faults", value) for value in ("-1", "5.1", "inf", "nan", "x", "", "1s")),
        *(("purge_on_mark", value) for value in ("2", "", "on", "01", "-1")),
    ],
)
def test_a_wrong_value_changes_nothing(fs: Mount, name: str, value: str) -> None:
    before = get(fs, name)
    with pytest.raises(OSError, match=r".*") as raised:
        fs.set_root(name, value)
    assert raised.value.errno == errno.EINVAL
    assert get(fs, name) == before


def test_they_are_attributes_of_the_root_alone(fs: Mount) -> None:
    file: VFile = fs.file("f", 1)
    os.setxattr(file.fd, "user.vfs_volatile.purge_on_mark", b"1")  # an attribute like any other
    assert file.mark() == 0
