"""RangeMap against a list of owners, one per page."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.stores import FakeStore
from vfs_volatile.abi.ioctls import VRANGE_PARTIAL, vrange_priority
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan
from vfs_volatile.core.ranges import RangeMap, VolatileRange

PAGES = 12

SPACE = AddressSpace(1, Memory(0, 0), FakeStore())

spans = st.tuples(st.integers(0, PAGES), st.integers(0, PAGES)).map(
    lambda ends: PageSpan(min(ends), max(ends))
)


@st.composite
def layouts(draw: st.DrawFn) -> list[PageSpan]:
    """Spans that do not overlap; some are neighbours."""
    cuts = sorted(draw(st.sets(st.integers(0, PAGES), max_size=8)))
    return [PageSpan(first, end) for first, end in pairwise(cuts) if draw(st.booleans())]


def make_map(layout: list[PageSpan]) -> RangeMap:
    ranges = RangeMap()
    for span in layout:
        ranges.add(VolatileRange.make(SPACE, span, 0, 1))
    return ranges


def pages(span: PageSpan) -> set[int]:
    return set(range(*span))


@given(layouts())
def test_ranges_come_in_the_order_of_their_pages(layout: list[PageSpan]) -> None:
    ranges = make_map(layout[::-1])
    ranges.check()
    assert [found.span for found in ranges] == layout
    assert len(ranges) == len(layout)


@given(layouts(), st.integers(0, PAGES))
def test_from_page_begins_with_the_range_that_holds_it(layout: list[PageSpan], page: int) -> None:
    found = [entry.span for entry in make_map(layout).from_page(page)]
    assert found == [span for span in layout if span.end > page]


@given(layouts(), spans)
def test_overlapping_finds_those_that_share_a_page(layout: list[PageSpan], span: PageSpan) -> None:
    found = [entry.span for entry in make_map(layout).overlapping(span)]
    if span:
        assert found == [other for other in layout if pages(other) & pages(span)]


@given(layouts(), spans)
def test_gaps_are_the_pages_of_no_range_in_maximal_runs(
    layout: list[PageSpan], span: PageSpan
) -> None:
    gaps = list(make_map(layout).gaps(span))
    taken = set().union(*map(pages, layout))
    assert set().union(*map(pages, gaps)) == pages(span) - taken
    assert all(gaps)
    assert sum(map(len, map(pages, gaps))) == len(pages(span) - taken)
    for before, after in pairwise(gaps):
        assert before.end < after.first


@given(layouts(), st.data())
def test_a_range_removed_is_gone(layout: list[PageSpan], data: st.DataObject) -> None:
    ranges = make_map(layout)
    for entry in list(ranges):
        if data.draw(st.booleans()):
            ranges.remove(entry)
            layout.remove(entry.span)
    ranges.check()
    assert [found.span for found in ranges] == layout


def test_a_range_that_is_not_here_cannot_be_removed() -> None:
    with pytest.raises(KeyError):
        RangeMap().remove(VolatileRange.make(SPACE, PageSpan(0, 1), 0, 1))


@given(spans, spans)
def test_clip_is_what_two_spans_share(one: PageSpan, other: PageSpan) -> None:
    shared = one.clip(other)
    assert pages(shared) == pages(one) & pages(other)
    assert bool(shared) == bool(pages(one) & pages(other))
    if one and other:
        assert one.overlaps(other) == bool(shared)


@pytest.mark.parametrize("broken", [[(0, 2), (1, 3)], [(2, 2)]])
def test_check_tells_of_overlaps_and_empty_ranges(broken: list[tuple[int, int]]) -> None:
    ranges = make_map([PageSpan(*ends) for ends in broken])
    with pytest.raises(AssertionError):
        ranges.check()


def test_check_tells_of_a_range_under_a_wrong_page() -> None:
    ranges = make_map([PageSpan(1, 5)])
    entry = next(iter(ranges))
    ranges._by_first[1] = entry._replace(first=2)
    with pytest.raises(AssertionError):
        ranges.check()


def test_the_order_of_purging_is_priority_then_age_then_place() -> None:
    def order(priority: int, age: int, first: int) -> tuple[int, ...]:
        behavior = vrange_priority(priority) | VRANGE_PARTIAL
        return VolatileRange.make(SPACE, PageSpan(first, first + 1), behavior, age).order

    shuffled = [(7, 0, 0), (0, 4, 9), (1, 1, 0), (0, 3, 7), (0, 4, 0)]
    in_order = [(0, 3, 7), (0, 4, 0), (0, 4, 9), (1, 1, 0), (7, 0, 0)]
    assert sorted(shuffled, key=lambda entry: order(*entry)) == in_order


@given(layouts(), st.integers(0, 7))
def test_many_ranges_are_made_and_found_as_one_by_one(
    layout: list[PageSpan], priority: int
) -> None:
    behavior = vrange_priority(priority)
    firsts, ends = [span.first for span in layout], [span.end for span in layout]
    new = VolatileRange.make_all(SPACE, firsts, ends, behavior, 5)
    one_by_one = [
        VolatileRange.make(SPACE, span, behavior, age) for age, span in enumerate(layout, 5)
    ]
    assert new == one_by_one
    ranges = RangeMap()
    ranges.add_all(firsts, ends, new)
    ranges.check()
    assert ranges.exactly(firsts, ends) == list(ranges) == new
    assert ranges.exactly([*firsts, PAGES], [*ends, PAGES + 1]) is None
    if layout:
        assert ranges.exactly(firsts, [*ends[:-1], ends[-1] + 1]) is None
    ranges.remove_all(firsts[1:], ends[1:])
    ranges.check()
    assert list(ranges) == new[:1]
