"""Who is still who they were: real processes that sleep, run other programs and end."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.sleeper import Sleeper
from tests.support.waiting import PATIENCE, eventually
from vfs_volatile.processes.identity import ProcessId, identify
from vfs_volatile.processes.kernel import Kernel
from vfs_volatile.processes.roll import Roll

Start = Callable[[], Sleeper]


class Counting(Kernel):
    """Counts who is looked at closely."""

    def __init__(self) -> None:
        super().__init__()
        self.identified = 0

    def identify(self, pid: int) -> ProcessId | None:
        self.identified += 1
        return super().identify(pid)


class Deaf(Counting):
    """A kernel that does not tell who runs."""

    def tells_who_runs(self) -> bool:
        return False


@pytest.fixture(params=[Counting, Deaf])
def kernel(request: pytest.FixtureRequest) -> Counting:
    made: Counting = request.param()
    return made


@pytest.fixture
def roll(kernel: Counting) -> Roll:
    return Roll(kernel)


@pytest.fixture
def start(sleepers: Callable[[Path], Sleeper], roll: Roll, tmp_path: Path) -> Start:
    """Starts a process that is on the roll, as one that sleeps where that can be told."""
    (tmp_path / "file").touch()

    def made() -> Sleeper:
        sleeper = sleepers(tmp_path / "file")
        roll.add(who(sleeper))
        assert eventually(lambda: is_cheap(roll), PATIENCE)
        return sleeper

    return made


def who(sleeper: Sleeper) -> ProcessId:
    found = identify(sleeper.pid)
    assert found is not None
    return found


def is_cheap(roll: Roll) -> bool:
    """Does calling the roll look at nobody closely, or can it not be told who runs?"""
    kernel = roll._kernel
    assert isinstance(kernel, Counting)
    before = kernel.identified
    assert roll.call() == []
    return kernel.identified == before or not kernel.tells_who_runs()


def test_who_has_run_is_still_who_it_was(roll: Roll, start: Start) -> None:
    sleeper, _ = start(), start()
    for _ in range(5):
        sleeper.does("m")
        assert roll.call() == []
        sleeper.does("u")


def test_another_program_is_another_process(roll: Roll, start: Start) -> None:
    sleeper, other = start(), start()
    before = who(sleeper)
    sleeper.does("x")
    assert roll.call() == [before]
    roll.remove(before)
    roll.add(who(sleeper))
    assert roll.call() == []
    other.does("x")
    assert len(roll.call()) == 1


def test_a_thread_runs_another_program(roll: Roll, start: Start) -> None:
    """The first thread sleeps until it is killed by that."""
    sleeper = start()
    sleeper.does("t")
    before = who(sleeper)
    assert eventually(lambda: is_cheap(roll), PATIENCE)
    sleeper.other_does("x")
    assert roll.call() == [before]


def test_who_has_ended_is_gone(roll: Roll, start: Start) -> None:
    sleeper, other = start(), start()
    before = who(sleeper)
    sleeper.end()
    assert roll.call() == [before]
    roll.remove(before)
    last = who(other)
    os.kill(other.pid, 9)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert roll.call() == [last], "a zombie is nobody any more"


def test_one_that_was_gone_already(roll: Roll) -> None:
    with subprocess.Popen(["sleep", "30"]) as brief:
        found = identify(brief.pid)
        assert found is not None
        brief.kill()
    roll.add(found)
    assert roll.call() == [found]


def test_who_could_not_be_looked_at_is_looked_at_again(
    roll: Roll, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = start()
    before = who(sleeper)
    sleeper.does("x")
    assert eventually(lambda: roll._kernel.is_off_queue(sleeper.pid, sleeper.pid))
    with monkeypatch.context() as patch:
        patch.setattr(roll._kernel, "identify", refused)
        with pytest.raises(OSError, match="Too many"):
            roll.call()
    assert roll.call() == [before]
    assert roll.call() == [before], "nor is it forgotten by who asked"


def refused(_pid: int) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Preempted(Counting):
    """A kernel on which a thread goes on without having been switched in."""

    def turns(self, descriptor: int) -> bytes:
        return b"1 1 1"

    def is_off_queue(self, pid: int, tid: int) -> bool:
        return False


def test_who_is_not_off_its_run_queue_is_looked_at() -> None:
    kernel = Preempted()
    roll = Roll(kernel)
    found = identify(os.getpid())
    assert found is not None
    roll.add(found)
    for _ in range(3):
        before = kernel.identified
        assert roll.call() == []
        assert kernel.identified == before + 1
    roll.remove(found)


def test_files_are_closed(roll: Roll) -> None:
    before = len(os.listdir("/proc/self/fd"))
    found = identify(os.getpid())
    assert found is not None
    roll.add(found)
    roll.add(found)
    roll.remove(found)
    roll.remove(found)
    assert len(os.listdir("/proc/self/fd")) == before
