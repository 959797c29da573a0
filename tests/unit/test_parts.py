"""A call about thousands of parts keeps nobody waiting, whatever each of them costs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.support.space import File, P, every_second_page_purged
from vfs_volatile.core.byte_spans import ByteSpan
from vfs_volatile.core.pages import PageSpan
from vfs_volatile.core.ranges import AT_ONCE, RangeMap
from vfs_volatile.fs import parts as module
from vfs_volatile.fs.parts import Part, purged_in_each, take
from vfs_volatile.fs.purges import Purges

PAGES = 24


async def pause() -> None:
    await trio.lowlevel.checkpoint()


def parts_of(file: File, spans: list[ByteSpan]) -> list[Part]:
    return [(file, span) for span in spans]


def taken(file: File, spans: list[ByteSpan]) -> list[int]:
    async def mark() -> list[int]:
        return await take(parts_of(file, spans), lambda space, span: space.marking(*span, 0), pause)

    return trio.run(mark)


def state(file: File) -> tuple[list[PageSpan], int, list[int]]:
    """Its ranges in the order in which they go, without their ages."""
    ranges = sorted(file.volatility.ranges)
    return [entry.span for entry in ranges], file.volatility.pages, list(file.resident)


byte_spans = st.tuples(st.integers(0, (PAGES + 2) * P), st.integers(0, PAGES * P))
whole_pages = st.tuples(st.integers(0, PAGES), st.integers(0, 5)).map(
    lambda span: (span[0] * P, span[1] * P)
)


@given(st.lists(byte_spans | whole_pages, min_size=1, max_size=12), st.data())
def test_parts_taken_together_are_as_one_after_the_other(
    spans: list[ByteSpan], data: st.DataObject
) -> None:
    one, other = File(), File()
    for file in (one, other):
        file.write(0, b"x" * (PAGES * P - 100))
    for span in data.draw(st.lists(byte_spans, max_size=5)):
        for file in (one, other):
            file.mark(*span, 0)
            file.purge(*span)
    expected = [one.mark(*span, 0) for span in spans]
    assert taken(other, spans) == expected
    assert state(one) == state(other)
    other.check()


class Turns:
    """Counts the turns that others have."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self) -> None:
        self.count += 1
        await trio.lowlevel.checkpoint()


@pytest.fixture
def file() -> Iterator[File]:
    made = every_second_page_purged(4 * AT_ONCE)
    yield made
    made.check()


def test_the_whole_of_a_file_again_and_again_is_looked_at_once(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16,000 parts fit into one value of an attribute."""
    gaps, counted = RangeMap.gaps, 0

    def gaps_(ranges: RangeMap, *arguments: object) -> object:
        nonlocal counted
        counted += 1
        return gaps(ranges, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(RangeMap, "gaps", gaps_)
    monkeypatch.setattr(File, "purged_bytes", None)  # a look at the whole file for each
    purges = Purges.__new__(Purges)
    found = trio.run(purges.mark, parts_of(file, [(0, 0)] * 16_000), 0)
    assert found == [4 * AT_ONCE * P] * 16_000
    assert counted < 10


def test_others_have_their_turns_by_what_parts_cost(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four parts of a thousand ranges each, and thousands of none."""
    turns = Turns()

    async def mark(spans: list[ByteSpan]) -> int:
        turns.count = 0
        await take(
            [(file, span) for span in spans], lambda space, span: space.marking(*span, 0), turns
        )
        return turns.count

    assert trio.run(mark, [(0, 100 * P)]) == 0, "a few are marked at one moment"
    quarter = 2 * AT_ONCE * P
    assert trio.run(mark, [(each * quarter, quarter) for each in range(4)]) >= 3
    assert trio.run(mark, [(0, P)] * 4 * AT_ONCE) >= 3
    turns.count = 0
    monkeypatch.setattr(module, "_purged_in_each", lambda parts: [0] * min(len(parts), AT_ONCE))
    found = trio.run(purged_in_each, parts_of(file, [(0, 0)] * 4 * AT_ONCE), turns)
    assert len(found) == 4 * AT_ONCE, "not so many at once"
    assert turns.count == 3
