"""What a process has mapped, folded: against a model that goes page by page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from tests.support.mappings import AT, Row, columns, mapping
from vfs_volatile.core.consent import Place
from vfs_volatile.core.pages import LAST_PAGE, PageSpan
from vfs_volatile.processes.folding import fold, mapped_by
from vfs_volatile.processes.maps import Columns
from vfs_volatile.units import PAGE_SIZE


def enough() -> None:
    """There is memory."""


def found(rows: Iterable[Row], at_once: int = 3) -> Iterator[Columns]:
    """What a query answers, some at a time."""
    left = iter(rows)
    while some := list(islice(left, at_once)):
        yield columns(some)


def many(count: int) -> Iterator[Row]:
    """Every other page, so that no two mappings make one run."""
    return (mapping(2 * number, 1, at=AT + number * PAGE_SIZE) for number in range(count))


mappings = st.lists(
    st.builds(
        mapping,
        st.integers(0, 40) | st.integers(LAST_PAGE - 3, LAST_PAGE + 3),
        st.integers(1, 9),
        st.integers(1, 3),
        shared=st.booleans(),
    ),
    max_size=12,
)


@given(mappings, st.integers(1, 12), st.none() | st.sets(st.integers(1, 4)))
def test_each_file_has_its_pages_by_kind(
    rows: list[Row], at_once: int, wanted: set[int] | None
) -> None:
    expected: dict[tuple[int, bool], set[int]] = {}
    for start, end, offset, ino, shared in rows:
        first = offset // PAGE_SIZE
        pages = range(first, first + (end - start) // PAGE_SIZE)
        held = {page for page in pages if page < LAST_PAGE}
        if held and (wanted is None or ino in wanted):
            expected.setdefault((ino, not shared), set()).update(held)
    mapped = mapped_by("somebody", 12, fold(found(rows, at_once), enough, wanted))
    assert {(ino, each.private): set(each.pages or ()) for ino, each in mapped.mappers} == expected
    assert {(each.process, each.pid) for _, each in mapped.mappers} <= {("somebody", 12)}


@pytest.mark.parametrize("order", [1, -1])
def test_very_many_are_two_sets(order: int) -> None:
    """Whoever serves the mount has no work for each mapping; nor is there memory for each."""
    asked = 0

    def ask() -> None:
        nonlocal asked
        asked += 1

    rows = list(many(2500))[::order]
    ((_, mapper),) = mapped_by("somebody", 12, fold(found(rows, 1000), ask)).mappers
    assert mapper.pages == BitMap(range(0, 5000, 2))
    assert asked == 3


def test_it_ends_where_there_is_no_memory() -> None:
    asked = 0

    def ask() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise MemoryError

    rows = many(5000)
    with pytest.raises(MemoryError):
        fold(found(rows, 1000), ask)
    assert len(list(rows)) == 3000


def test_the_first_few_places_are_known() -> None:
    ((_, mapper),) = mapped_by("somebody", 12, fold(found(many(50)), enough)).mappers
    assert mapper.place_of(BitMap([6, 9])) == Place(
        PageSpan(6, 7), (AT + 3 * PAGE_SIZE, AT + 4 * PAGE_SIZE)
    )
    assert mapper.place_of(BitMap([98])) is None
    assert mapper.place_of(BitMap([7])) is None, "nobody has it mapped"


def test_what_it_takes_grows_with_what_is_spread() -> None:
    dense, spread = (
        mapped_by("somebody", 1, fold(found(rows), enough)).size
        for rows in ([mapping(0, 60_000)], [mapping(n << 16, 1) for n in range(500)])
    )
    assert dense < 2_000
    assert spread > 500 * 64
