"""Random processes that map, mark, vote, fork, run other programs and exit, with purges between.

The file is an address_space with its votes; who may forbid a purge is asked of ``consent``, as a
live mount does it. After every step all pages and ranges are compared with
``tests/support/vote_model.py``. Three promises are watched by name, by an account of their own.
"""

from __future__ import annotations

from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from pyroaring import BitMap

from tests.support.stores import FakeStore
from tests.support.vote_model import Process, VoteModel
from vfs_volatile.abi.ioctls import VRANGE_PARTIAL
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.consent import Mapper, forbidden, objections
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan, page_set, runs
from vfs_volatile.core.range_state import Drain
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.core.reclaim import choose, still_allowed
from vfs_volatile.core.semantics import semantics_of
from vfs_volatile.errors import SyscallError
from vfs_volatile.units import PAGE_SIZE

PAGES = 4
MOST_PROCESSES = 4
INO = 1

spans = st.tuples(st.integers(0, PAGES - 1), st.integers(1, PAGES)).map(
    lambda ends: range(ends[0], min(PAGES, ends[0] + ends[1]))
)
behaviors = st.sampled_from((0, VRANGE_PARTIAL))


class Voters(RuleBasedStateMachine):
    """Each call on the file, beside the model."""

    names = Bundle("names")
    drains = Bundle("drains")

    @initialize(target=names, private_blocks=st.booleans(), unlinked=st.booleans())
    def begin(self, private_blocks: bool, unlinked: bool) -> str:
        self.semantics = semantics_of("kim", private="block" if private_blocks else "keep")
        self.model = VoteModel(PAGES, private_blocks, unlinked)
        self.space = AddressSpace(INO, Memory(1000, 1000), FakeStore())
        self.letters = count()
        self.numbers = count(1)
        self.losses: dict[str, set[int]] = {}
        """By process: the pages it agreed to that were purged, and that it has not heard of yet."""
        self.leaving: set[str] = set()
        """Processes that ended while a purge was under way: their votes count until it ends."""
        for page in range(PAGES):
            self.write(page)
        return self._born("p0")

    # ---- processes ----

    @precondition(lambda self: len(self.losses) < MOST_PROCESSES)
    @rule(target=names, parent=names)
    def fork(self, parent: str) -> str:
        if not self._lives(parent):
            return parent
        child = f"p{next(self.numbers)}"
        self.space.votes.inherit(parent, child)
        self.model.fork(parent, child)
        self.losses[child] = set(self.losses[parent])
        return child

    @precondition(lambda self: len(self.losses) < MOST_PROCESSES)
    @rule(target=names)
    def start(self) -> str:
        return self._born(f"p{next(self.numbers)}")

    @rule(name=consumes(names))
    def exit(self, name: str) -> None:
        if self._lives(name):
            self._end(name)

    @rule(target=names, name=consumes(names))
    def exec(self, name: str) -> str:
        if not self._lives(name):
            return name
        self._end(name)
        return self._born(f"p{next(self.numbers)}")

    @rule(name=names, pages=spans, private=st.booleans())
    def map(self, name: str, pages: range, private: bool) -> None:
        if self._lives(name):
            process = self.model.processes[name]
            (process.private if private else process.shared).update(pages)

    @rule(name=names, pages=spans, private=st.booleans())
    def map_and_agree(self, name: str, pages: range, private: bool) -> None:
        """The two together: apart they seldom meet."""
        self.map(name, pages, private)
        self.agree(name, pages, 0)

    @rule(name=names)
    def unmap(self, name: str) -> None:
        if self._lives(name):
            self.model.processes[name].shared.clear()
            self.model.processes[name].private.clear()

    # ---- marks and votes ----

    @rule(name=names, pages=spans, behavior=behaviors)
    def agree(self, name: str, pages: range, behavior: int) -> None:
        if self._lives(name):
            found = self.space.votes.agree(name, *_bytes(pages), behavior)
            assert found == PAGE_SIZE * len(self.model.agree(name, pages))

    @rule(name=names, pages=spans)
    def hold(self, name: str, pages: range) -> None:
        if not self._lives(name):
            return
        self._settle()
        found = self.space.votes.hold(name, *_bytes(pages))
        expected = self.model.hold(name, pages)
        assert found == PAGE_SIZE * len(expected)
        unheard = self.losses[name] & set(pages)
        assert unheard <= expected, "who agreed is not told of a page that was purged"
        self.losses[name] -= expected

    @rule(pages=spans, behavior=behaviors)
    def mark(self, pages: range, behavior: int) -> None:
        found = self.space.mark(*_bytes(pages), behavior)
        assert found == PAGE_SIZE * len(self.model.mark(pages))

    @rule(pages=spans)
    def unmark(self, pages: range) -> None:
        self._settle()
        found = self.space.unmark(*_bytes(pages))
        assert found == PAGE_SIZE * len(self.model.unmark(pages))

    # ---- data ----

    @rule(page=st.integers(0, PAGES - 1))
    def write(self, page: int) -> None:
        letter = "abcdefghijklmnopqrstuvwxyz"[next(self.letters) % 26]
        self.space.write(page * PAGE_SIZE, letter.encode() * PAGE_SIZE)
        self.model.write(page, letter)
        for losses in self.losses.values():
            losses.discard(page)

    @precondition(lambda self: self.model.owed)
    @rule()
    def write_what_somebody_lost(self) -> None:
        self.write(min(self.model.owed))

    @rule(size=st.integers(0, PAGES))
    def truncate(self, size: int) -> None:
        self.space.truncate(size * PAGE_SIZE)
        self.space.truncate(PAGES * PAGE_SIZE)
        self.model.truncate(size)
        for losses in self.losses.values():
            losses -= set(range(size, PAGES))

    # ---- purges ----

    @rule(target=drains, pages=spans)
    def purge(self, pages: range) -> Drain:
        """A forced one: exactly the pages that nobody forbids."""
        barred = self._barred()
        expected = self.model.would_go(pages)
        span = self.space.span_of(*_bytes(pages))
        allowed = list(runs(page_set(span) - barred))
        return self._purged(expected, self.space.begin_purge(allowed, self._newest()))

    @rule(target=drains, need=st.integers(1, PAGES))
    def reclaim(self, need: int) -> object:
        """The budget's: it chooses by itself, but only what nobody forbids."""
        barred = {INO: self._barred()}
        free = self.model.would_go(range(PAGES))
        before = set(self.space.volatility.purged)
        drains = [
            self.space.begin_purge(still_allowed(victim, barred[INO]), victim.entry.age)
            for victim in choose(self.space.memory.queue, need, barred)
        ]
        taken = set(self.space.volatility.purged) - before
        assert taken <= free, "purged though somebody forbids it"
        return multiple(
            *(self._purged(taken if not at else set(), drain) for at, drain in enumerate(drains))
        )

    @rule(drain=consumes(drains))
    def end_purge(self, drain: Drain) -> None:
        self.space.end_purge(drain)
        if not self._draining():
            for name in self.leaving:
                self.model.exit(name)
            self.leaving.clear()

    # ---- what must hold ----

    @invariant()
    def a_purged_page_is_never_reported_intact(self) -> None:
        if hasattr(self, "model"):
            assert set(self.space.volatility.purged) == self.model.purged
            assert "".join(map(self._letter, range(PAGES))) == self.model.reads()

    @invariant()
    def volatile_is_what_a_mark_or_a_vote_says(self) -> None:
        if hasattr(self, "model"):
            self.space.check()
            ranges = self.space.volatility.ranges
            assert {page for entry in ranges for page in range(*entry.span)} == self.model.volatile
            marked = self.space.volatility.marked(PageSpan(0, PAGES))
            assert set(marked) == self.model.marked

    @invariant()
    def ballots_are_what_the_processes_said(self) -> None:
        if hasattr(self, "model"):
            for name, process in self.model.processes.items():
                ballot = self.space.votes.ballots.get(name)
                if ballot is not None:
                    assert set(ballot.agreed) == process.agreed
                    assert set(ballot.held) == process.held
                    assert set(ballot.lost) == process.owed
                else:
                    assert not process.agreed | process.held | process.owed

    # ---- helpers ----

    def _born(self, name: str) -> str:
        self.model.processes[name] = Process()
        self.losses[name] = set()
        return name

    def _lives(self, name: str) -> bool:
        return name in self.losses

    def _end(self, name: str) -> None:
        self.space.votes.drop(name)
        self.space.votes.sweep(AT_ONCE)
        del self.losses[name]
        process = self.model.processes[name]
        process.shared.clear()
        process.private.clear()
        if self._draining():
            self.leaving.add(name)
        else:
            self.model.exit(name)

    def _draining(self) -> bool:
        return any(drain.pages for drain in self.space.volatility.drains)

    def _settle(self) -> None:
        """NONVOLATILE waits for the purges under way."""
        for drain in list(self.space.volatility.drains):
            self.end_purge(drain)

    def _newest(self) -> int:
        return self.space.memory.newest_age

    def _barred(self) -> BitMap:
        mappers = [
            Mapper(name, BitMap(pages), private)
            for name, process in self.model.processes.items()
            for pages, private in ((process.shared, False), (process.private, True))
        ]
        span = PageSpan(0, PAGES)
        return forbidden(
            objections(
                self.semantics,
                page_set(span),
                self.space.volatility.marked(span),
                mappers,
                self.space.votes.ballots,
                unlinked=self.model.unlinked,
            )
        )

    def _purged(self, pages: set[int], drain: Drain) -> Drain:
        """``pages`` were purged: was each theirs to take?"""
        for page in pages:
            self._check_never_lost_to_a_mapper(page)
            self._check_never_held_or_private(page)
            for name in self.losses:
                if page in self.model.processes[name].agreed:
                    self.losses[name].add(page)
        self.model.purge(pages)
        return drain

    def _check_never_lost_to_a_mapper(self, page: int) -> None:
        """Never a page lost that one of its mappers had not agreed to, but for an fvrange mark."""
        for process in self.model.processes.values():
            if page in process.mapped and page not in process.agreed:
                assert page in self.model.marked

    def _check_never_held_or_private(self, page: int) -> None:
        living = [self.model.processes[name] for name in self.losses]
        assert not any(page in process.held for process in living)
        if self.semantics.private == "block" and any(page in process.private for process in living):
            assert self.model.unlinked
            assert all(
                page in process.agreed and page not in process.shared
                for process in living
                if page in process.mapped
            )

    def _letter(self, page: int) -> str:
        try:
            (value,) = set(self.space.read(page * PAGE_SIZE, PAGE_SIZE))
        except SyscallError:
            return "X"
        return chr(value) if value else "0"


def _bytes(pages: range) -> tuple[int, int]:
    """(start, length) in bytes."""
    return pages.start * PAGE_SIZE, len(pages) * PAGE_SIZE


TestVoters = Voters.TestCase
TestVoters.settings = settings(derandomize=True)
