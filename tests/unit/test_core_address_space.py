"""Marking, unmarking and asking: rules 2 and 3, lost pages, NEXT.

Rule numbers are those of "Semantics of ranges".
"""

from __future__ import annotations

import errno

import pytest

from tests.support.space import ZEROS, File, P, fails
from vfs_volatile.abi.ioctls import VRANGE_PARTIAL, VRANGE_ZERO
from vfs_volatile.core.pages import PageSpan


@pytest.fixture
def file() -> File:
    """Four pages of data."""
    return File(4)


# ---- bytes and pages (section 2) ----


@pytest.mark.parametrize(
    ("start", "length", "spans"),
    [
        (0, 4 * P, [(0, 4 * P)]),
        (0, 0, [(0, 4 * P)]),
        (P, 0, [(P, 3 * P)]),
        (1, 2 * P, [(P, P)]),
        (1, 2 * P - 2, []),
        (P - 1, P + 1, [(P, P)]),
        (P, P - 1, []),
        (3 * P, 1 << 62, [(3 * P, P)]),
        (4 * P, P, []),
        (4 * P, 0, []),
        (1 << 62, 0, []),
    ],
)
def test_a_mark_takes_the_pages_wholly_inside(
    file: File, start: int, length: int, spans: list[tuple[int, int]]
) -> None:
    assert file.mark(start, length, 0) == 0
    assert list(file.volatile_spans()) == spans
    file.check()


def test_the_last_page_in_part_counts_as_whole_when_the_range_reaches_the_end() -> None:
    file = File(1)
    file.write(P, b"tail")
    file.mark(0, P + 3, 0)
    assert list(file.volatile_spans()) == [(0, P)]
    file.mark(P, 4, 0)
    assert list(file.volatile_spans()) == [(0, P), (P, 4)]
    assert file.span_of(P, 4) == (1, 2)
    assert not file.span_of(P, 3)


@pytest.mark.parametrize(
    ("start", "length", "left"),
    [
        (P, 1, [(0, P), (2 * P, 2 * P)]),
        (2 * P - 1, 2, [(0, P), (3 * P, P)]),
        (0, 0, []),
        (3 * P + 1, 0, [(0, 3 * P)]),
        (4 * P, 0, [(0, 4 * P)]),
    ],
)
def test_an_unmark_takes_every_page_it_meets(
    file: File, start: int, length: int, left: list[tuple[int, int]]
) -> None:
    file.mark(0, 0, 0)
    assert file.unmark(start, length) == 0
    assert list(file.volatile_spans()) == left
    assert file.intact(0, 1, 2, 3)


# ---- rule 2: marks ----


def test_rule_2_a_mark_changes_nothing_for_volatile_pages(file: File) -> None:
    file.mark(P, P, VRANGE_ZERO)
    file.purge(P, P)
    assert file.mark(0, 0, VRANGE_PARTIAL) == P
    assert [(entry.span, entry.behavior, entry.age) for entry in file.volatility.ranges] == [
        ((0, 1), VRANGE_PARTIAL, 2),
        ((1, 2), VRANGE_ZERO, 1),
        ((2, 4), VRANGE_PARTIAL, 2),
    ]
    assert list(file.purged_spans()) == [(P, P)]
    assert file.memory.volatile == 4


def test_rule_2_a_mark_that_finds_nothing_new_has_no_age(file: File) -> None:
    file.mark(0, 0, 0)
    file.mark(0, 0, VRANGE_ZERO)
    assert file.memory.newest_age == 1


def test_rule_2_neighbours_are_never_merged(file: File) -> None:
    for page in range(4):
        file.mark(page * P, P, 0)
    assert len(list(file.volatile_spans())) == 4


# ---- rule 3: unmark ----


@pytest.mark.parametrize(
    ("start", "length", "found"),
    [
        (0, 0, 2 * P),
        (P, 2 * P, 2 * P),
        (P + 1, 1, 1),
        (0, P + 7, 7),
        (3 * P - 7, P, 7),
        (P + 1, 2 * P - 2, 2 * P - 2),
        (0, P, 0),
        (9 * P, P, 0),
    ],
)
def test_rule_3_unmark_reports_the_purged_bytes_of_exactly_the_range(
    file: File, start: int, length: int, found: int
) -> None:
    file.mark(0, 0, 0)
    file.purge(P, 2 * P)
    assert file.purged_bytes(start, length) == found
    assert file.mark(start, length, 0) == found
    assert file.unmark(start, length) == found
    assert file.unmark(start, length) == 0


def test_rule_3_the_purged_tail_counts_up_to_the_end_of_file() -> None:
    file = File(1)
    file.write(P, b"tail")
    file.mark(0, 0, 0)
    file.purge()
    assert list(file.purged_spans()) == [(0, P + 4)]
    assert file.unmark(P, 0) == 4
    assert file.unmark(0, 0) == P


def test_rule_3_unmarked_purged_pages_are_zero_and_clean(file: File) -> None:
    file.mark(0, 0, 0)
    file.purge(P, P)
    file.unmark(0, 0)
    assert file.read(P, P) == ZEROS
    assert file.intact(0, 2, 3)
    assert list(file.purged_spans()) == []
    assert file.memory.purged == 0


def test_rule_3_what_was_written_to_a_purged_page_goes_too() -> None:
    file = File(2, zero_by_default=True)
    file.mark(0, 0, 0)
    file.purge()
    file.write(10, b"since")
    assert set(file.zeroed_by_unmark(0, 0)) == {0, 1}
    assert set(file.zeroed_by_unmark(P, P)) == {1}
    assert file.unmark(0, 0) == 2 * P
    assert file.read(0, 2 * P) == 2 * ZEROS
    assert file.memory.resident == 0


def test_rule_3_a_purge_racing_with_an_unmark_did_not_happen(file: File) -> None:
    """It was decided before the unmark, and comes after it."""
    file.mark(0, 0, 0)
    newest = file.memory.newest_age
    assert file.unmark(0, 0) == 0
    file.mark(0, 0, 0)
    drain = file.begin_purge([PageSpan(0, 4)], newest)
    assert not drain.pages
    file.end_purge(drain)
    assert file.intact(0, 1, 2, 3)


def test_rule_3_an_unmark_must_wait_for_the_purge(file: File) -> None:
    file.mark(0, 2 * P, 0)
    drain = file.begin(0, P)
    assert file.draining(PageSpan(0, 1))
    assert not file.draining(PageSpan(1, 4))
    with pytest.raises(AssertionError):
        file.unmark(0, 0)
    assert file.unmark(P, P) == 0
    file.end_purge(drain)
    assert file.unmark(0, 0) == P


# ---- lost (section 5) ----


def test_lost_is_what_an_unmark_by_xattr_found_purged(file: File) -> None:
    file.mark(0, 0, 0)
    file.purge(P, 2 * P)
    file.unmark(2 * P, 0)
    file.unmark(0, 0, record_lost=True)
    assert list(file.lost_spans()) == [(P, P)]


def test_lost_is_forgotten_when_rewritten_punched_or_truncated_whole() -> None:
    file = File(5)
    file.mark(0, 0, 0)
    file.purge()
    file.unmark(0, 0, record_lost=True)
    file.write(0, b"x" * (P + 1))
    file.write_back(P, b"y" * P)
    file.punch_hole(2 * P, P + 1)
    file.truncate(4 * P)
    assert list(file.lost_spans()) == [(P, P), (3 * P, P)]


def test_lost_outlives_another_mark_and_purge(file: File) -> None:
    file.mark(0, P, 0)
    file.purge()
    file.unmark(0, 0, record_lost=True)
    file.mark(0, 0, 0)
    file.purge()
    file.unmark(0, 0)
    assert list(file.lost_spans()) == [(0, P)]


# ---- NEXT ----


def test_next_lists_runs_of_one_range_and_one_state() -> None:
    file = File(6)
    file.write(6 * P, b"tail")
    file.mark(P, 3 * P, VRANGE_ZERO)
    file.mark(4 * P, 0, VRANGE_PARTIAL)
    file.purge(2 * P, 3 * P)
    assert file.every_run() == [
        (P, P, VRANGE_ZERO, 1),
        (2 * P, 2 * P, VRANGE_ZERO, 3),
        (4 * P, P, VRANGE_PARTIAL, 3),
        (5 * P, P + 4, VRANGE_PARTIAL, 1),
    ]


def test_next_gives_the_whole_run_from_within(file: File) -> None:
    file.mark(0, 0, 0)
    file.purge(0, P)
    assert file.next_run(3 * P + 7) == (P, 3 * P, 0, 1)
    assert file.next_run(P - 1) == (0, P, 0, 3)


@pytest.mark.parametrize("start", [P + 4, P + 5, 2 * P, 1 << 63])
def test_next_is_over_at_the_end_of_a_file_in_part_of_a_page(start: int) -> None:
    file = File(1)
    file.write(P, b"tail")
    file.mark(0, 0, 0)
    assert file.next_run(P + 3) == (0, P + 4, 0, 1)
    fails(errno.ENXIO, file.next_run, start)
