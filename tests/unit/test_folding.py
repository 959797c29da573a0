"""What a process has mapped, folded: against a model that goes page by page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from vfs_volatile.core.consent import Place
from vfs_volatile.core.pages import LAST_PAGE, PageSpan
from vfs_volatile.processes.folding import fold, mapped_by
from vfs_volatile.processes.maps import Found
from vfs_volatile.units import PAGE_SIZE

AT = 0x10000


def mapping(first: int, pages: int, ino: int = 1, *, shared: bool = False, at: int = AT) -> Found:
    return at, at + pages * PAGE_SIZE, first * PAGE_SIZE, ino, shared


def enough() -> None:
    """There is memory."""


def many(count: int) -> Iterator[Found]:
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


@given(mappings)
def test_each_file_has_its_pages_by_kind(found: list[Found]) -> None:
    expected: dict[tuple[int, bool], set[int]] = {}
    for start, end, offset, ino, shared in found:
        first = offset // PAGE_SIZE
        pages = range(first, first + (end - start) // PAGE_SIZE)
        if held := {page for page in pages if page < LAST_PAGE}:
            expected.setdefault((ino, not shared), set()).update(held)
    mapped = mapped_by("somebody", 12, fold(found, enough))
    assert {(ino, each.private): set(each.pages or ()) for ino, each in mapped.mappers} == expected
    assert {(each.process, each.pid) for _, each in mapped.mappers} <= {("somebody", 12)}


@pytest.mark.parametrize("count", [999, 1000, 1001, 2500])
def test_very_many_are_two_sets(count: int) -> None:
    """Whoever serves the mount has no work for each mapping; nor is there memory for each."""
    asked = 0

    def ask() -> None:
        nonlocal asked
        asked += 1

    mapped = mapped_by("somebody", 12, fold(many(count), ask))
    ((_, mapper),) = mapped.mappers
    assert mapper.pages == BitMap(range(0, 2 * count, 2))
    assert mapped.size < 20_000
    assert asked == -(-count // 1000) + 1, "and once for the sets"


def test_there_is_memory_for_each_thousand_sets() -> None:
    asked = 0

    def ask() -> None:
        nonlocal asked
        asked += 1

    folds = fold((mapping(0, 1, ino) for ino in range(1, 2501)), ask)
    assert len(folds) == 2500
    assert asked == 3 + 3


def test_it_ends_where_there_is_no_memory() -> None:
    asked = 0

    def ask() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise MemoryError

    found = many(5000)
    with pytest.raises(MemoryError):
        fold(found, ask)
    assert len(list(found)) == 5000 - 1001


def test_the_first_few_places_are_known() -> None:
    ((_, mapper),) = mapped_by("somebody", 12, fold(many(50), enough)).mappers
    assert mapper.place_of(BitMap([6, 9])) == Place(
        PageSpan(6, 7), (AT + 3 * PAGE_SIZE, AT + 4 * PAGE_SIZE)
    )
    assert mapper.place_of(BitMap([98])) is None
    assert mapper.place_of(BitMap([7])) is None, "nobody has it mapped"


def test_what_it_takes_grows_with_what_is_spread() -> None:
    dense = mapped_by("somebody", 1, fold([mapping(0, 60_000)], enough)).size
    spread = mapped_by("somebody", 1, fold([mapping(n << 16, 1) for n in range(500)], enough)).size
    assert dense < 2_000
    assert spread > 500 * 64
