"""How much goes under pressure: bounds, growth and calm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfs_volatile.core.relief import Relief, is_short
from vfs_volatile.units import PAGE_SIZE

GIB = (1 << 30) // PAGE_SIZE
MIB = (1 << 20) // PAGE_SIZE


def test_it_grows_while_the_pressure_goes_on() -> None:
    relief = Relief()
    answers = [relief.wanted(2.0 * event, GIB) for event in range(6)]
    assert answers == [GIB // 8, GIB // 4, GIB // 2, GIB, GIB, GIB]


def test_it_begins_anew_after_calm() -> None:
    relief = Relief()
    assert [relief.wanted(now, GIB) for now in (0.0, 9.9, 19.8, 29.8)] == [
        GIB // 8,
        GIB // 4,
        GIB // 2,
        GIB // 8,
    ]


def test_two_sources_get_one_answer() -> None:
    relief = Relief()
    assert relief.wanted(5.0, GIB)
    assert relief.wanted(5.9, GIB) == 0
    assert relief.wanted(6.0, GIB) == GIB // 4


def test_it_takes_no_less_than_is_worth_a_look() -> None:
    assert Relief().wanted(0.0, 100 * MIB) == 16 * MIB
    assert Relief().wanted(0.0, 10 * MIB) == 10 * MIB
    assert Relief().wanted(0.0, 0) == 0


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 1 << 32)), max_size=30).map(
        lambda steps: [
            (sum(pause for pause, _ in steps[:n]), steps[n][1]) for n in range(len(steps))
        ]
    )
)
def test_it_never_wants_more_than_there_is(events: list[tuple[float, int]]) -> None:
    relief = Relief()
    for now, purgeable in events:
        wanted = relief.wanted(now, purgeable)
        assert 0 <= wanted <= purgeable
        assert wanted in (0, purgeable) or wanted >= min(16 * MIB, purgeable // 8)


@pytest.mark.parametrize(("free", "short"), [(0, True), (99, True), (100, False), (1600, False)])
def test_a_machine_with_a_sixteenth_free_is_not_short(free: int, short: bool) -> None:
    assert is_short(free, 1600) is short
