"""Processes with anonymous memory: stopped, killed, many, hostile; and a daemon that dies."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.anonymous import Family, Process, compile_client
from tests.support.fvrange import PAGE
from tests.support.mount import LONG_DEADLINE, Mount, MountFactory
from tests.support.mountinfo import detach
from tests.support.waiting import eventually
from vfs_volatile.abi import anonymous as wire

SANITIZERS = ("thread", "address")
QUICK = 1.7
"""Seconds: less than a process that does not answer is waited for."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_client(tmp_path_factory.mktemp("client"))


@pytest.fixture
def doomed(mount: MountFactory) -> Iterator[MountFactory]:
    """Mounts whose daemon the test kills; they are taken out at its end."""
    made: list[Mount] = []

    def make(**options: str) -> Mount:
        made.append(mount(**options))
        return made[-1]

    yield make
    for mounted in made:
        detach(mounted.path)


@pytest.fixture
def family(client: Path, tmp_path: Path) -> Iterator[Family]:
    made = Family(client, tmp_path)
    yield made
    made.end()


def purge(mount: Mount) -> float:
    """All that may be purged; the seconds it took."""
    started = time.monotonic()
    mount.set_root("purge", "all")
    return time.monotonic() - started


@contextmanager
def purging(mount: Mount) -> Iterator[None]:
    """Purge all the time."""
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            try:
                purge(mount)
            except OSError:  # the test has killed the daemon
                return

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# ---- the daemon dies ----


def test_without_a_daemon_memory_stays_and_nothing_more_is_purged(
    family: Family, doomed: MountFactory
) -> None:
    mounted = doomed()
    process = family.first().start(mounted.path, 4)
    process.fill(0, 4, "a")
    process.mark(0, 2)
    purge(mounted)
    process.mark(0, 3)
    mounted.kill()
    assert process.ask("mark 3 1 1") == "ENOTCONN"
    assert process.ask("unmark 0 4") == "ENOTCONN"
    assert process.ask("alloc 1") == "ENOTCONN"
    assert process.show() == "XXaa"
    assert process.fill(3, 1, "b") == "w"


def test_free_works_without_a_daemon(family: Family, doomed: MountFactory) -> None:
    mounted = doomed()
    process = family.first().start(mounted.path, 4)
    process.fill(0, 4, "a")
    mounted.kill()
    process.number("free")
    assert process.ask("alloc 1") == "ENOTCONN"


def test_another_mount_takes_over(
    family: Family, mount: MountFactory, doomed: MountFactory
) -> None:
    """Marks have ended with the first mount; what it purged is still to be reported."""
    old, new = doomed(), mount()
    process = family.first().start(old.path, 4)
    process.fill(0, 4, "a")
    process.mark(0, 2)
    purge(old)
    process.mark(2, 1)
    assert process.ask(f"attach {new.path}") == "EBUSY"
    old.kill()
    process.number(f"attach {new.path}")
    purge(new)
    assert process.show() == "XXaa"
    assert process.unmark(0, 4) == 2
    assert process.show() == "00aa"
    process.mark(2, 2)
    purge(new)
    assert process.show() == "00XX"


def test_kin_that_attach_anew_drop_only_what_they_have_alone(
    family: Family, mount: MountFactory, doomed: MountFactory
) -> None:
    old, new = doomed(), mount()
    parent = family.first().start(old.path, 3)
    parent.fill(0, 3, "a")
    child = family.fork(parent)
    old.kill()
    for process in (parent, child):
        process.number(f"attach {new.path}")
    parent.mark(0, 3)
    parent.fill(1, 1, "b")
    purge(new)
    assert (parent.show(), child.show()) == ("aXa", "aaa")


@pytest.mark.parametrize("seed", range(4))
def test_the_daemon_is_killed_at_any_point(family: Family, doomed: MountFactory, seed: int) -> None:
    mounted = doomed()
    process = family.first().start(mounted.path, 64)
    with purging(mounted):
        process.send("threads 4 100000")
        time.sleep(random.Random(seed).uniform(0.05, 0.4))  # the point of time is what is drawn
        mounted.kill()
    assert process.reply().isdigit()
    child = family.fork(process)
    assert child.ask("mark 0 1 1") == "ENOTCONN"
    assert len(child.show()) == 64


# ---- between fetching an order and doing it ----


@contextmanager
def one_purge(mount: Mount) -> Iterator[None]:
    """Purge all there is, beside what the test does."""
    thread = threading.Thread(target=purge, args=[mount])
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _is_about_to_drop(process: Process) -> bool:
    return eventually(lambda: process.number("fetched") > 0)


def test_what_is_taken_back_after_the_order_is_intact(family: Family, mount: MountFactory) -> None:
    mounted = mount()

    def came_in_time() -> bool:
        """Not on a machine that is so busy that it takes longer to take it back."""
        process = family.first().start(mounted.path, 4)
        process.fill(0, 4, "a")
        process.mark(0, 4)
        process.ask("slow 1500")
        with one_purge(mounted):
            assert _is_about_to_drop(process)
            lost = process.unmark(0, 2)
        assert eventually(lambda: process.show() == ("00XX" if lost else "aaXX"))
        return not lost

    assert eventually(came_in_time)


def test_after_taking_back_no_sharer_loses_the_page(family: Family, mount: MountFactory) -> None:
    """The parent has fetched its order; the child's call returns when that is done."""
    mounted = mount()
    parent = family.first().start(mounted.path, 4)
    parent.fill(0, 4, "a")
    parent.mark(0, 4)
    child = family.fork(parent)
    parent.ask("slow 400")
    with one_purge(mounted):
        assert _is_about_to_drop(parent)
        child.unmark(0, 4)
        seen = parent.show()
    assert parent.show() == seen == "XXXX"


# ---- processes that do not answer ----


def test_a_stopped_process_delays_only_itself(family: Family, mount: MountFactory) -> None:
    mounted = mount()
    stopped = family.first().start(mounted.path, 4)
    other = family.first().start(mounted.path, 4)
    for process in (stopped, other):
        process.fill(0, 4, "a")
        process.mark(0, 4)
    stopped.signal(signal.SIGSTOP)
    purge(mounted)
    assert other.show() == "XXXX"
    other.unmark(0, 4)
    assert eventually(lambda: purge(mounted) < QUICK), "it is known not to answer"
    assert mounted.stats()["anonymous_silent"] == 1
    stopped.signal(signal.SIGCONT)
    assert stopped.show() == "aaaa"

    def gone() -> bool:
        purge(mounted)
        return stopped.show() == "XXXX"

    assert eventually(gone)
    assert mounted.stats()["anonymous_silent"] == 0


def test_an_idle_process_that_goes_on_answers_again(family: Family, mount: MountFactory) -> None:
    """The second time at the latest its helper has nothing more to tell by itself."""
    mounted = mount()
    process = family.first().start(mounted.path, 4)
    process.fill(0, 4, "a")
    process.mark(0, 4)
    for _ in range(2):
        process.signal(signal.SIGSTOP)
        purge(mounted)
        assert mounted.stats()["anonymous_silent"] == 1
        process.signal(signal.SIGCONT)
        assert eventually(lambda: mounted.stats()["anonymous_silent"] == 0)
    purge(mounted)
    assert process.show() == "XXXX"


def test_a_stopped_sharer_holds_what_it_shares_alone(family: Family, mount: MountFactory) -> None:
    mounted = mount()
    parent = family.first().start(mounted.path, 4)
    parent.fill(0, 4, "a")
    parent.mark(0, 4)
    child = family.fork(parent)
    parent.fill(0, 1, "b")
    assert eventually(lambda: mounted.number("resident") == 5 * PAGE)
    child.signal(signal.SIGSTOP)
    purge(mounted)
    assert parent.show() == "Xaaa"
    assert parent.unmark(0, 4) == 1
    child.signal(signal.SIGCONT)
    assert child.show() == "aaaa"


def test_a_stopped_process_that_is_killed_is_no_hindrance(
    family: Family, mount: MountFactory
) -> None:
    mounted = mount()
    parent = family.first().start(mounted.path, 4)
    parent.fill(0, 4, "a")
    parent.mark(0, 4)
    child = family.fork(parent)
    child.signal(signal.SIGSTOP)
    purge(mounted)
    assert parent.show() == "aaaa"
    child.signal(signal.SIGKILL)

    def gone() -> bool:
        purge(mounted)
        return parent.show() == "XXXX"

    assert eventually(gone)


def _hostile(mount: Mount) -> int:
    """An open file that stands for a process which answers nothing."""
    fd = os.open(mount.path / "hostile", os.O_RDWR | os.O_CREAT, 0o600)
    _ask(fd, wire.ANON_ATTACH, struct.pack("=QII", 0, wire.VERSION, 0))
    return fd


def _report(region: int, first: int, pages: int) -> bytes:
    full = b"\xff" * (wire.CHUNK_PAGES // 8)
    return struct.pack("=QIIII", 7, region, first, pages, wire.LAST) + 3 * full


def _ask(fd: int, command: int, data: bytes) -> bytes:
    buffer = bytearray(data)  # bytes would be limited to 1024
    fcntl.ioctl(fd, command, buffer)
    return bytes(buffer)


def test_a_hostile_process_delays_only_itself(family: Family, mount: MountFactory) -> None:
    mounted = mount()
    fd = _hostile(mounted)
    region = _ask(fd, wire.ANON_ALLOC, struct.pack("=QQII", 0, 1 << 20, 0, 0))
    number = struct.unpack("=QQII", region)[2]
    _ask(fd, wire.ANON_REPORT, _report(number, 0, wire.CHUNK_PAGES))
    _ask(fd, wire.ANON_MARK, struct.pack("=IIIIII", 1, 1, number, 0, 1 << 20, 0))
    process = family.first().start(mounted.path, 4)
    process.fill(0, 4, "a")
    process.mark(0, 4)
    purge(mounted)
    assert process.show() == "XXXX"
    assert eventually(lambda: purge(mounted) < QUICK)
    os.close(fd)
    assert eventually(lambda: mounted.number("volatile") == 4 * PAGE)


@pytest.mark.parametrize(
    ("command", "data"),
    [
        (wire.ANON_ATTACH, struct.pack("=QII", 0, wire.VERSION, 0)),  # it is already
        (wire.ANON_ALLOC, struct.pack("=QQII", 0, 0, 0, 0)),
        (wire.ANON_ALLOC, struct.pack("=QQII", 0, 1 << 40, 0, 0)),
        (wire.ANON_FREE, struct.pack("=QQII", 0, 0, 99, 0)),
        (wire.ANON_MARK, struct.pack("=IIIIII", 1, 0, 99, 0, 1, 0)),
        (wire.ANON_REPORT, _report(99, 0, 1)),
        (wire.ANON_MARKS, struct.pack("=IIII", 1, 0, 10**9, 0) + bytes(512 * 16)),
    ],
)
def test_nonsense_is_refused(mount: MountFactory, command: int, data: bytes) -> None:
    mounted = mount()
    fd = _hostile(mounted)
    with pytest.raises(OSError, match="Invalid argument"):
        _ask(fd, command, data)
    os.close(fd)


def test_nobody_joins_a_family_that_is_not_his(mount: MountFactory) -> None:
    mounted = mount()
    fd = os.open(mounted.path / "stranger", os.O_RDWR | os.O_CREAT, 0o600)
    with pytest.raises(OSError, match="Invalid argument"):
        _ask(fd, wire.ANON_ATTACH, struct.pack("=QII", 12345, wire.VERSION, 0))
    os.close(fd)


# ---- many at once ----


def test_threads_never_lose_a_page_unreported(family: Family, mount: MountFactory) -> None:
    mounted = mount()
    process = family.first().start(mounted.path, 64)
    with purging(mounted):
        assert process.number("threads 8 150") > 0


def test_a_signal_handler_may_interrupt_a_call(family: Family, mount: MountFactory) -> None:
    mounted = mount()
    process = family.first().start(mounted.path, 2)
    assert process.ask("interrupt 600") == "ok"


def test_fork_storms_while_the_purger_asks(family: Family, mount: MountFactory) -> None:
    mounted = mount()
    parent = family.first().start(mounted.path, 64)
    parent.fill(0, 64, "a")
    parent.mark(0, 64)
    with purging(mounted):
        assert parent.ask("storm 150") == "ok"
    purge(mounted)
    assert parent.show() == "X" * 64
    assert parent.unmark(0, 64) == 64
    assert eventually(lambda: mounted.stats()["anonymous_processes"] == 1)


def test_a_child_that_cannot_be_attached_loses_nothing(family: Family, mount: MountFactory) -> None:
    """fork copies marks as best it can: without a descriptor left the child has none."""
    mounted = mount()
    parent = family.first().start(mounted.path, 4)
    parent.fill(0, 4, "a")
    parent.mark(0, 4)
    parent.number("full")
    child = family.fork(parent)
    parent.fill(0, 1, "b")
    purge(mounted)
    assert (parent.show(), child.show()) == ("Xaaa", "aaaa")
    assert child.ask("unmark 0 4") == "ENOTCONN"
    family.end([child])

    def gone() -> bool:
        purge(mounted)
        return parent.show() == "XXXX"

    assert eventually(gone)


def test_children_killed_while_they_are_asked(family: Family, mount: MountFactory) -> None:
    mounted = mount()
    parent = family.first().start(mounted.path, 16)
    parent.fill(0, 16, "a")
    parent.mark(0, 8)
    dice = random.Random(1)
    with purging(mounted):
        for _ in range(15):
            child = family.fork(parent)
            child.unmark(0, 8)
            if dice.random() < 0.5:
                child.signal(signal.SIGSTOP)
            family.end([child])
    assert parent.show()[8:] == "a" * 8
    purge(mounted)
    assert parent.show() == "X" * 8 + "a" * 8


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_a_sanitizer_finds_nothing(tmp_path: Path, mount: MountFactory, sanitizer: str) -> None:
    mounted = mount(deadline=LONG_DEADLINE)
    family = Family(compile_client(tmp_path, sanitizer), tmp_path)
    options = "exitcode=66 die_after_fork=0 handle_sigbus=0 detect_leaks=0"
    environment = {**os.environ, "TSAN_OPTIONS": options, "ASAN_OPTIONS": options}
    try:
        process = family.first(environment)
        process.start(mounted.path, 64)
        process.fill(0, 64, "a")
        with purging(mounted):
            process.number("threads 4 60")
            assert process.ask("storm 5") == "ok"
            process.ask("heal h")
            assert len(process.show()) == 64
        process.number("free")
        assert process.leave() == 0, process.complaints
        assert not process.complaints
    finally:
        family.end()
