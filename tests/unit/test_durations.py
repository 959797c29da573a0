"""The histogram: cumulative, whole, and every duration in its class."""

from hypothesis import given
from hypothesis import strategies as st

from vfs_volatile.core.durations import BOUNDS, Durations


@given(st.lists(st.floats(0, 20)))
def test_it_counts_what_took_so_long_at_most(seconds: list[float]) -> None:
    durations = Durations()
    for each in seconds:
        durations.add(each)
    found = durations.up_to()
    for bound, (name, count) in zip(BOUNDS, found, strict=False):
        assert float(name) == bound
        assert count == sum(each <= bound for each in seconds)
    assert found[-1] == ("+Inf", len(seconds))
    assert durations.count == len(seconds)
    assert abs(durations.seconds - sum(seconds)) < 1e-6
