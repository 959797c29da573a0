"""Work on very many ranges goes in steps: none is long, and together they do what one would."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from unittest.mock import Mock

import pytest
import trio
from pyroaring import BitMap

from tests.support.space import File, P, sought
from tests.support.stores import FakeDirectStore
from vfs_volatile.core import allocation, telling
from vfs_volatile.core.pages import PageSpan, count, merged, pages_of
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.purges import Purges

RANGES = 3 * AT_ONCE + 10


@pytest.fixture
def file() -> File:
    """Every second page is a range of its own; the first half of the pages holds data."""
    made = File(size=4 * RANGES)
    made.truncate(2 * RANGES * P)
    for page in range(0, 2 * RANGES, 2):
        made.mark(page * P, P, 0)
    for page in range(0, RANGES, 256):
        made.write(page * P, b"x" * 256 * P)
    return made


def ranges(file: File) -> int:
    return len(file.volatility.ranges)


def largest_step(file: File, steps: Iterator[None]) -> int:
    """The most that the number of ranges has changed in one step."""
    before, largest = ranges(file), 0
    for _ in steps:
        largest = max(largest, abs(ranges(file) - before))
        before = ranges(file)
    return largest


def unmarking(file: File) -> Iterator[None]:
    for piece in file.pieces(0, 0):
        file.unmark(*piece)
        yield


@pytest.mark.parametrize(
    "steps",
    [lambda file: file.marking(0, 0, 0), unmarking, lambda file: file.truncating(P)],
    ids=["mark", "unmark", "truncate"],
)
def test_no_step_is_long(file: File, steps: Callable[[File], Iterator[None]]) -> None:
    assert AT_ONCE / 2 < largest_step(file, steps(file)) <= AT_ONCE + 1
    file.check()


def test_no_step_of_a_vote_is_long(file: File) -> None:
    steps = file.votes.agreeing("voter", 0, 0, 0)
    assert AT_ONCE / 2 < largest_step(file, steps) <= AT_ONCE + 1
    assert ranges(file) == 2 * RANGES
    ages = {entry.age for entry in file.volatility.ranges if entry.voted}
    assert len(ages) == 1
    file.check()


def test_no_step_of_a_mark_over_votes_is_long(file: File) -> None:
    """There is no gap to fill, but many ranges that need no votes any more."""
    file.votes.agree("voter", 0, 0, 0)
    voted = file.volatility.ranges.voted
    left = [len(voted), *(len(voted) for _ in file.marking(0, 0, 0))]
    assert left[0] == RANGES
    assert left[-1] == 0
    assert max(before - after for before, after in pairwise(left)) <= AT_ONCE
    file.check()


def test_what_a_voter_leaves_goes_in_steps_and_is_not_purged(file: File) -> None:
    file.votes.agree("voter", 0, 0, 0)
    file.votes.drop("voter")
    before = ranges(file)
    file.end_purge(file.begin_purge([PageSpan(0, 2 * RANGES)], file.memory.newest_age))
    assert before - AT_ONCE <= ranges(file) < before, "a purge that ends takes a step"
    assert not any(page % 2 for page in file.volatility.purged), "nobody agrees to these"
    file.votes.agree("other", (2 * RANGES - 4) * P, 4 * P, 0)
    before = ranges(file)
    while file.votes.sweep(AT_ONCE):
        assert before - ranges(file) <= AT_ONCE
        before = ranges(file)
    assert list(file.volatility.ranges.voted) == [2 * RANGES - 3, 2 * RANGES - 1]
    file.check()


def test_a_mark_in_steps_is_one_mark(file: File) -> None:
    file.mark(0, 0, 0)
    assert ranges(file) == 2 * RANGES
    ages = {entry.age for entry in file.volatility.ranges if entry.first % 2}
    assert len(ages) == 1
    file.check()


def test_pieces_are_the_whole(file: File) -> None:
    for start, length in ((0, 0), (5, 3000 * P + 7), (P, P), (0, 1 << 44), (9000 * P, 1)):
        pieces = list(file.pieces(start, length))
        at = start
        for begin, size in pieces[:-1]:
            assert begin == at
            at = begin + size
            assert at % P == 0
        assert pieces[-1] == (at, start + length - at if length else 0)


def test_an_unmark_in_steps_reports_everything(file: File) -> None:
    spans = [PageSpan(0, 2 * RANGES)]
    file.end_purge(file.begin_purge(spans, file.memory.newest_age))
    expected = file.purged_bytes(0, 0)
    assert expected == sum(file.unmark(*piece) for piece in file.pieces(0, 0)) > 0
    assert ranges(file) == 0
    file.check()


def test_zeroing_and_punching_in_steps(file: File) -> None:
    file.zero_range(3, 2 * RANGES * P, keep_size=False)
    assert len(file.resident) == 2 * RANGES + 1
    assert file.size == 2 * RANGES * P + 3
    for _ in file.punching(0, 2 * RANGES * P):
        pass
    assert list(file.resident) == [2 * RANGES]
    assert ranges(file) == RANGES, "volatility stays"
    file.check()


FAR = 65537
"""A set of pages so far apart is asked in as many steps as it has pages."""


@pytest.mark.parametrize("direct", [False, True], ids=["cached", "direct"])
@pytest.mark.parametrize("apart", [1, 3, FAR])
@pytest.mark.parametrize(
    "steps",
    [lambda file: file.punching(0, file.size), lambda file: file.truncating(P)],
    ids=["punch", "truncate"],
)
def test_no_step_frees_very_many_pages(
    steps: Callable[[File], Iterator[None]],
    apart: int,
    monkeypatch: pytest.MonkeyPatch,
    *,
    direct: bool,
) -> None:
    """Also where no range is."""
    monkeypatch.setattr(allocation, "PAGES_AT_ONCE", 10)
    monkeypatch.setattr(allocation, "_CUT_AT_ONCE", 10)
    file = File()
    store = file.fake
    if direct:
        store = FakeDirectStore()
        file.go_direct(store)
    number = 45
    file.truncate(number * apart * P)
    for page in range(0, number * apart, apart):
        store.allocate(PageSpan(page, page + 1))
    if not direct:
        file.resident.update(store.pages)
        file.memory.charge(file, number)
    held = [number, *(len(store.pages) for _ in steps(file)), len(store.pages)]
    assert held[-1] <= 1
    assert max(before - after for before, after in pairwise(held)) <= 10
    file.check()


def test_no_step_fills_very_many_pages() -> None:
    file = File(size=1 << 16)
    for change in (file.allocating, file.zeroing):
        held = [0]
        held += [len(file.resident) for _ in change(0, (1 << 15) * P, keep_size=True)]
        assert held[-1] == 1 << 15
        assert max(after - before for before, after in pairwise(held)) <= 1 << 13
        file.punch_hole(0, (1 << 15) * P)
    file.check()


def test_a_file_that_grows_keeps_what_it_holds_beyond_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(allocation, "_CUT_AT_ONCE", 10)
    file = File(size=1 << 16)
    file.allocate(0, 30 * P, keep_size=True)
    for size in (P, 2 * P):
        for _ in file.truncating(size):
            pass
        assert len(file.resident) == 30


def test_a_file_of_ordinary_size_is_cut_at_once() -> None:
    """Nobody sees a size between."""
    file = File(size=1 << 16)
    file.allocate(0, (1 << 16) * P, keep_size=False)
    assert not list(file.truncating(P))


@pytest.mark.parametrize("direct", [False, True], ids=["cached", "direct"])
def test_no_step_of_a_search_for_data_passes_over_very_many_purged_pages(*, direct: bool) -> None:
    """They may hold what was written to them since."""
    number = 3 * AT_ONCE + 10
    file = File(size=2 * number, zero_by_default=True)
    if direct:
        file.go_direct(FakeDirectStore())
    file.truncate(2 * number * P)
    file.mark(0, 0, 0)
    held = PageSpan(0, 2 * number)
    file.volatility.set_purged(pages_of([held]))
    for page in range(0, 2 * number, 2):
        file.store.allocate(PageSpan(page, page + 1))
        file._make_resident(PageSpan(page, page + 1))
    file.forget(pages_of([PageSpan(page, page + 1) for page in range(1, 2 * number, 2)]))
    turns: list[None] = []
    with pytest.raises(SyscallError):
        sought(file, 0, os.SEEK_DATA, turns)
    assert len(turns) == 3


class Asked(BitMap):
    """Pages that must not be asked for what takes a step for each 65,536 of all before."""

    def rank(self, value: int) -> int:
        raise AssertionError("asked for a rank")

    def min(self) -> int:
        raise AssertionError("asked for the least")


def test_what_is_asked_for_each_range_takes_no_step_for_all_of_them() -> None:
    file = File(size=1 << 20)
    number = 2 * AT_ONCE
    file.truncate(number * FAR * P)
    for first in range(0, number * FAR, FAR):
        file.mark(first * P, P, 0)
    ranges = file.volatility.ranges
    ranges._firsts = Asked(ranges._firsts)
    for first in range(300 * FAR, number * FAR, FAR):
        span = PageSpan(first + 10, first + FAR + 1)
        following = [first + FAR] if first + FAR < number * FAR else []
        assert [entry.first for entry in ranges.overlapping(span)] == following
        assert ranges.step_end(span) == span.end
        assert ranges.number_in(span) <= 1


def test_an_unmark_of_many_spans_takes_each_page_once(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """512 of them may each be the whole of a file of 16 TiB: a second and more."""
    file.purge()
    purged = file.purged_bytes(0, 0)
    counted: list[PageSpan] = []

    def counting(pages: BitMap, span: PageSpan) -> int:
        counted.append(span)
        return count(pages, span)

    monkeypatch.setattr(telling, "count", counting)
    cleaned: list[BitMap] = []
    monkeypatch.setattr(File, "clean", lambda _, pages: cleaned.append(pages))
    starts = [page * P for page in range(2, 514)]
    told = file.unmark_many([*starts, 0], [0] * 513)
    assert sum(told) == purged
    assert told[0] == purged - P
    assert told[-1] == P
    assert len(cleaned) == 1, "each was looked at for each span"
    assert counted == [PageSpan(2, 4 * RANGES // 2), PageSpan(0, 2)], "each page once"
    assert ranges(file) == 0
    file.check()


@pytest.mark.parametrize("opened", [False, True])
def test_the_marks_of_an_unused_file_end_in_steps(file: File, *, opened: bool) -> None:
    """With --lifetime=last-close; and who opens it meanwhile keeps what is left."""
    purges = Purges.__new__(Purges)
    purges._news = Mock()
    inode = Mock(openers=None)
    left: list[int] = []

    async def others() -> None:
        while True:
            left.append(ranges(file))
            if opened and left[-1] < RANGES:
                inode.openers = "somebody"
            await trio.lowlevel.checkpoint()

    async def close() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            await purges.end_unused(inode, file)
            nursery.cancel_scope.cancel()

    trio.run(close)
    steps = [before - after for before, after in pairwise([RANGES, *left])]
    assert max(steps) <= 2 * (AT_ONCE + 1), "trio gives two their turns in any order"
    assert (ranges(file) > 0) == opened
    file.check()


def test_spans_are_merged() -> None:
    spans = [PageSpan(5, 7), PageSpan(0, 2), PageSpan(6, 9), PageSpan(2, 3), PageSpan(8, 8)]
    assert merged(spans) == [PageSpan(0, 3), PageSpan(5, 9)]
    assert list(pages_of(spans)) == [0, 1, 2, 5, 6, 7, 8]
