"""poll(2), select(2) and epoll(7): a purge of the file is POLLPRI, until NEXT was asked."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.files import VFile
from tests.support.fvrange import PAGE, ZERO, ranges
from tests.support.mount import Mount, MountFactory, run
from tests.support.waiting import PATIENCE

READY = select.POLLIN | select.POLLOUT
"""Seconds within which whoever waits must have been woken."""


def polled(fd: int, *, wait: float = 0) -> int:
    """What poll(2) says of ``fd``, asked for readiness and POLLPRI; at once unless ``wait``."""
    poll = select.poll()
    poll.register(fd, select.POLLPRI if wait else READY | select.POLLPRI)
    events = poll.poll(wait * 1000)
    return events[0][1] if events else 0


@pytest.fixture
def file(fs: Mount) -> VFile:
    """Four volatile pages."""
    file = fs.file("file", 4)
    file.mark()
    return file


class Waiting:
    """A thread that waits for POLLPRI, and then looks at the file if told to."""

    def __init__(self, file: VFile, *, looks: bool = True) -> None:
        self._file = file
        self._looks = looks
        self.got = 0
        self.saw: tuple[list[int], str] | None = None
        """Pages purged by NEXT, and what read(2) says."""
        self._about_to = threading.Event()
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()
        assert self._about_to.wait(PATIENCE)

    def _wait(self) -> None:
        self._about_to.set()
        self.got = polled(self._file.fd, wait=PATIENCE)
        if self._looks:
            self.saw = self._file.purged_pages(), self._file.reads()

    def end(self) -> int:
        """What poll(2) returned."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.got


def test_an_open_file_is_ready_and_has_no_news(file: VFile) -> None:
    assert polled(file.fd) == READY
    assert select.select([file.fd], [file.fd], [file.fd], 0) == ([file.fd], [file.fd], [])


def test_a_purge_is_news_until_next_was_asked(file: VFile) -> None:
    file.purge(PAGE, PAGE)
    assert polled(file.fd) == polled(file.fd) == READY | select.POLLPRI
    assert select.select([], [], [file.fd], 0) == ([], [], [file.fd])
    file.mark()
    file.unmark(0, PAGE)
    assert polled(file.fd) & select.POLLPRI, "who marks or unmarks a part has not asked for all"
    assert file.purged_pages() == [1]
    assert polled(file.fd) == READY
    file.purge(2 * PAGE, PAGE)
    assert polled(file.fd) == READY | select.POLLPRI


def test_what_purges_nothing_is_no_news(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file, "r").map("private", "r")
    file.purge()
    assert polled(file.fd) == READY, "blocked by a private mapper"
    actor.close()
    file.purge(0, PAGE)
    file.ranges()
    file.purge(0, PAGE)
    assert polled(file.fd) == READY, "purged before"
    hole = fs.open("hole")
    os.ftruncate(hole.fd, 4 * PAGE)
    hole.mark()
    hole.purge()
    assert polled(hole.fd) == READY, "a hole has nothing to lose"


def test_unmarking_what_reads_as_zeros_is_no_news(zero_fs: Mount) -> None:
    file = zero_fs.file("file", 2)
    file.mark(behavior=ZERO)
    file.purge()
    file.ranges()
    os.pwrite(file.fd, b"x", 0)
    assert file.unmark() == 2 * PAGE, "the kernel has dropped what was written since"
    assert polled(file.fd) == READY


def test_a_page_that_was_dirty_in_the_kernel_alone_is_news(fs: Mount) -> None:
    file = fs.open("file")
    os.ftruncate(file.fd, PAGE)
    actor = fs.actor(file).map("shared")
    file.mark()
    assert actor.stores("z") == "w"
    file.purge()
    assert polled(file.fd) == READY | select.POLLPRI
    assert file.purged_pages() == [0]


def test_each_open_file_has_its_own_news(fs: Mount, file: VFile) -> None:
    other = fs.open("file", os.O_RDONLY)
    file.purge()
    late = fs.open("file", os.O_RDONLY)
    file.ranges()
    assert polled(file.fd) == READY
    assert polled(other.fd) == READY | select.POLLPRI
    assert polled(late.fd) == READY, "it was opened after the purge"
    duplicate = os.dup(other.fd)
    ranges(duplicate)
    os.close(duplicate)
    assert polled(other.fd) == READY, "a duplicate is the same open file"


def test_a_waiter_is_woken_and_sees_what_touching_shows(fs: Mount, file: VFile) -> None:
    waiting = [Waiting(file), Waiting(fs.open("file")), Waiting(fs.open("file", os.O_RDONLY))]
    file.purge(0, 2 * PAGE)
    for one in waiting:
        assert one.end() == select.POLLPRI
        assert one.saw == ([0, 1], "XXcd")


def test_all_who_wait_on_one_open_file_are_woken(file: VFile) -> None:
    waiting = [Waiting(file, looks=False) for _ in range(3)]
    file.purge()
    assert [one.end() for one in waiting] == [select.POLLPRI] * 3


def test_the_budget_wakes_too(mount: MountFactory) -> None:
    mounted = mount(budget="64M")
    file = mounted.file("file", 16)
    file.mark()
    waiting = Waiting(file)
    mounted.set_root("budget", str(8 * PAGE))
    assert waiting.end() == select.POLLPRI
    assert waiting.saw == (list(range(16)), "X" * 16)


def test_a_file_whose_data_pass_us_by_wakes_too(mount: MountFactory) -> None:
    mounted = mount(access="zero")
    file = mounted.file("file", 4)
    assert os.getxattr(file.path, "user.fvrange.data_path").startswith(b"passthrough")
    file.mark()
    waiting = Waiting(file)
    file.purge(0, PAGE)
    assert waiting.end() == select.POLLPRI
    assert waiting.saw == ([0], "0bcd")
    (found,) = json.loads(os.getxattr(mounted.path, "user.vfs_volatile.files.volatile"))
    assert (found["resident"], found["purged"]) == (3 * PAGE, PAGE)


def test_an_unlinked_file_wakes_too(file: VFile) -> None:
    waiting = Waiting(file)
    file.path.unlink()
    file.purge()
    assert waiting.end() == select.POLLPRI


@contextlib.contextmanager
def epoll_of(*files: VFile, flags: int = select.EPOLLPRI) -> Iterator[select.epoll]:
    with select.epoll() as epoll:
        for file in files:
            epoll.register(file.fd, flags)
        yield epoll


def test_epoll_by_level_tells_until_next_was_asked(file: VFile) -> None:
    with epoll_of(file) as epoll:
        assert epoll.poll(0) == []
        file.purge(0, PAGE)
        assert epoll.poll(PATIENCE) == epoll.poll(0) == [(file.fd, select.EPOLLPRI)]
        file.ranges()
        assert epoll.poll(0) == []


def test_epoll_by_edge_tells_of_each_purge_once(file: VFile) -> None:
    with epoll_of(file, flags=select.EPOLLPRI | select.EPOLLET) as epoll:
        for page in range(4):
            assert epoll.poll(0) == []
            file.purge(page * PAGE, PAGE)
            assert epoll.poll(PATIENCE) == [(file.fd, select.EPOLLPRI)], "also if nobody asked NEXT"


def test_many_files_in_one_epoll(fs: Mount) -> None:
    made = [fs.file(f"file{number}", 2) for number in range(64)]
    with epoll_of(*made) as epoll:
        for _ in range(5):
            for file in made:
                file.mark()
            fs.set_root("purge", "all")
            woken: set[int] = set()
            while len(woken) < len(made) and (events := epoll.poll(PATIENCE)):
                for fd, _ in events:
                    woken.add(fd)
                    assert ranges(fd)[0].purged
            assert len(woken) == len(made)
            for file in made:
                file.unmark()
                file.fill(2)


def test_waiters_that_are_killed_or_close_leave_the_others_alone(fs: Mount, file: VFile) -> None:
    killed = _waiting_process(file.path)
    epoll = select.epoll()
    closed = fs.open("file", os.O_RDONLY)
    epoll.register(closed.fd, select.EPOLLPRI)
    waiting = Waiting(file)
    killed.kill()
    killed.communicate(timeout=PATIENCE)
    closed.close()
    file.purge()
    assert waiting.end() == select.POLLPRI
    assert epoll.poll(0) == []
    epoll.close()


_WAITER = """
import os, select, sys
poll = select.poll()
poll.register(os.open(sys.argv[1], os.O_RDONLY), select.POLLPRI)
poll.poll(0)
print("waiting", flush=True)
poll.poll()
"""


def _waiting_process(path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", _WAITER, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"waiting\n"
    return process


def test_a_waiter_hears_when_the_daemon_dies(mount: MountFactory) -> None:
    mounted = mount()
    waiting = Waiting(mounted.file("file", 1), looks=False)
    mounted.kill()
    assert waiting.end() & select.POLLERR
    assert run("umount", mounted.path).returncode == 0
