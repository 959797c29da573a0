"""The thread that is there when there can be no other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio

from vfs_volatile.fs.threads import Standby


@pytest.fixture
def standby() -> Standby:
    made = Standby()
    made.start()
    return made


@pytest.fixture(params=[False, True], ids=["at once", "halfway"])
def refusals(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """There is no memory to tell of the end of a job, twice."""
    tell: Callable[..., None] = trio.lowlevel.TrioToken.run_sync_soon
    refused: list[object] = []

    def run_sync_soon(*arguments: Any, **options: Any) -> None:
        if len(refused) < 2:
            refused.append(arguments)
            if request.param:
                tell(*arguments, **options)
            raise MemoryError
        tell(*arguments, **options)

    monkeypatch.setattr(trio.lowlevel.TrioToken, "run_sync_soon", run_sync_soon)
    return refused


def test_whoever_waits_goes_on(standby: Standby, refusals: list[object]) -> None:
    async def twice() -> None:
        done: list[int] = []
        await standby.run(done.append, 1)
        await standby.run(done.append, 2)
        assert done == [1, 2]
        assert not standby.is_busy

    trio.run(twice)
    assert len(refusals) == 2


@pytest.mark.parametrize("error", [OSError, MemoryError, ValueError])
def test_what_fails_is_told_and_others_are_done(standby: Standby, error: type[Exception]) -> None:
    def fail() -> None:
        raise error

    async def both() -> None:
        with pytest.raises(error):
            await standby.run(fail)
        await standby.run(int)

    trio.run(both)


def test_one_that_is_abandoned_keeps_it_busy(standby: Standby) -> None:
    go_on = threading.Event()

    async def abandon() -> None:
        with trio.move_on_after(0.01) as scope:
            await standby.run(go_on.wait, abandon_on_cancel=True)
        assert scope.cancelled_caught
        assert standby.is_busy
        go_on.set()
        await standby.run(int)
        assert not standby.is_busy

    trio.run(abandon)


def test_its_thread_outlives_what_it_worked_for(standby: Standby) -> None:
    """A look that was given up may end after the mount."""
    go_on = threading.Event()

    async def leave() -> None:
        with trio.move_on_after(0.01):
            await standby.run(go_on.wait, abandon_on_cancel=True)

    trio.run(leave)
    go_on.set()
    trio.run(standby.run, int)
