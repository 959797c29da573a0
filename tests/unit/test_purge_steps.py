"""What holds memory in very many places is purged in steps, between which others are served."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.stores import FakeDirectStore, FakeStore
from vfs_volatile.abi.ioctls import VRANGE_FULL, VRANGE_PARTIAL, VRANGE_ZERO
from vfs_volatile.core import address_space, reclaim
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import CHUNK_PAGES, PageSpan
from vfs_volatile.core.reclaim import Round, Victim
from vfs_volatile.units import PAGE_SIZE

AT_ONCE = 3


@pytest.fixture(autouse=True, scope="module")
def few_at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(address_space, "AT_ONCE", AT_ONCE)
        patch.setattr(reclaim, "AT_ONCE", AT_ONCE)
        yield


def file_of(pages: set[int], *, direct: bool) -> AddressSpace:
    space = AddressSpace(1, Memory(1000, 1000), FakeStore())
    if direct:
        space.go_direct(FakeDirectStore())
    space.truncate((max(pages) + 1) * PAGE_SIZE)
    for page in pages:
        space.write(page * PAGE_SIZE, b"x" * PAGE_SIZE)
    return space


def places(pages: set[int], spans: list[PageSpan], *, direct: bool) -> int:
    """The chunks, or if direct the runs, in which ``spans`` meet ``pages``."""
    met = {page for page in pages if any(page in range(*span) for span in spans)}
    if direct:
        return len({page for page in met if page - 1 not in met})
    return len({page // CHUNK_PAGES for page in met})


def purge(space: AddressSpace, victims: list[Victim]) -> None:
    for victim in victims:
        space.end_purge(space.begin_purge(victim.spans, victim.entry.age))


class Untouched(FakeDirectStore):
    """What it holds was allocated alone."""

    def next_data(self, page: int) -> int | None:
        return None


def far_apart(count: int) -> set[int]:
    return {number * CHUNK_PAGES for number in range(count)}


page_sets = st.sets(
    st.builds(lambda chunk, page: chunk * CHUNK_PAGES + page, st.integers(0, 9), st.integers(0, 5)),
    min_size=1,
)


@given(page_sets, st.booleans())
def test_steps_are_all_of_a_span_and_none_is_long(pages: set[int], direct: bool) -> None:
    space = file_of(pages, direct=direct)
    steps = list(space.steps(PageSpan(0, max(pages) + 1)))
    assert [page for step in steps for page in range(*step)] == list(range(max(pages) + 1))
    assert all(places(pages, [step], direct=direct) == AT_ONCE for step in steps[:-1])
    assert places(pages, steps[-1:], direct=direct) <= AT_ONCE


def test_what_is_only_allocated_is_a_place_too() -> None:
    space = AddressSpace(1, Memory(1000, 1000), FakeStore())
    space.go_direct(Untouched())
    for page in far_apart(7):
        space.allocate(page * PAGE_SIZE, PAGE_SIZE, keep_size=False)
    assert len(list(space.steps(PageSpan(0, 7 * CHUNK_PAGES)))) == 3


@given(page_sets, st.booleans(), st.sampled_from([VRANGE_FULL, VRANGE_PARTIAL]), st.integers(1, 70))
def test_what_was_chosen_goes_in_steps_to_its_end(
    pages: set[int], direct: bool, behavior: int, need: int
) -> None:
    space = file_of(pages, direct=direct)
    space.mark(0, 0, behavior | VRANGE_ZERO)
    this = Round(space.memory)
    step = this.choose(need)
    while step:
        spans = [span for victim in step for span in victim.spans]
        assert 1 <= places(pages, spans, direct=direct) <= AT_ONCE
        purge(space, step)
        step = this.choose(0) if this.under_way else []
    gone = pages if behavior == VRANGE_FULL else set(sorted(pages)[:need])
    assert set(space.volatility.purged) == gone
    assert space.memory.resident == len(pages - gone)


@pytest.mark.parametrize("direct", [False, True])
def test_what_is_taken_back_between_two_steps_has_not_gone(direct: bool) -> None:
    space = file_of(far_apart(8), direct=direct)
    space.mark(0, 0, VRANGE_ZERO)
    this = Round(space.memory)
    purge(space, this.choose(1))
    assert space.unmark(0, 0) == AT_ONCE * PAGE_SIZE
    while this.under_way:
        purge(space, this.choose(0))
    assert space.memory.resident == 8 - AT_ONCE
    assert space.read(7 * CHUNK_PAGES * PAGE_SIZE, 1) == b"x"


def test_a_round_is_not_finished_in_the_middle_of_a_range() -> None:
    space = file_of(far_apart(4), direct=False)
    space.mark(0, 0, VRANGE_FULL)
    this = Round(space.memory)
    purge(space, this.choose(1))
    assert this.under_way
    assert not this.finished
    purge(space, this.choose(0))
    assert not this.choose(1)
    assert this.finished
