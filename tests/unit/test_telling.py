"""What is told of thousands of parts is told at one moment, and that is short."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from tests.support.space import File, P, every_second_page_purged
from tests.support.stores import FakeDirectStore
from vfs_volatile.core import ranges
from vfs_volatile.core import telling as module
from vfs_volatile.core.byte_spans import ByteSpan, bytes_of, clip, pages_touched
from vfs_volatile.core.pages import PageSpan, count, page_set
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.core.telling import Telling, hold, tell
from vfs_volatile.core.votes import Votes
from vfs_volatile.fs.drains import Drains
from vfs_volatile.fs.parts import Part
from vfs_volatile.fs.purges import Purges
from vfs_volatile.fs.threads import Standby

PAGES = 24
MANY = 3 * AT_ONCE

byte_spans = st.tuples(st.integers(0, (PAGES + 2) * P), st.integers(0, PAGES * P))
page_spans = st.tuples(st.integers(0, PAGES), st.integers(1, 4)).map(
    lambda span: (span[0] * P, span[1] * P)
)
spans = st.lists(byte_spans | page_spans, min_size=1, max_size=10)


def parts_of(file: File, spans: list[ByteSpan]) -> list[Part]:
    return [(file, span) for span in spans]


def naive(file: File, pages: BitMap, spans: list[ByteSpan]) -> list[int]:
    """The bytes of each that lie in ``pages``, each page once."""
    found, left = [], pages.copy()
    for span in spans:
        start, end = clip(*span, file.size)
        touched = pages_touched(start, end) if start < end else PageSpan(0, 0)
        found.append(bytes_of(left, (start, end), count(left, touched)))
        left -= page_set(touched)
    return found


@pytest.mark.parametrize("few", [0, 16])
@given(asked=spans, marks=st.lists(page_spans, max_size=8), data=st.data())
def test_each_page_is_told_once_and_its_ranges_are_cut(
    few: int, asked: list[ByteSpan], marks: list[ByteSpan], data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "_FEW", few)
        check_told(asked, marks, data)


def check_told(asked: list[ByteSpan], marks: list[ByteSpan], data: st.DataObject) -> None:
    file = File()
    file.write(0, b"x" * (PAGES * P - 100))
    for mark in marks:
        file.mark(*mark, 0)
    for purge in data.draw(st.lists(page_spans, max_size=4)):
        file.purge(*purge)
    purged, covered = file.volatility.purged.copy(), file.volatility.ranges.covered.copy()
    expected = naive(file, purged, asked)
    met = BitMap().union(*(page_set(file.touched(*span)) for span in asked))
    before = {entry.age: entry.behavior for entry in file.volatility.ranges}
    assert tell(parts_of(file, asked)) == expected
    assert file.volatility.purged == purged - met
    assert file.volatility.ranges.covered == covered - met
    assert all(before[entry.age] == entry.behavior for entry in file.volatility.ranges)
    file.check()


@pytest.fixture
def file() -> File:
    return every_second_page_purged(MANY)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[PageSpan]:
    """What the bytes to be told are counted in."""
    spans: list[PageSpan] = []

    def counting(pages: BitMap, span: PageSpan) -> int:
        spans.append(span)
        return count(pages, span)

    monkeypatch.setattr(module, "count", counting)
    return spans


def looked_at(file: File, spans: list[ByteSpan]) -> Telling:
    telling = Telling(parts_of(file, spans))
    assert len(list(telling.look())) >= len(spans) // AT_ONCE - 1
    return telling


def test_at_the_moment_nothing_is_counted_that_has_been(
    file: File, counted: list[PageSpan]
) -> None:
    telling = looked_at(file, [(page * P, P) for page in range(0, 2 * MANY, 2)])
    assert len(list(telling.count())) >= MANY // AT_ONCE - 1
    assert len(counted) == MANY
    assert telling.unmark() == [P] * MANY
    assert len(counted) == MANY
    file.check()


@pytest.mark.parametrize("what", ["purged", "told", "cut"])
def test_what_changes_before_the_moment_is_told_as_it_is_then(file: File, what: str) -> None:
    file.write(0, b"x" * P)
    expected = [P] * MANY
    telling = looked_at(file, [(page * P, P) for page in range(0, 2 * MANY, 2)])
    for _ in telling.count():
        pass
    if what == "purged":
        file.purge(0, P)
    else:
        expected[0] = 0
        if what == "told":
            expected[7] = 0
            assert file.unmark(14 * P, P) == P
        else:
            expected[-1] = 1
            file.truncate((2 * MANY - 2) * P + 1)
            file.mark((2 * MANY - 2) * P, 1, 0)
    assert telling.unmark()[:-1] == expected[:-1]
    file.check()


def test_parts_that_meet_the_same_pages_are_counted_once(
    file: File, counted: list[PageSpan]
) -> None:
    telling = looked_at(file, [(0, 0)] * 16_000)
    assert sum(telling.unmark()) == MANY * P
    assert len(counted) == 1


def test_votes_are_cast_on_all_parts_together(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a voter has to hear is a set of all that is purged: 60,000 pages far apart take 8 ms."""
    asked: list[object] = []
    to_tell = Votes.to_tell

    def asking(votes: Votes, process: object) -> BitMap:
        asked.append(process)
        return to_tell(votes, process)

    monkeypatch.setattr(Votes, "to_tell", asking)
    parts = parts_of(file, [(page * P, P) for page in range(0, 2 * MANY, 2)])
    assert hold("A", parts) == [P] * MANY
    assert len(asked) <= 2


def unmark(file: File, others: Callable[[], None]) -> int:
    """As a mount does; ``others`` are called whenever they have their turn."""

    async def call() -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns)
            purges = Purges(file.memory, Drains(lambda *_: None, Standby()), None, None, None)  # type: ignore[arg-type]
            told = await purges.unmark([(file, (0, 0))])
            nursery.cancel_scope.cancel()
        return sum(told)

    async def turns() -> None:
        while True:
            others()
            await trio.lowlevel.checkpoint()

    return trio.run(call)


def test_zeros_hold_memory_again_in_steps() -> None:
    """Where somebody has them mapped. What is marked and purged meanwhile stays purged."""
    file, store = File(size=4 * MANY), FakeDirectStore()
    file.go_direct(store)
    file.truncate(2 * MANY * P)
    file.keeps_pages = True
    for page in range(0, 2 * MANY, 2):
        store.allocate(PageSpan(page, page + 1))
        file.mark(page * P, P, 0)
    file.purge()
    assert not store.pages
    held: list[int] = []

    def others() -> None:
        if len(store.pages) > (held[-1] if held else 0):
            if not held:
                file.mark((2 * MANY - 2) * P, P, 0)
                store.allocate(PageSpan(2 * MANY - 2, 2 * MANY - 1))
                file.purge((2 * MANY - 2) * P, P)
            held.append(len(store.pages))

    assert unmark(file, others) == MANY * P
    assert held[0] <= 2 * AT_ONCE, "trio gives two their turns in any order"
    assert len(store.pages) == MANY - 1
    assert list(file.volatility.purged) == [2 * MANY - 2]
    file.check()


def test_a_range_that_is_told_of_takes_no_call(file: File) -> None:
    """At the moment all of them are told at."""
    telling = looked_at(file, [(0, 0)])
    for _ in telling.count():
        pass
    calls = 0

    def count_call(_frame: object, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count_call)
    try:
        telling.unmark()
    finally:
        sys.setprofile(None)
    assert calls < 1000 < MANY
    file.check()
