"""Of purged pages it is asked whether processes have stored in them; of those between it is not."""

from __future__ import annotations

import pytest

from tests.support.space import File, P
from tests.support.stores import FakeDirectStore
from vfs_volatile.core.pages import PageSpan

NUMBER = 400


class Asked(FakeDirectStore):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def held_in(self, span: PageSpan) -> int:
        self.asked += 1
        return super().held_in(span)


@pytest.fixture
def store() -> Asked:
    return Asked()


@pytest.fixture
def file(store: Asked) -> File:
    """Every second page is a range, and purged; the others hold data."""
    made = File(size=4 * NUMBER, zero_by_default=True)
    made.go_direct(store)
    made.write(0, b"x" * 2 * NUMBER * P)
    for page in range(0, 2 * NUMBER, 2):
        made.mark(page * P, P, 0)
    made.purge()
    store.asked = 0
    return made


@pytest.mark.parametrize("stored", [[], [0, 6, 2 * NUMBER - 2]])
def test_what_lies_between_is_not_looked_for(file: File, store: Asked, stored: list[int]) -> None:
    for page in stored:
        store.write(page * P, b"y" * P)
    file.clean_for_unmark([(0, 0)])
    assert store.asked < 2 * NUMBER
    assert sorted(store.pages) == list(range(1, 2 * NUMBER, 2))
    file.check()


def test_where_little_is_held_all_is_looked_at_together(file: File, store: Asked) -> None:
    store.drop(PageSpan(1, 2 * NUMBER))
    store.write(6 * P, b"y" * P)
    file.clean_for_unmark([(0, 0)])
    assert store.asked < 60
    assert not store.pages
