"""Which data path a file takes, and why."""

from __future__ import annotations

import pytest

from tests.support.stores import FakeDirectStore, FakeStore
from vfs_volatile.abi.ioctls import VRANGE_SIGBUS, VRANGE_ZERO
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan
from vfs_volatile.core.paths import choose_path
from vfs_volatile.errors import SyscallError
from vfs_volatile.units import PAGE_SIZE


def file(*, zero: bool, pages: int = 2) -> AddressSpace:
    space = AddressSpace(1, Memory(40, 40, zero_by_default=zero), FakeStore())
    space.truncate(pages * PAGE_SIZE)
    return space


def path(space: AddressSpace, why_not: str = "", opens: int = 0) -> str:
    found = choose_path(space, why_not=why_not, opens=opens)
    return f"{found.name}: {found.why}"


def test_behavior_decides() -> None:
    assert path(file(zero=True)).startswith("passthrough")
    assert path(file(zero=False)).startswith("cached: touching a purged page is an error")


@pytest.mark.parametrize("zero", [True, False])
def test_marks_decide_before_the_mount_does(zero: bool) -> None:
    space = file(zero=zero)
    space.mark(0, PAGE_SIZE, VRANGE_ZERO)
    assert path(space).startswith("passthrough")
    space.mark(PAGE_SIZE, PAGE_SIZE, VRANGE_SIGBUS)
    assert path(space) == "cached: touching a purged page is an error, as a mark says"


def test_what_keeps_a_file_from_it() -> None:
    space = file(zero=True)
    assert path(space, why_not="no kernel") == "cached: no kernel"
    assert path(space, opens=1).startswith("cached: it was open")
    space.write(0, b"x")
    assert path(space).startswith("cached: it held data")


def test_it_is_kept_and_marks_that_ask_for_errors_are_refused() -> None:
    space = file(zero=False)
    space.mark(0, 0, VRANGE_ZERO)
    space.go_direct(FakeDirectStore())
    space.unmark(0, 0)
    assert path(space, opens=3).startswith("passthrough")
    for behavior in (0, VRANGE_SIGBUS):
        with pytest.raises(SyscallError):
            space.require_honoured(behavior)
    space.require_honoured(VRANGE_ZERO)


def test_what_a_mapping_needs_is_not_taken_away() -> None:
    """Where a missing page is an error, one that was only read may not go with the caches."""
    space, store = file(zero=True, pages=3), FakeDirectStore()
    space.go_direct(store)
    store.allocate(PageSpan(0, 2))
    store.clean |= {0, 1}
    space.keeps_pages = True
    space.allocate(0, 3 * PAGE_SIZE, keep_size=True)
    store.drop_clean()
    assert sorted(store.pages) == [0, 1, 2]
    assert space.memory.resident == 3
