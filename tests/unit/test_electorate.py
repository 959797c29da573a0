"""Votes follow fork, exec and exit of real processes: by events, or by looking at them."""

from __future__ import annotations

import gc
import resource
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.stores import FakeStore
from tests.support.voter import Stage, Voter
from tests.support.waiting import eventually
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.fs.electorate import Electorate
from vfs_volatile.processes.connector import (
    Event,
    Exec,
    Fork,
    ProcessEvents,
    ThreadEnd,
    subscribe,
)
from vfs_volatile.processes.identity import ProcessId, identify
from vfs_volatile.processes.kernel import Kernel
from vfs_volatile.processes.kin import look_at_living
from vfs_volatile.processes.openers import boot_ticks
from vfs_volatile.units import PAGE_SIZE


class Told(ProcessEvents):
    """A connector that tells what the test says, all at once."""

    def __init__(self) -> None:
        super().__init__(socket.socket())
        self.events: list[Event] = []

    def pending(self) -> list[Event]:
        found, self.events = self.events, []
        return found


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


@pytest.fixture
def space() -> AddressSpace:
    """Four pages with data."""
    made = AddressSpace(1, Memory(1000, 1000), FakeStore())
    made.write(0, b"a" * 4 * PAGE_SIZE)
    return made


@pytest.fixture
def told() -> Iterator[Told]:
    made = Told()
    yield made
    made.close()


def who(voter: Voter) -> ProcessId:
    found = identify(voter.pid)
    assert found is not None
    return found


def hold(electorate: Electorate, space: AddressSpace, voter: Voter, page: int = 0) -> None:
    """As fs/addressed.py does it for NONVOLATILE."""
    process = who(voter)
    electorate.catch_up()
    electorate.recognise(space, [process])
    electorate.voted(process, space, boot_ticks())
    space.votes.hold(process, page * PAGE_SIZE, PAGE_SIZE, kin=process.stack)


def agree(electorate: Electorate, space: AddressSpace, voter: Voter, page: int = 0) -> None:
    process = who(voter)
    electorate.catch_up()
    electorate.recognise(space, [process])
    electorate.voted(process, space, boot_ticks())
    space.votes.agree(process, page * PAGE_SIZE, PAGE_SIZE, 0)


def look(electorate: Electorate, space: AddressSpace, *mappers: Voter) -> None:
    """As fs/purges.py does it before a purge."""
    electorate.catch_up()
    electorate.recognise(space, [who(mapper) for mapper in mappers])


def holders(space: AddressSpace, page: int = 0) -> set[int]:
    """The pids of those who hold a page."""
    return {
        process.pid
        for process, ballot in space.votes.ballots.items()
        if isinstance(process, ProcessId) and page in ballot.held
    }


def agreers(space: AddressSpace, page: int = 0) -> set[int]:
    return {
        process.pid
        for process, ballot in space.votes.ballots.items()
        if isinstance(process, ProcessId) and page in ballot.agreed
    }


def next_tick() -> None:
    """Birth and vote are compared in clock ticks."""
    now = boot_ticks()
    assert eventually(lambda: boot_ticks() > now)


# ---- by events ----


def test_a_fork_before_the_vote_does_not_inherit_it_and_one_after_does(
    stage: Stage, space: AddressSpace, told: Told
) -> None:
    electorate, parent = Electorate(told), stage.voter()
    assert electorate.view == "connector"
    before = parent.fork()
    told.events = [Fork(parent.pid, before.pid)]
    hold(electorate, space, parent)
    after = parent.fork()
    told.events = [Fork(parent.pid, after.pid)]
    electorate.catch_up()
    assert holders(space) == {parent.pid, after.pid}


def test_exec_ends_votes(stage: Stage, space: AddressSpace, told: Told) -> None:
    electorate, voter = Electorate(told), stage.voter()
    agree(electorate, space, voter)
    voter.exec()
    told.events = [Exec(voter.pid)]
    electorate.catch_up()
    assert not space.votes.ballots
    assert not list(space.volatility.ranges)


def test_exec_ends_votes_even_if_the_stack_is_where_it_was(
    stage: Stage, space: AddressSpace, told: Told
) -> None:
    """Without address space randomisation it is."""
    electorate, voter = Electorate(told), stage.voter()
    agree(electorate, space, voter)
    told.events = [Exec(voter.pid)]
    electorate.catch_up()
    assert not space.votes.ballots


def test_a_child_that_runs_another_program_at_once_leaves_its_votes(
    stage: Stage, space: AddressSpace, told: Told
) -> None:
    electorate, parent = Electorate(told), stage.voter()
    hold(electorate, space, parent)
    child = parent.fork()
    child.exec()
    told.events = [Fork(parent.pid, child.pid), Exec(child.pid)]
    electorate.catch_up()
    assert holders(space) == {parent.pid}


def test_votes_last_as_long_as_one_thread(stage: Stage, space: AddressSpace, told: Told) -> None:
    electorate, voter = Electorate(told), stage.voter()
    hold(electorate, space, voter)
    voter.drop_first_thread()
    told.events = [ThreadEnd(voter.pid)]
    electorate.catch_up()
    assert holders(space) == {voter.pid}
    voter.exit()
    told.events = [ThreadEnd(voter.pid)]
    electorate.catch_up()
    assert not space.votes.ballots


def test_a_grandchild_inherits_though_its_parent_was_never_seen_alive(
    stage: Stage, space: AddressSpace, told: Told
) -> None:
    electorate, parent = Electorate(told), stage.voter()
    hold(electorate, space, parent)
    child = parent.fork()
    grandchild = child.fork()
    child.exit()
    told.events = [
        Fork(parent.pid, child.pid),
        Fork(child.pid, grandchild.pid),
        ThreadEnd(child.pid),
    ]
    electorate.catch_up()
    assert holders(space) == {parent.pid, grandchild.pid}
    parent.exit()
    told.events = [ThreadEnd(parent.pid)]
    electorate.catch_up()
    assert holders(space) == {grandchild.pid}


def test_a_fork_between_the_ends_of_two_threads(
    stage: Stage, space: AddressSpace, told: Told
) -> None:
    """All read at once, when the parent has long ended."""
    electorate, parent = Electorate(told), stage.voter()
    hold(electorate, space, parent)
    child = parent.fork()
    parent.exit()
    told.events = [
        ThreadEnd(parent.pid),
        Fork(parent.pid, child.pid),
        ThreadEnd(parent.pid),
    ]
    electorate.catch_up()
    assert holders(space) == {child.pid}


def test_a_pid_that_is_used_again_has_no_votes(
    stage: Stage, space: AddressSpace, told: Told
) -> None:
    electorate, voter = Electorate(told), stage.voter()
    before = who(voter)._replace(born=who(voter).born - 1)
    electorate.voted(before, space, boot_ticks())
    space.votes.hold(before, 0, PAGE_SIZE)
    agree(electorate, space, voter, 1)
    told.events = [ThreadEnd(voter.pid)]
    electorate.catch_up()
    assert agreers(space, 1) == {voter.pid}
    assert who(voter) not in {
        process for process, ballot in space.votes.ballots.items() if ballot.held
    }


def test_votes_on_all_files_are_inherited_and_end(
    stage: Stage, space: AddressSpace, told: Told
) -> None:
    other = AddressSpace(2, space.memory, FakeStore())
    other.write(0, b"b" * PAGE_SIZE)
    electorate, parent = Electorate(told), stage.voter()
    agree(electorate, space, parent)
    hold(electorate, other, parent)
    child = parent.fork()
    told.events = [Fork(parent.pid, child.pid)]
    electorate.catch_up()
    assert agreers(space) == holders(other) == {parent.pid, child.pid}
    parent.exit()
    child.exit()
    told.events = [ThreadEnd(child.pid), ThreadEnd(parent.pid)]
    electorate.catch_up()
    assert not space.votes.ballots
    assert not other.votes.ballots


def test_events_that_could_not_be_taken_in_are_not_lost(
    stage: Stage, space: AddressSpace, told: Told
) -> None:
    """There may be no descriptor left to look at a child."""
    electorate, parent, gone = Electorate(told), stage.voter(), stage.voter()
    hold(electorate, space, parent)
    agree(electorate, space, gone, 1)
    child = parent.fork()
    gone.exit()
    told.events = [ThreadEnd(gone.pid), Fork(parent.pid, child.pid)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        for _ in range(2):
            with pytest.raises(OSError, match="Too many open files"):
                electorate.catch_up()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    electorate.catch_up()
    assert holders(space) == {parent.pid, child.pid}
    assert not agreers(space, 1)


def test_after_lost_events_children_are_recognised_by_sight(
    stage: Stage, space: AddressSpace, told: Told
) -> None:
    electorate = Electorate(told)
    parent, gone = stage.voter(), stage.voter()
    hold(electorate, space, parent)
    agree(electorate, space, gone, 1)
    next_tick()
    child = parent.fork()
    gone.exit()
    told.overrun = True
    look(electorate, space, child)
    assert holders(space) == {parent.pid, child.pid}
    assert agreers(space, 1) == set()


def test_events_that_there_was_no_memory_for_count_as_lost(
    stage: Stage, space: AddressSpace, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    electorate, parent = Electorate(told), stage.voter()
    hold(electorate, space, parent)
    next_tick()
    child = parent.fork()

    def lose() -> list[Event]:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(told, "pending", lose)
        with pytest.raises(MemoryError):
            electorate.catch_up()
    look(electorate, space, child)
    assert holders(space) == {parent.pid, child.pid}


def test_after_lost_events_an_orphan_is_recognised_too(
    stage: Stage, space: AddressSpace, told: Told
) -> None:
    electorate, parent = Electorate(told), stage.voter()
    hold(electorate, space, parent)
    child = parent.fork()
    parent.exit()
    told.overrun = True
    look(electorate, space, child)
    assert holders(space) == {child.pid}


@pytest.fixture
def events() -> Iterator[ProcessEvents]:
    found = subscribe()
    if found is None:
        pytest.skip("the proc connector is for root in the first namespaces")
    yield found
    found.close()


def test_with_the_real_connector(stage: Stage, space: AddressSpace, events: ProcessEvents) -> None:
    electorate = Electorate(events)
    parent = stage.voter()
    early = parent.fork()
    agree(electorate, space, parent)
    late = parent.fork()
    grandchild = late.fork()
    electorate.catch_up()
    assert agreers(space) == {parent.pid, late.pid, grandchild.pid}

    def are(*voters: Voter) -> bool:
        electorate.catch_up()
        return agreers(space) == {voter.pid for voter in voters}

    late.exit()
    assert eventually(lambda: are(parent, grandchild))
    parent.exec()
    assert are(grandchild)
    assert early.fork().fork().pid
    assert are(grandchild)
    grandchild.exit()
    assert eventually(are)
    assert not list(space.volatility.ranges)


# ---- by sight ----


def test_a_child_younger_than_all_votes_inherits_them(stage: Stage, space: AddressSpace) -> None:
    electorate, parent = Electorate(None), stage.voter()
    assert electorate.view == "scan"
    agree(electorate, space, parent)
    hold(electorate, space, parent, 1)
    next_tick()
    child = parent.fork()
    look(electorate, space, parent, child)
    assert agreers(space) == holders(space, 1) == {parent.pid, child.pid}


def test_a_child_older_than_the_vote_does_not_agree(stage: Stage, space: AddressSpace) -> None:
    electorate, parent = Electorate(None), stage.voter()
    child = parent.fork()
    next_tick()
    agree(electorate, space, parent)
    look(electorate, space, parent, child)
    assert agreers(space) == {parent.pid}


def test_what_is_not_certain_is_no_agreement_but_a_hold(stage: Stage, space: AddressSpace) -> None:
    """The parent has voted again since the birth: the page must stay either way."""
    electorate, parent = Electorate(None), stage.voter()
    agree(electorate, space, parent)
    hold(electorate, space, parent, 1)
    child = parent.fork()
    agree(electorate, space, parent, 2)
    look(electorate, space, parent, child)
    assert agreers(space) == {parent.pid}
    assert holders(space, 1) == {parent.pid, child.pid}


def test_a_child_that_lost_its_parent_before_the_look_holds(
    stage: Stage, space: AddressSpace
) -> None:
    electorate, parent = Electorate(None), stage.voter()
    hold(electorate, space, parent)
    next_tick()
    child = parent.fork()
    parent.exit()
    look(electorate, space, child)
    assert holders(space) == {child.pid}
    child.exit()
    electorate.catch_up()
    assert not space.votes.ballots, "a hold ends with its process"


def test_a_child_that_votes_before_the_look_holds_what_it_inherited(
    stage: Stage, space: AddressSpace
) -> None:
    electorate, parent = Electorate(None), stage.voter()
    hold(electorate, space, parent)
    next_tick()
    child = parent.fork()
    agree(electorate, space, child, 1)
    look(electorate, space, child)
    assert holders(space) == {parent.pid, child.pid}
    assert agreers(space, 1) == {child.pid}


def test_another_program_is_nobodys_child(stage: Stage, space: AddressSpace) -> None:
    electorate, parent, stranger = Electorate(None), stage.voter(), stage.voter()
    hold(electorate, space, parent)
    next_tick()
    child = parent.fork()
    child.exec()
    look(electorate, space, parent, child, stranger)
    assert holders(space) == {parent.pid}


def test_exec_and_exit_are_seen_at_the_next_look(stage: Stage, space: AddressSpace) -> None:
    electorate, one, two = Electorate(None), stage.voter(), stage.voter()
    agree(electorate, space, one)
    agree(electorate, space, two, 1)
    one.exec()
    two.exit()
    electorate.catch_up()
    assert not space.votes.ballots
    assert not list(space.volatility.ranges)


def test_a_deleted_file_is_not_kept_for_its_voters(stage: Stage, space: AddressSpace) -> None:
    voter = stage.voter()
    electorate = Electorate(None)
    users = len(gc.get_referrers(space))
    agree(electorate, space, voter)
    hold(electorate, space, voter, 1)
    assert len(gc.get_referrers(space)) > users
    electorate.forget(space)
    space.close()
    assert len(gc.get_referrers(space)) == users


async def test_by_sight_what_kin_has_held_is_forgotten_when_none_of_them_lives(
    stage: Stage, space: AddressSpace
) -> None:
    """Many processes may hold a file's pages, one after the other. A child may live unseen."""
    electorate = Electorate(None, partial(look_at_living, None, Kernel().pids))
    parent = stage.voter()
    voters = [parent, *(stage.voter() for _ in range(3))]
    stacks = [who(voter).stack for voter in voters]
    for voter in voters:
        hold(electorate, space, voter)
    child = parent.fork()
    for voter in voters:
        voter.exit()
    electorate.catch_up()
    assert not space.votes.ballots
    await end_all_but(electorate, 1)
    assert [space.votes.inherit_holds(stack, "a child") for stack in stacks] == [True] + [False] * 3
    look(electorate, space, child)
    assert holders(space) == {child.pid}
    assert len(electorate.orphans) == 0
    child.exit()
    electorate.catch_up()
    await end_all_but(electorate, 0)
    assert not space.votes.inherit_holds(stacks[0], "nobody's child")


async def end_all_but(electorate: Electorate, left: int) -> None:
    """Look until there are so few orphans: one look may meet a process that changes just then."""
    for _ in range(1000):
        if len(electorate.orphans) <= left:
            break
        await electorate.orphans.end_gone()
    await electorate.orphans.end_gone()
    assert len(electorate.orphans) == left


def test_what_kin_has_held_is_forgotten_with_the_last_of_them(
    stage: Stage, space: AddressSpace, told: Told
) -> None:
    """Many processes may hold a file's pages, one after the other. Unless a child may live that
    nobody has seen: see test_after_lost_events_an_orphan_is_recognised_too.
    """
    electorate, parent = Electorate(told), stage.voter()
    hold(electorate, space, parent)
    child = parent.fork()
    told.events = [Fork(parent.pid, child.pid)]
    electorate.catch_up()
    stack = who(parent).stack
    parent.exit()
    electorate.catch_up()
    assert space.votes.inherit_holds(stack, "a child of the child")
    child.exit()
    electorate.catch_up()
    assert not space.votes.inherit_holds(stack, "nobody's child")
