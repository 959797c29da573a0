"""How many ranges there may be: a call that would make more fails, and has changed nothing."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.space import File, P, fails
from vfs_volatile.abi import anonymous as wire
from vfs_volatile.core.pages import PageSpan
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.attachment import Attachment
from vfs_volatile.fs.attachments import Attachments
from vfs_volatile.fs.journal import Journal

PAGES = 40
MOST = 12


def limited(most: int) -> File:
    file = File(PAGES)
    file.memory.most_ranges = most
    return file


def every_other(file: File, number: int) -> None:
    for page in range(number):
        file.mark(2 * page * P, P, 0)


def test_a_mark_too_many_is_refused_until_a_range_has_ended() -> None:
    file = limited(MOST)
    every_other(file, MOST)
    fails(errno.ENOMEM, file.mark, 30 * P, P, 0)
    fails(errno.ENOMEM, file.mark_many, [30 * P], [P], 0)
    assert file.mark(0, P, 0) == 0, "it makes none"
    file.unmark(0, P)
    file.mark(30 * P, P, 0)
    assert file.memory.ranges == MOST


def test_of_many_marks_none_is_made_if_one_is_too_many() -> None:
    file = limited(MOST)
    before = list(file.volatile_spans())
    fails(errno.ENOMEM, file.mark_many, [2 * n * P for n in range(MOST + 1)], [P] * (MOST + 1), 0)
    assert list(file.volatile_spans()) == before


def test_to_end_a_range_in_its_middle_makes_two() -> None:
    file = limited(MOST)
    every_other(file, MOST - 1)
    file.mark(30 * P, 10 * P, 0)
    fails(errno.ENOMEM, file.unmark_many, [34 * P], [P])
    fails(errno.ENOMEM, file.unmark_many, [0, 34 * P], [P, P])
    assert file.memory.ranges == MOST
    file.unmark_many([30 * P], [P])
    file.unmark_many([39 * P], [P])
    file.unmark_many([0], [0])
    assert file.memory.ranges == 0


def test_what_is_gone_counts_no_more() -> None:
    file = limited(MOST)
    every_other(file, MOST)
    file.unmark_many([0, 4 * P], [P, P])
    assert file.memory.ranges == MOST - 2
    file.truncate(9 * P)
    assert file.memory.ranges == 3
    file.close()
    assert file.memory.ranges == 0


spans = st.lists(st.tuples(st.integers(0, PAGES), st.integers(0, 9)), min_size=1, max_size=4)


@given(st.lists(st.tuples(st.booleans(), spans), max_size=40))
def test_there_are_never_more_and_a_failed_call_changes_nothing(
    calls: list[tuple[bool, list[tuple[int, int]]]],
) -> None:
    file = limited(MOST)
    for is_mark, pages in calls:
        starts, lengths = [first * P for first, _ in pages], [count * P for _, count in pages]
        before = list(file.volatile_spans())
        try:
            if is_mark:
                file.mark_many(starts, lengths, 0)
            else:
                file.unmark_many(starts, lengths)
        except SyscallError as error:
            assert error.errno == errno.ENOMEM
            assert list(file.volatile_spans()) == before
        assert file.memory.ranges == len(file.volatility.ranges) <= MOST
    file.check()


# ---- of processes ----


@pytest.fixture
def attachments() -> Attachments:
    """There may be 64 ranges in all, and four regions."""
    return Attachments(limited(64).memory, Journal({}))


def attach(attachments: Attachments, token: int = 0) -> Attachment:
    return attachments.attach(None, wire.Attach(token, wire.VERSION))


def allocate(attachments: Attachments, attachment: Attachment) -> int:
    answer = attachments.allocate(attachment, wire.Region(0, 100, 0))
    return wire.Region.unpack(answer).region


def test_all_processes_together_have_no_more_regions(attachments: Attachments) -> None:
    one, other = attach(attachments), attach(attachments)
    regions = [allocate(attachments, one) for _ in range(3)]
    allocate(attachments, other)
    fails(errno.ENOSPC, allocate, attachments, other)
    fails(errno.ENOSPC, attachments.fork, other)
    assert other.unborn is None
    attachments.free(one, regions[0])
    allocate(attachments, other)


def test_a_child_has_its_parents_marks_or_is_not_known(attachments: Attachments) -> None:
    parent = attach(attachments)
    (space,) = map(parent.space, [allocate(attachments, parent)])
    for page in range(40):
        space.mark(PageSpan(2 * page, 2 * page + 1), 0)
    fails(errno.ENOMEM, attachments.fork, parent)
    assert parent.unborn is None
    space.unmark(PageSpan(0, 20))
    assert attachments.fork(parent)
    assert space.memory.ranges == 60
    attachments.remove(parent)
    assert space.memory.ranges == 0


def test_a_process_has_no_more_ranges_than_a_fork_copies_at_once(
    attachments: Attachments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfs_volatile.fs.attachments._MOST_RANGES", 4)
    busy, other = attach(attachments), attach(attachments)
    spaces = [busy.space(allocate(attachments, busy)) for _ in range(2)]
    for page in range(4):
        attachments.require_ranges(busy, 1)
        spaces[page % 2].mark(PageSpan(2 * page, 2 * page + 1), 0)
    fails(errno.ENOMEM, attachments.require_ranges, busy, 1)
    attachments.require_ranges(other, 1)
    spaces[0].unmark(PageSpan(0, 100))
    attachments.require_ranges(busy, 2)
