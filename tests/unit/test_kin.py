"""Whose stacks live, as processes come and go while one looks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

from tests.support.waiting import eventually
from vfs_volatile.processes.identity import ProcessId, identify, who_may_fork
from vfs_volatile.processes.kernel import Kernel
from vfs_volatile.processes.kin import Living, look_at_living


def lists(*pids: set[int]) -> Callable[[], set[int]]:
    """A kernel whose processes are these, from one list to the next; the last ones stay."""
    left = list(pids)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def born(pid: int) -> ProcessId | None:
    """They were born in the order of their pids; 2 has ended, 3 and 5 may not be seen."""
    return None if pid == 2 else ProcessId(pid, 10 * pid, 0 if pid in (3, 5) else 100 * pid)


def test_who_is_born_during_the_look_is_seen() -> None:
    assert look_at_living(None, lists({1, 2}, {1, 4}), born) == Living({100, 400}, -1)


def test_a_machine_where_there_is_always_another_is_no_proof() -> None:
    pids = iter(range(1, 1000))
    assert look_at_living(None, lambda: {next(pids)}, born) is None


def test_who_may_not_be_seen_may_be_the_child_of_an_elder_one_alone() -> None:
    living = look_at_living(None, lists({1, 3, 4, 5}), born)
    assert living == Living({100, 400}, 50)
    assert [living.may_have_child(7, when) for when in (40, 50, 51)] == [True, True, False]
    assert living.may_have_child(400, 1000)


def test_processes_of_others_do_not_count() -> None:
    me = os.getpid()
    mine = identify(me)
    assert mine is not None
    assert look_at_living(os.getuid() + 1, lists({me})) == Living(set(), -1)
    assert look_at_living(os.getuid(), lists({me})) == Living({mine.stack}, -1)


def test_our_own_is_among_all() -> None:
    mine = identify(os.getpid())
    assert mine is not None

    def is_among() -> bool:
        living = look_at_living(None, Kernel().pids)
        return living is not None and mine.stack in living.stacks

    assert eventually(is_among)


def test_who_has_ended_has_no_children() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie still
    assert who_may_fork(process.pid) is None
    process.wait()
    assert who_may_fork(process.pid) is None
