"""An unmark of very many ranges goes in steps, and any of them may fail: what was purged is told by
the next one that succeeds, whatever has been done before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import trio

from tests.support.space import File, P
from vfs_volatile.abi.ioctls import VRANGE_ZERO
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.drains import Drains
from vfs_volatile.fs.parts import Part
from vfs_volatile.fs.purges import Purges
from vfs_volatile.fs.threads import Standby
from vfs_volatile.native import requests

STEPS = 3
RANGES = STEPS * AT_ONCE - 10
WHOLE = (0, 0)


def many(behavior: int) -> File:
    """Every second page is a range of its own; every fourth is purged, the others are intact."""
    file = File(size=4 * RANGES)
    for page in range(0, 2 * RANGES, 256):
        file.write(page * P, b"x" * 256 * P)
    file.truncate(2 * RANGES * P)
    for page in range(0, 2 * RANGES, 2):
        file.mark(page * P, P, behavior)
    for page in range(0, 2 * RANGES, 4):
        file.purge(page * P, P)
    return file


def purges(memory: Memory, invalidate: Callable[[int, int, int], None]) -> Purges:
    """As far as an unmark needs it."""
    drains = Drains(invalidate, Standby())
    return Purges(memory, drains, None, None, None)  # type: ignore[arg-type]


def purged_pages(file: File) -> set[int]:
    return {page for page in file.volatility.purged if page in file.volatility.ranges.covered}


def check_told_by_the_next(file: File, expected: set[int], parts: list[Part]) -> None:
    assert purged_pages(file) == expected, "what nobody was told of is as it was"
    assert all(file.read(page * P, P) == b"x" * P for page in range(2, 2 * RANGES, 4))
    file.check()
    file.fake.frees = None

    async def again() -> list[int]:
        return await purges(file.memory, lambda *_: None).unmark(parts)

    assert sum(trio.run(again)) == len(expected) * P
    assert not file.volatility.purged
    assert not len(file.volatility.ranges)
    file.check()


def parts_of(file: File, *, many: bool) -> list[Part]:
    if not many:
        return [(file, WHOLE)]
    return [(file, (page * P, 16 * P)) for page in range(0, 2 * RANGES, 16)]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("step", range(STEPS))
def test_what_the_store_refuses_in_a_later_step(step: int, several: bool) -> None:
    """It holds what was written to one purged page for each step, and frees some of them."""
    file = many(VRANGE_ZERO)
    expected = purged_pages(file)
    for number in range(STEPS):
        file.write((2 * number + 1) * AT_ONCE * P, b"later")
    parts = parts_of(file, many=several)
    file.fake.frees = step
    with pytest.raises(OSError, match="Input/output"):
        trio.run(purges(file.memory, lambda *_: None).unmark, parts)
    check_told_by_the_next(file, expected, parts)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_caller_given_up_in_a_later_step(step: int) -> None:
    """As the watchdog does: it has answered with ETIMEDOUT, and cancels."""
    file = many(VRANGE_ZERO)
    expected = purged_pages(file)
    calls = itertools.count(1)
    pages_a_step = AT_ONCE // 2

    async def call() -> bool:
        with trio.CancelScope() as scope:

            def invalidate(*_: int) -> None:
                if next(calls) == (step - 1) * pages_a_step + pages_a_step // 2:
                    trio.from_thread.run_sync(scope.cancel)

            await purges(file.memory, invalidate).unmark([(file, WHOLE)])
        return scope.cancelled_caught

    assert trio.run(call)
    check_told_by_the_next(file, expected, [(file, WHOLE)])


def test_an_unmark_in_steps_takes_what_was_purged_meanwhile() -> None:
    file = many(0)
    expected = purged_pages(file)
    last = 2 * RANGES - 2

    async def call() -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(purge)
            return sum(await purges(file.memory, lambda *_: None).unmark([(file, WHOLE)]))

    async def purge() -> None:
        file.purge(last * P, P)

    assert trio.run(call) == (len(expected) + 1) * P
    assert file.read(last * P, P) == bytes(P)
    file.check()


def test_a_caller_who_has_been_answered_is_told_nothing() -> None:
    """The watchdog answers from a thread of its own, at any moment."""
    file = many(0)
    expected = purged_pages(file)

    async def call() -> None:
        requests._claim.set(lambda: False)
        await purges(file.memory, lambda *_: None).unmark([(file, WHOLE)])

    with pytest.raises(SyscallError, match="timed out"):
        trio.run(call)
    check_told_by_the_next(file, expected, [(file, WHOLE)])
