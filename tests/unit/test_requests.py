"""A request is answered once, and what takes effect is told to whoever asked for it."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

from vfs_volatile.errors import SyscallError
from vfs_volatile.native.answering import errno_of
from vfs_volatile.native.requests import Request, Requests, will_be_answered

KEY = 7


class Mount:
    """One request, answered by its task or by the watchdog."""

    def __init__(self) -> None:
        self.requests = Requests(lambda _tid: False)
        self.answers: list[object] = []
        self.told: list[str] = []

    async def unmark(self, *, late: bool) -> str:
        """The watchdog comes before it takes effect, or ``late``, after that."""
        if not late:
            self.watchdog()
        will_be_answered()
        will_be_answered()
        self.told.append("purged")
        if late:
            self.watchdog()
        return "purged"

    def watchdog(self) -> None:
        for key, request in self.requests.older_than(-1):
            if self.requests.claim(key, request):
                request.fail(errno.ETIMEDOUT)

    def serve(self, *, late: bool) -> None:
        async def task() -> None:
            request = Request("unmark", 1, self.answers.append)
            await self.requests.serve(
                KEY, request, lambda: self.unmark(late=late), self.answers.append, errno_of
            )

        trio.run(task)


def test_what_the_watchdog_has_answered_does_not_take_effect() -> None:
    mount = Mount()
    mount.serve(late=False)
    assert mount.answers == [errno.ETIMEDOUT]
    assert not mount.told
    assert not len(mount.requests)


def test_what_takes_effect_is_not_answered_by_the_watchdog() -> None:
    mount = Mount()
    mount.serve(late=True)
    assert mount.answers == ["purged"] == mount.told
    assert not len(mount.requests)


def test_a_caller_who_cannot_be_looked_at_is_looked_at_again() -> None:
    """There may be no descriptor for it just then."""
    looks: list[int] = []

    def is_dying(tid: int) -> bool:
        looks.append(tid)
        if len(looks) == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return True

    answers: list[object] = []
    requests = Requests(is_dying)

    async def task() -> None:
        request = Request("unmark", 1, answers.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                requests.serve, KEY, request, trio.sleep_forever, answers.append, errno_of
            )
            await trio.testing.wait_all_tasks_blocked()
            await requests.interrupted(KEY)

    trio.run(task)
    assert answers == [errno.EINTR]
    assert looks == [1, 1]


def test_without_a_request_there_is_nobody_to_tell() -> None:
    will_be_answered()


def test_a_failure_after_that_is_answered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    mount = Mount()

    async def unmark(*, late: bool) -> str:
        will_be_answered()
        raise SyscallError(errno.ENOMEM)

    monkeypatch.setattr(mount, "unmark", unmark)
    mount.serve(late=False)
    assert mount.answers == [errno.ENOMEM]
