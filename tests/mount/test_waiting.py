"""Requests that wait for what does not end: who waits can be killed, and is not left waiting."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fvrange import PAGE
from tests.support.mount import ROOT, Mount, MountFactory
from tests.support.waiting import PATIENCE, eventually
from vfs_volatile.processes.identity import identify
from vfs_volatile.processes.openers import boot_ticks

DIES_WITHIN_SECONDS = 40.0
"""Long before the watchdog would end the call; on a machine at rest it is 20 ms."""

CALL = """
import os, signal, sys
from tests.support import fvrange
from tests.support.files import fallocate
name, handled = sys.argv[1:]
fd = os.open(name, os.O_RDWR)
root = os.path.dirname(name)
if handled:
    signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"handled\\n"))
os.write(1, b"ready\\n")
sys.stdin.readline()
try:
    {call}
except OSError as error:
    sys.exit(error.errno)
"""
LOOKING = {
    "purge": "fvrange.purge(fd)",
    "purge by attribute": "os.setxattr(fd, 'user.fvrange.purge', b'all')",
    "purge of the mount": "os.setxattr(root, 'user.vfs_volatile.purge', b'all')",
    "write": "os.pwrite(fd, bytes(8 << 20), 1 << 20)",
    "fallocate": "os.posix_fallocate(fd, 1 << 20, 8 << 20)",
}
"""Calls that look at the processes first."""
DROPPING = {
    "unmark": "fvrange.unmark(fd)",
    "unmark by attribute": "os.setxattr(fd, 'user.fvrange.nonvolatile', b'all')",
    "unmark by removal": "os.removexattr(fd, 'user.fvrange.volatile')",
    "next": "fvrange.next_range(fd, 0)",
    "state by attribute": "os.getxattr(fd, 'user.fvrange.volatile')",
    "seek": "os.lseek(fd, 0, os.SEEK_DATA)",
}
"""Calls that wait for a purge under way, or for the kernel."""


class Stuck:
    """A mount with a volatile file on which one thing never ends, see ``stuck_daemon``."""

    def __init__(self, mounted: Mount, what: str) -> None:
        self.mounted = mounted
        self.file = mounted.file("file", 4)
        self.file.mark()
        self.switch = mounted.path.with_name(f"{mounted.path.name}.{what}")
        self.switch.touch()
        self.callers: list[subprocess.Popen[str]] = []

    def call(self, call: str, *, handled: bool = False) -> subprocess.Popen[str]:
        """A process that is in the middle of ``call``."""
        program = CALL.format(call=call)
        caller = subprocess.Popen(
            [sys.executable, "-c", program, self.file.path, "x" if handled else ""],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.callers.append(caller)
        assert caller.stdin is not None
        assert caller.stdout is not None
        assert caller.stdout.readline() == "ready\n"
        print(file=caller.stdin, flush=True)
        stack = Path(f"/proc/{caller.pid}/stack")
        assert eventually(lambda: "request_wait_answer" in stack.read_text())
        return caller

    def purge(self) -> subprocess.Popen[str]:
        """A process that waits for the kernel to drop what it purges."""
        caller = self.call("fvrange.purge(fd)")
        assert eventually(lambda: self.mounted.number("purged") == 4 * PAGE)
        return caller

    def end(self) -> None:
        self.switch.unlink(missing_ok=True)
        for caller in self.callers:
            caller.kill()
            caller.communicate(timeout=PATIENCE)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog of the next mount does not wait for long."""
    monkeypatch.setenv("IMPATIENT", "1")


@pytest.fixture
def stuck(request: pytest.FixtureRequest, mount: MountFactory) -> Iterator[Stuck]:
    mounted = mount(module="tests.support.stuck_daemon", budget="64K")
    made = Stuck(mounted, request.param)
    yield made
    made.end()


def seconds_to_die(process: subprocess.Popen[str]) -> float:
    begun = time.monotonic()
    process.kill()
    assert process.wait(timeout=PATIENCE) == -signal.SIGKILL
    return time.monotonic() - begun


@pytest.mark.parametrize("stuck", ["look"], indirect=True)
@pytest.mark.parametrize("call", LOOKING)
def test_whoever_waits_for_a_look_can_be_killed(stuck: Stuck, call: str) -> None:
    caller = stuck.call(LOOKING[call])
    assert seconds_to_die(caller) < DIES_WITHIN_SECONDS
    assert stuck.file.reads()[:4] == "abcd"


@pytest.mark.parametrize("stuck", ["notify"], indirect=True)
@pytest.mark.parametrize("call", DROPPING)
def test_whoever_waits_for_the_kernel_to_drop_pages_can_be_killed(stuck: Stuck, call: str) -> None:
    stuck.purge()
    caller = stuck.call(DROPPING[call])
    assert seconds_to_die(caller) < DIES_WITHIN_SECONDS
    stuck.switch.unlink()
    assert stuck.file.unmark() == 4 * PAGE, "the purge goes on, and nothing was unmarked"


@pytest.mark.parametrize("stuck", ["notify"], indirect=True)
def test_whoever_purges_can_be_killed_and_the_purge_ends(stuck: Stuck) -> None:
    caller = stuck.purge()
    assert seconds_to_die(caller) < DIES_WITHIN_SECONDS
    stuck.switch.unlink()
    assert stuck.file.unmark() == 4 * PAGE


@pytest.mark.parametrize("stuck", ["notify"], indirect=True)
def test_a_signal_with_a_handler_ends_nothing_but_a_second_that_kills_does(stuck: Stuck) -> None:
    caller = stuck.call("fvrange.purge(fd)", handled=True)
    caller.send_signal(signal.SIGUSR1)
    waits = Path(f"/proc/{caller.pid}/stack")
    assert not eventually(lambda: "request_wait_answer" not in waits.read_text(), 0.3)
    assert seconds_to_die(caller) < DIES_WITHIN_SECONDS


@pytest.mark.parametrize("stuck", ["notify"], indirect=True)
def test_a_signal_with_a_handler_does_not_fail_the_call(stuck: Stuck) -> None:
    caller = stuck.call("fvrange.purge(fd)", handled=True)
    caller.send_signal(signal.SIGUSR1)
    stuck.switch.unlink()
    assert caller.wait(timeout=PATIENCE) == 0
    assert stuck.file.reads() == "XXXX"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("stuck", ["look"], indirect=True)
def test_what_waits_too_long_is_logged_with_its_stack_and_fails(stuck: Stuck) -> None:
    stuck.mounted.declared_stderr = True
    caller = stuck.call("fvrange.purge(fd)")
    assert caller.wait(timeout=PATIENCE) == errno.ETIMEDOUT
    thread = f"of thread {caller.pid}"
    assert eventually(lambda: re.search(rf"{thread} fails after \d+ s", stuck.mounted.stderr))
    said = stuck.mounted.stderr  # it is written in this order, by a thread of its own
    assert re.search(rf"{thread} waits for \d+ s", said)
    assert "in objections" in said, "the stack names what it waits for"
    stuck.switch.unlink()
    assert stuck.file.purge() == 4 * PAGE, "the mount is as well as before"


@pytest.mark.usefixtures("impatient")
def test_so_is_what_the_last_close_of_a_file_starts(mount: MountFactory) -> None:
    mounted = mount(module="tests.support.stuck_daemon", lifetime="last-close")
    mounted.declared_stderr = True
    stuck = Stuck(mounted, "notify")
    try:
        caller = stuck.purge()
        stuck.file.close()
        caller.kill()
        assert eventually(
            lambda: re.search(r"release of thread \d+ fails after \d+ s", mounted.stderr)
        )
        assert "in end_unused" in mounted.stderr, "the stack names what it waits for"
    finally:
        stuck.end()
    again = mounted.open("file")
    assert again.unmark() == 4 * PAGE, "the mount is as well as before"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("stuck", ["busy"], indirect=True)
def test_a_thread_that_is_busy_with_one_thing_is_logged_with_its_stack(stuck: Stuck) -> None:
    stuck.mounted.declared_stderr = True
    caller = stuck.call("os.getxattr(root, 'user.vfs_volatile.stats')")
    assert eventually(lambda: "busy with one thing" in stuck.mounted.stderr)
    assert eventually(lambda: re.search("held_by|in wait", stuck.mounted.stderr))
    assert caller.wait(timeout=PATIENCE) == errno.ETIMEDOUT, "what had been read fails all the same"
    stuck.switch.unlink()
    assert os.listdir(stuck.mounted.path) == ["file"]


@pytest.mark.parametrize("stuck", ["hung"], indirect=True)
def test_a_process_that_nobody_can_look_at_stops_no_purge_of_others(stuck: Stuck) -> None:
    """It may have mapped what was open when it was born; nothing else waits for it."""
    with subprocess.Popen(["sleep", "60"]) as hung:
        try:
            born = identify(hung.pid)
            assert born is not None
            assert eventually(lambda: boot_ticks() > born.born)
            late = stuck.mounted.file("late", 2)
            late.mark()
            stuck.switch.write_text(str(hung.pid))
            assert late.purge() == 2 * PAGE
            assert stuck.file.purge() == 0, "it may have it mapped"
            unreadable = stuck.mounted.stats()["unreadable_processes"]
            assert isinstance(unreadable, list)
            assert hung.pid in unreadable
            stuck.switch.unlink()
            assert eventually(lambda: stuck.file.purge() == 4 * PAGE)
        finally:
            hung.kill()


@pytest.mark.parametrize("stuck", ["hung"], indirect=True)
def test_many_processes_that_nobody_can_look_at_delay_a_purge_hardly_more_than_one(
    stuck: Stuck,
) -> None:
    with contextlib.ExitStack() as started:
        hung = [started.enter_context(subprocess.Popen(["sleep", "600"])) for _ in range(40)]
        for process in hung:
            started.callback(process.kill)
        started.callback(stuck.switch.unlink)
        stuck.switch.write_text(" ".join(str(process.pid) for process in hung))
        begun = time.monotonic()
        assert stuck.file.purge() == 0
        assert time.monotonic() - begun < 30, "a second for the first, a tenth for each other"
