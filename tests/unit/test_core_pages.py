"""Page sets and byte spans against loops over pages and bytes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from tests.support.stores import FakeDirectStore
from vfs_volatile.core.byte_spans import pages_covered, pages_touched, whole_pages
from vfs_volatile.core.held import Search, held_end, present
from vfs_volatile.core.pages import (
    LAST_PAGE,
    PageSpan,
    count,
    next_page,
    page_set,
    run_end,
    run_first,
    runs,
    without,
)
from vfs_volatile.core.ranges import RangeMap
from vfs_volatile.units import PAGE_SIZE

sets = st.builds(
    lambda numbers, base: {base + number for number in numbers},
    st.sets(st.integers(0, 12)),
    st.sampled_from([0, 65530, LAST_PAGE - 13]),
)
ends = st.builds(
    lambda page, delta: max(0, page * PAGE_SIZE + delta), st.integers(0, 4), st.integers(-2, 2)
)


@given(sets)
def test_runs_are_maximal_and_give_back_the_set(numbers: set[int]) -> None:
    found = list(runs(BitMap(numbers)))
    assert [page for run in found for page in range(*run)] == sorted(numbers)
    for before, after in pairwise(found):
        assert before.end < after.first


@given(sets, st.integers(0, 12))
def test_run_end_is_the_first_page_that_is_missing(numbers: set[int], first: int) -> None:
    first += min(numbers, default=0)
    end = first
    while end in numbers:
        end += 1
    assert run_end(BitMap(numbers), first) == end


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 63, 64, 65, 65535, 65536, 65537, 1 << 28])
def test_run_end_of_runs_of_any_length(length: int) -> None:
    pages = page_set(PageSpan(7, 7 + length))
    assert run_end(pages, 7) == 7 + length
    assert run_end(pages, 7 + length - 1) == 7 + length


@given(st.lists(st.tuples(ends, ends)))
def test_what_consists_of_whole_pages_meets_what_it_covers(spans: list[tuple[int, int]]) -> None:
    starts, stops = [min(span) for span in spans], [max(span) for span in spans]
    covered = [pages_covered(*ends, 1 << 40) for ends in zip(starts, stops, strict=True)]
    touched = [pages_touched(*ends) for ends in zip(starts, stops, strict=True)]
    found = whole_pages(starts, stops)
    if found is None:
        assert any(offset % PAGE_SIZE for offset in starts + stops)
    else:
        assert list(zip(*found, strict=True)) == covered == touched


@given(sets)
def test_run_first_is_where_the_run_of_a_page_starts(numbers: set[int]) -> None:
    for last in numbers:
        first = last
        while first - 1 in numbers:
            first -= 1
        assert run_first(BitMap(numbers), last) == first


@given(st.sets(st.integers(0, 40)), st.integers(0, 40), st.integers(0, 40))
def test_what_a_store_holds_is_found_by_counting(held: set[int], first: int, length: int) -> None:
    store = FakeDirectStore()
    for page in held:
        store.allocate(PageSpan(page, page + 1))
    span = PageSpan(first, first + length)
    inside = sorted(held & set(range(*span)))
    outside = sorted(set(range(*span)) - held)
    assert [page for run in present(store, span) for page in range(*run)] == inside
    assert Search(store).first_held(span) == (inside or [span.end])[0]
    assert held_end(store, span) == (outside or [span.end])[0]


class Untouched(FakeDirectStore):
    """What it holds was allocated alone, and the kernel goes through all of that."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def next_data(self, page: int) -> int | None:
        self.asked += 1
        return None


def test_what_was_allocated_alone_is_passed_over_once() -> None:
    store = Untouched()
    for page in range(0, 2000, 20):
        store.allocate(PageSpan(page, page + 1))
    assert [run.first for run in present(store, PageSpan(0, 2000))] == list(range(0, 2000, 20))
    assert store.asked <= 1


@given(sets, st.integers(0, 20))
def test_next_page_is_the_first_at_or_after(numbers: set[int], page: int) -> None:
    page += min(numbers, default=0)
    later = [number for number in numbers if number >= page]
    assert next_page(BitMap(numbers), page) == (min(later) if later else None)


@given(st.sets(st.integers(0, 40)), st.integers(0, 40), st.integers(0, 20))
def test_a_span_without_some_pages(numbers: set[int], first: int, count: int) -> None:
    span = PageSpan(first, first + count)
    found = list(without(span, BitMap(numbers)))
    assert [page for run in found for page in range(*run)] == sorted(set(range(*span)) - numbers)
    assert all(before.end < after.first for before, after in pairwise(found))


@given(sets, st.integers(0, 20), st.integers(-1, 20))
def test_count_counts_the_pages_in_a_span(numbers: set[int], first: int, length: int) -> None:
    first += min(numbers, default=0)
    span = PageSpan(first, min(max(0, first + length), LAST_PAGE))
    assert count(BitMap(numbers), span) == len(numbers.intersection(range(*span)))


@given(st.integers(0, 70000), st.integers(-1, 70000))
def test_page_set_holds_the_pages_of_a_span(first: int, length: int) -> None:
    span = PageSpan(first, max(0, first + length))
    assert page_set(span) == BitMap(range(*span))


@given(ends, ends, ends)
def test_pages_touched_and_covered_by_counting_bytes(start: int, end: int, size: int) -> None:
    """A covered page has no byte within the file that lies outside; a touched one has one inside.

    ``end`` lies within the file, or the bytes are about to make it larger.
    """
    if start >= end:
        return
    size = max(size, end)
    inside = {byte // PAGE_SIZE for byte in range(start, end)}
    outside = {byte // PAGE_SIZE for byte in (*range(start), *range(end, size))}
    assert set(range(*pages_touched(start, end))) == inside
    assert set(range(*pages_covered(start, end, size))) == inside - outside


def test_the_last_page_in_part_is_whole_only_up_to_the_end_of_file() -> None:
    size = PAGE_SIZE + 10
    assert pages_covered(0, size, size) == (0, 2)
    assert pages_covered(0, size - 1, size) == (0, 1)
    assert pages_covered(1, size, size) == (1, 2)
    assert not pages_covered(PAGE_SIZE + 1, size, size)


def test_all_pages_of_the_largest_file() -> None:
    pages = page_set(PageSpan(0, LAST_PAGE))
    assert list(runs(pages)) == [PageSpan(0, LAST_PAGE)]
    pages.remove_range(1, LAST_PAGE)
    assert count(pages, PageSpan(0, LAST_PAGE)) == 1


def test_looking_where_there_is_nothing_takes_no_memory() -> None:
    pages, ranges = BitMap([1]), RangeMap()

    def look(times: int) -> int:
        """How many bytes the process has grown by."""
        before = Path("/proc/self/statm").read_text().split()[1]
        for _ in range(times):
            assert next_page(pages, 2) is None
            assert not list(ranges.from_page(2))
        return (int(Path("/proc/self/statm").read_text().split()[1]) - int(before)) * PAGE_SIZE

    look(50_000)
    assert look(200_000) < 4 << 20
