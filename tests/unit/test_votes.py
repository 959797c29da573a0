"""Votes of processes on the pages of one file, rule by rule. A process is a letter here."""

from __future__ import annotations

import pytest

from tests.support.stores import FakeStore
from vfs_volatile.abi.ioctls import VRANGE_PARTIAL, VRANGE_ZERO
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan
from vfs_volatile.core.range_state import Drain
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.core.votes import Votes
from vfs_volatile.errors import SyscallError
from vfs_volatile.units import PAGE_SIZE

PAGES = 8


def at(first: int, count: int = 1) -> tuple[int, int]:
    """(start, length) in bytes of pages."""
    return first * PAGE_SIZE, count * PAGE_SIZE


@pytest.fixture
def space() -> AddressSpace:
    """A file of eight pages, each filled with its letter."""
    made = AddressSpace(1, Memory(1000, 1000), FakeStore())
    for page in range(PAGES):
        fill(made, page, "abcdefgh"[page])
    return made


@pytest.fixture
def votes(space: AddressSpace) -> Votes:
    return space.votes


def test_a_file_without_votes_keeps_none(space: AddressSpace) -> None:
    """It is a quarter of a KiB for each file."""
    space.mark(0, 0, 0)
    purge(space, 0, 2)
    fill(space, 0, "z")
    space.unmark(0, 0)
    space.truncate(PAGE_SIZE)
    assert not space.ballots
    assert space._votes is None


def fill(space: AddressSpace, page: int, letter: str) -> None:
    space.write(page * PAGE_SIZE, letter.encode() * PAGE_SIZE)


def begin(space: AddressSpace, first: int = 0, count: int = PAGES) -> Drain:
    return space.begin_purge([PageSpan(first, first + count)], space.memory.newest_age)


def purge(space: AddressSpace, first: int = 0, count: int = PAGES) -> None:
    """What a purge does that nobody forbids."""
    space.end_purge(begin(space, first, count))
    space.check()


def volatile(space: AddressSpace) -> str:
    """The volatile pages as digits."""
    return "".join(str(page) for entry in space.volatility.ranges for page in range(*entry.span))


def reads(space: AddressSpace) -> str:
    """One letter a page: 0 for zeros, X where reading fails, ? for a mix."""
    return "".join(_letter(space, page) for page in range(space.size // PAGE_SIZE))


def _letter(space: AddressSpace, page: int) -> str:
    try:
        values = set(space.read(*at(page)))
    except SyscallError:
        return "X"
    if len(values) > 1:
        return "?"
    return chr(values.pop()) if values != {0} else "0"


def behaviors(space: AddressSpace) -> list[tuple[int, int]]:
    """(first page, behavior) of each range."""
    return [(entry.first, entry.behavior) for entry in space.volatility.ranges]


# ---- agreeing ----


def test_agreeing_makes_pages_volatile(space: AddressSpace, votes: Votes) -> None:
    assert votes.agree("A", *at(2, 3), 0) == 0
    assert volatile(space) == "234"
    assert list(votes.ballots["A"].agreed) == [2, 3, 4]
    assert not space.volatility.marked(PageSpan(0, PAGES)), "no fvrange mark"


def test_agreeing_takes_only_pages_wholly_inside(space: AddressSpace, votes: Votes) -> None:
    votes.agree("A", 100, 3 * PAGE_SIZE, 0)
    assert volatile(space) == "12"


def test_agreeing_tells_what_is_purged_already(space: AddressSpace, votes: Votes) -> None:
    votes.agree("A", *at(0, 2), 0)
    purge(space)
    assert votes.agree("B", *at(1, 2), 0) == PAGE_SIZE


def test_the_second_voter_changes_neither_age_nor_behavior(
    space: AddressSpace, votes: Votes
) -> None:
    votes.agree("A", *at(0, 2), VRANGE_ZERO)
    votes.agree("B", *at(0, 4), VRANGE_PARTIAL)
    assert behaviors(space) == [(0, VRANGE_ZERO), (2, VRANGE_PARTIAL)]


def test_agreeing_ends_ones_own_hold(votes: Votes) -> None:
    votes.hold("A", *at(0, 4))
    votes.agree("A", *at(1, 2), 0)
    assert list(votes.ballots["A"].held) == [0, 3]


# ---- holding ----


def test_holding_takes_every_page_it_meets(space: AddressSpace, votes: Votes) -> None:
    votes.agree("A", *at(0, 8), 0)
    assert votes.hold("A", 2 * PAGE_SIZE + 100, PAGE_SIZE) == 0
    assert volatile(space) == "014567"
    assert list(votes.ballots["A"].held) == [2, 3]


def test_holding_reports_purged_bytes_and_gives_zeros(space: AddressSpace, votes: Votes) -> None:
    votes.agree("A", *at(0, 4), 0)
    purge(space, 1, 2)
    assert reads(space) == "aXXdefgh"
    assert votes.hold("A", 2 * PAGE_SIZE - 10, 20) == 20
    assert reads(space) == "a00defgh"
    assert votes.hold("A", *at(0, 4)) == 0, "told once"


def test_all_who_agreed_hear_of_a_purge_whoever_asks_first(
    space: AddressSpace, votes: Votes
) -> None:
    for process in "ABC":
        votes.agree(process, *at(0, 4), 0)
    purge(space, 0, 2)
    assert votes.hold("B", *at(0)) == PAGE_SIZE
    assert reads(space).startswith("0X"), "zeros for all, the other page waits"
    assert votes.hold("A", *at(0, 4)) == 2 * PAGE_SIZE
    assert votes.hold("C", *at(0, 4)) == 2 * PAGE_SIZE
    assert votes.hold("B", *at(0, 4)) == PAGE_SIZE, "page 1 alone: of page 0 it knows"
    assert volatile(space) == ""


def test_who_had_not_agreed_hears_what_is_purged_now_but_nothing_of_the_past(
    space: AddressSpace, votes: Votes
) -> None:
    votes.agree("A", *at(0, 2), 0)
    purge(space)
    assert votes.hold("B", *at(0)) == PAGE_SIZE
    assert votes.hold("C", *at(0)) == 0
    assert votes.hold("A", *at(0, 2)) == 2 * PAGE_SIZE


def test_what_others_agreed_to_stays_volatile(space: AddressSpace, votes: Votes) -> None:
    votes.agree("A", *at(0, 3), 0)
    votes.agree("B", *at(1, 3), 0)
    votes.hold("A", *at(0, 8))
    assert volatile(space) == "123"
    votes.hold("B", *at(2))
    assert volatile(space) == "13"


def test_agreeing_again_does_not_forget_what_is_still_to_be_told(
    space: AddressSpace, votes: Votes
) -> None:
    votes.agree("A", *at(0), 0)
    votes.agree("B", *at(0), 0)
    purge(space)
    votes.hold("B", *at(0))
    votes.agree("A", *at(0), 0)
    assert votes.hold("A", *at(0)) == PAGE_SIZE


# ---- beside fvrange marks ----


def test_an_fvrange_mark_over_votes_outlives_them(space: AddressSpace, votes: Votes) -> None:
    votes.agree("A", *at(0, 4), VRANGE_ZERO)
    space.mark(*at(2, 4), 0)
    assert behaviors(space) == [(0, VRANGE_ZERO), (2, VRANGE_ZERO), (4, 0)]
    votes.drop("A")
    votes.sweep(AT_ONCE)
    assert volatile(space) == "2345"
    space.check()


def test_votes_over_an_fvrange_mark_leave_it_as_it_is(space: AddressSpace, votes: Votes) -> None:
    space.mark(*at(0, 4), VRANGE_ZERO)
    votes.agree("A", *at(2, 4), 0)
    assert behaviors(space) == [(0, VRANGE_ZERO), (4, 0)]
    assert list(space.volatility.marked(PageSpan(0, PAGES))) == [0, 1, 2, 3]


def test_holding_does_not_end_an_fvrange_mark(space: AddressSpace, votes: Votes) -> None:
    space.mark(*at(0, 4), 0)
    assert votes.hold("A", *at(0, 2)) == 0
    assert volatile(space) == "0123"
    assert list(votes.ballots["A"].held) == [0, 1]


def test_the_answer_to_an_fvrange_mark_stays_owed_to_it(space: AddressSpace, votes: Votes) -> None:
    space.mark(*at(0, 2), 0)
    votes.agree("A", *at(0, 4), 0)
    purge(space)
    assert votes.hold("A", *at(0, 4)) == 4 * PAGE_SIZE
    assert reads(space) == "XX00efgh"
    assert space.unmark(*at(0, 4)) == 2 * PAGE_SIZE
    assert reads(space) == "0000efgh"


def test_fvrange_nonvolatile_ends_votes_too_and_tells_the_voters(
    space: AddressSpace, votes: Votes
) -> None:
    """Whoever says it is told what is intact, so nobody's vote may cost it that."""
    space.mark(*at(0, 3), 0)
    votes.agree("A", *at(1, 4), 0)
    purge(space, 2, 2)
    assert space.unmark(*at(0, 4)) == 2 * PAGE_SIZE
    assert volatile(space) == "4"
    assert reads(space) == "ab00efgh"
    assert list(votes.ballots["A"].agreed) == [4]
    assert votes.hold("A", *at(0, 8)) == 2 * PAGE_SIZE
    assert volatile(space) == ""


def test_fvrange_nonvolatile_leaves_holds(space: AddressSpace, votes: Votes) -> None:
    votes.hold("A", *at(0, 2))
    space.unmark(*at(0, 8))
    assert list(votes.ballots["A"].held) == [0, 1]


# ---- fork, exit ----


def test_fork_copies_all_that_the_parent_has_said(space: AddressSpace, votes: Votes) -> None:
    votes.agree("A", *at(0, 4), 0)
    votes.hold("A", *at(6))
    votes.inherit("A", "C")
    votes.drop("A")
    votes.sweep(AT_ONCE)
    assert volatile(space) == "0123", "the child has agreed too"
    assert list(votes.ballots["C"].held) == [6]


def test_after_a_fork_each_speaks_for_itself(space: AddressSpace, votes: Votes) -> None:
    votes.agree("A", *at(0, 2), 0)
    votes.inherit("A", "C")
    votes.hold("C", *at(0))
    votes.agree("A", *at(4), 0)
    assert list(votes.ballots["A"].agreed) == [0, 1, 4]
    assert list(votes.ballots["C"].agreed) == [1]
    assert list(votes.ballots["A"].held) == []


def test_a_child_hears_of_what_its_parent_has_not_been_told(
    space: AddressSpace, votes: Votes
) -> None:
    votes.agree("A", *at(0), 0)
    votes.agree("B", *at(0), 0)
    purge(space)
    votes.hold("B", *at(0))
    votes.inherit("A", "C")
    assert votes.hold("A", *at(0)) == PAGE_SIZE
    assert votes.hold("C", *at(0)) == PAGE_SIZE
    assert votes.hold("C", *at(0)) == 0


def test_a_process_that_said_nothing_has_nothing_to_leave(votes: Votes) -> None:
    votes.inherit("A", "C")
    votes.drop("A")
    votes.sweep(AT_ONCE)
    assert not votes.ballots


def test_what_nobody_agrees_to_any_more_is_plain_again(space: AddressSpace, votes: Votes) -> None:
    votes.agree("A", *at(0, 4), 0)
    votes.agree("B", *at(2, 4), 0)
    votes.drop("A")
    votes.sweep(AT_ONCE)
    assert volatile(space) == "2345"
    votes.drop("B")
    votes.sweep(AT_ONCE)
    assert volatile(space) == ""
    assert reads(space) == "abcdefgh"
    assert not votes.ballots


def test_purged_pages_that_nobody_agrees_to_any_more_are_zeros(
    space: AddressSpace, votes: Votes
) -> None:
    votes.agree("A", *at(0, 2), 0)
    purge(space)
    votes.drop("A")
    votes.sweep(AT_ONCE)
    space.check()
    assert reads(space) == "00cdefgh"


def test_what_was_written_since_a_purge_outlives_the_votes(
    space: AddressSpace, votes: Votes
) -> None:
    """Nobody is told when a voter exits, so what others may have cached must stay true."""
    votes.agree("A", *at(0, 2), VRANGE_ZERO)
    purge(space)
    space.write(0, b"z" * 100)
    votes.drop("A")
    votes.sweep(AT_ONCE)
    space.check()
    assert space.read(0, 101) == b"z" * 100 + b"\0"
    assert volatile(space) == ""


def test_a_hold_ends_with_its_process(votes: Votes) -> None:
    votes.hold("A", *at(0, 4))
    votes.drop("A")
    votes.sweep(AT_ONCE)
    assert not votes.ballots


def test_votes_of_a_process_that_ends_during_a_purge_end_with_the_purge(
    space: AddressSpace, votes: Votes
) -> None:
    votes.agree("A", *at(0, 4), 0)
    votes.agree("B", *at(2), 0)
    first, second = begin(space, 0, 1), begin(space, 2, 1)
    votes.drop("A")
    votes.sweep(AT_ONCE)
    assert volatile(space) == "0123"
    space.check()
    space.end_purge(first)
    assert volatile(space) == "0123", "another purge is under way"
    space.end_purge(second)
    space.check()
    assert volatile(space) == "2"
    assert reads(space) == "0bXdefgh"
    assert votes.hold("B", *at(2)) == PAGE_SIZE


def test_a_write_back_during_such_a_purge_is_discarded(space: AddressSpace, votes: Votes) -> None:
    votes.agree("A", *at(0), 0)
    drain = begin(space)
    votes.drop("A")
    votes.sweep(AT_ONCE)
    space.write_back(0, b"s" * PAGE_SIZE)
    space.end_purge(drain)
    assert reads(space)[0] == "0"


# ---- changes of the file ----


def test_truncation_ends_votes_and_what_was_to_be_told(space: AddressSpace, votes: Votes) -> None:
    votes.agree("A", *at(0, 8), 0)
    votes.agree("B", *at(0, 8), 0)
    purge(space)
    votes.hold("B", *at(0, 8))
    space.truncate(2 * PAGE_SIZE)
    space.truncate(8 * PAGE_SIZE)
    assert volatile(space) == "01"
    assert votes.hold("A", *at(0, 8)) == 2 * PAGE_SIZE
    assert list(votes.ballots["B"].held) == [0, 1]


def test_a_page_that_was_rewritten_whole_is_no_loss_any_more(
    space: AddressSpace, votes: Votes
) -> None:
    votes.agree("A", *at(0, 2), 0)
    votes.agree("B", *at(0, 2), 0)
    purge(space)
    votes.hold("B", *at(0, 2))
    fill(space, 0, "n")
    space.write(PAGE_SIZE, b"part")
    assert votes.hold("A", *at(0, 2)) == PAGE_SIZE
    assert reads(space)[:2] == "n?"


def test_a_purged_page_that_was_rewritten_is_intact_and_still_volatile(
    space: AddressSpace, votes: Votes
) -> None:
    votes.agree("A", *at(0), 0)
    purge(space)
    fill(space, 0, "n")
    assert volatile(space) == "0"
    assert votes.hold("A", *at(0)) == 0
    assert reads(space)[0] == "n"


def test_votes_beyond_the_end_of_file_are_clipped(space: AddressSpace, votes: Votes) -> None:
    assert votes.agree("A", *at(6, 100), 0) == 0
    assert votes.agree("A", *at(20, 3), 0) == 0
    assert volatile(space) == "67"
    assert votes.hold("A", *at(20, 3)) == 0
    assert list(votes.ballots["A"].held) == []
