"""Who is woken by a purge, and what is forgotten when."""

from __future__ import annotations

import select

from vfs_volatile.fs.inode import Handle, Inode
from vfs_volatile.fs.polls import Polls

READY = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM


class Waiter:
    """Counts how often it was woken, and fails where the mount has gone."""

    def __init__(self, *, fails: bool = False) -> None:
        self.woken = 0
        self._fails = fails

    def notify(self) -> None:
        self.woken += 1
        if self._fails:
            raise OSError


def opened(number: int = 2) -> Handle:
    return Handle(Inode(number, 0o100644, 0, 0), writable=False, touches_atime=True)


def test_only_those_who_wait_on_the_file_are_woken_and_once() -> None:
    polls, one, other = Polls(), Waiter(), Waiter()
    polls.poll(7, opened(2), one)
    polls.poll(8, opened(3), other)
    polls.wake(2)
    polls.wake(2)
    assert (one.woken, other.woken) == (1, 0)
    assert len(polls) == 1


def test_the_newest_handle_of_an_open_file_stands_for_all() -> None:
    polls, handle, old, new = Polls(), opened(), Waiter(), Waiter()
    polls.poll(7, handle, old)
    polls.poll(7, handle, new)
    assert len(polls) == 1, "handles do not pile up"
    polls.poll(7, handle, None)  # who does not wait must not disturb who does
    polls.wake(2)
    assert (old.woken, new.woken) == (0, 1)


def test_closing_forgets() -> None:
    polls, handle, waiter = Polls(), opened(), Waiter()
    polls.poll(7, handle, waiter)
    polls.closed(8, 2)
    assert len(polls) == 1
    polls.closed(7, 2)
    polls.closed(7, 2)
    assert not polls._waiting
    polls.wake(2)
    assert waiter.woken == 0


def test_one_that_cannot_be_woken_does_not_keep_the_others_asleep() -> None:
    polls, waiter = Polls(), Waiter()
    polls.poll(7, opened(), Waiter(fails=True))
    polls.poll(8, opened(), waiter)
    polls.wake(2)
    assert waiter.woken == 1


def test_pollpri_is_from_a_purge_until_the_open_file_was_told() -> None:
    polls, handle = Polls(), opened()
    assert polls.poll(7, handle, None) == READY
    handle.inode.purges += 1
    assert polls.poll(7, handle, None) == READY | select.POLLPRI
    late = Handle(handle.inode, writable=False, touches_atime=True)
    assert polls.poll(8, late, None) == READY, "opened after the purge"
    handle.told()
    assert polls.poll(7, handle, None) == READY
