"""Purging, and what the kernel writes back meanwhile: rules 8, 10 and 11.

Rule numbers are those of "Semantics of ranges".
"""

from __future__ import annotations

import pytest

from tests.support.space import ZEROS, File, P
from vfs_volatile.abi.ioctls import VRANGE_ZERO
from vfs_volatile.core.pages import PageSpan


@pytest.fixture
def file() -> File:
    """Four pages of data."""
    return File(4)


# ---- rule 8: purging ----


def test_rule_8_a_forced_purge_is_page_exact(file: File) -> None:
    file.mark(0, 0, 0)
    file.purge(P + 1, 2 * P)
    assert list(file.purged_spans()) == [(2 * P, P)]
    assert file.intact(0, 1, 3)
    assert (file.memory.resident, file.memory.purged, file.memory.purged_ever) == (3, 1, 1)


def test_rule_8_what_is_not_volatile_is_never_dropped(file: File) -> None:
    file.mark(P, P, 0)
    file.purge()
    assert file.intact(0, 2, 3)
    assert list(file.purged_spans()) == [(P, P)]


def test_rule_8_a_mark_made_after_the_decision_belongs_to_the_next_purge(file: File) -> None:
    file.mark(0, P, 0)
    newest = file.memory.newest_age
    file.mark(P, P, 0)
    file.end_purge(file.begin_purge([PageSpan(0, 4)], newest))
    assert list(file.purged_spans()) == [(0, P)]
    assert file.intact(1, 2, 3)


# ---- rules 10 and 11: the kernel's copy ----


@pytest.mark.parametrize("behavior", [0, VRANGE_ZERO])
def test_rule_11_what_is_written_back_during_a_purge_is_discarded(behavior: int) -> None:
    file = File(2)
    file.mark(0, P, behavior)
    drain = file.begin()
    file.write_back(0, b"old" * P)
    assert file.memory.resident == 1
    file.end_purge(drain)
    assert file.unmark(0, 0) == P
    assert file.read(0, 2 * P) == ZEROS + (b"old" * P)[P : 2 * P]


def test_rule_11_a_hole_is_neither_purged_nor_reported() -> None:
    file = File()
    file.truncate(2 * P)
    file.mark(0, 0, 0)
    file.purge()
    assert list(file.purged_spans()) == []
    assert file.read(0, 2 * P) == 2 * ZEROS
    assert file.unmark(0, 0) == 0


def test_rule_11_a_page_dirty_in_the_kernel_alone_is_no_hole() -> None:
    file = File()
    file.truncate(2 * P)
    file.mark(0, 0, 0)
    drain = file.begin()
    file.write_back(P, b"x" * P)
    file.end_purge(drain)
    assert list(file.purged_spans()) == [(P, P)]
    assert (file.memory.resident, file.memory.purged, file.memory.purged_ever) == (0, 1, 1)


def test_a_page_rewritten_during_a_purge_is_not_stale_any_more(file: File) -> None:
    file.mark(0, 0, 0)
    first, second = file.begin(), file.begin(0, P)
    file.write(0, b"n" * P)
    file.write_back(0, b"m" * P)
    assert file.read(0, P) == b"m" * P
    file.end_purge(first)
    file.end_purge(second)
    assert file.unmark(0, P) == 0


def test_purges_overlap_and_each_ends_for_itself(file: File) -> None:
    file.mark(0, 0, 0)
    first, second = file.begin(0, 2 * P), file.begin(P, 2 * P)
    file.end_purge(first)
    assert not file.draining(PageSpan(0, 1))
    assert file.draining(PageSpan(1, 3))
    file.end_purge(first)
    file.end_purge(second)
    assert not file.draining(PageSpan(0, 4))


def test_a_file_cut_and_grown_during_a_purge_starts_anew(file: File) -> None:
    file.mark(0, 0, VRANGE_ZERO)
    drain = file.begin()
    file.truncate(0)
    file.truncate(P)
    file.write_back(0, b"n" * P)
    file.end_purge(drain)
    assert file.read(0, P) == b"n" * P
    assert list(file.purged_spans()) == []
