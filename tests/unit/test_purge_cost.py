"""What a purge does for each of very many ranges of a page: it keeps others waiting so long."""

from __future__ import annotations

import sys

import pytest

from tests.support.space import File, P
from tests.support.stores import FakeDirectStore

NUMBER = 200
STORES = ("stores.py",)


@pytest.mark.parametrize(("direct", "most"), [(False, 30), (True, 55)], ids=["cached", "direct"])
def test_a_range_of_a_page_takes_few_calls(most: int, *, direct: bool) -> None:
    """Those of the store of the test do not count."""
    file = File(size=4 * NUMBER, zero_by_default=True)
    if direct:
        file.go_direct(FakeDirectStore())
    file.truncate(2 * NUMBER * P)
    for page in range(0, 2 * NUMBER, 2):
        file.write(page * P, b"x" * P)
        file.mark(page * P, P, 0)
    spans = [entry.span for entry in file.volatility.ranges]
    calls = 0

    def count(frame: object, event: str, _: object) -> None:
        nonlocal calls
        if event == "call" and not frame.f_code.co_filename.endswith(STORES):  # type: ignore[attr-defined]
            calls += 1

    sys.setprofile(count)
    try:
        drain = file.begin_purge(spans, file.memory.newest_age)
    finally:
        sys.setprofile(None)
    file.end_purge(drain)
    assert drain.dropped == NUMBER
    assert calls <= most * NUMBER
    file.check()
