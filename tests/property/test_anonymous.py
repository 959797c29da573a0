"""Random forks, stores, marks, exits and purges: the core against one record a page and process.

The core hears what processes hold when they report, so what it knows may be old; the model knows
the truth. Whatever was reported when: nothing goes that one sharer has not marked.
"""

from __future__ import annotations

from itertools import count

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from pyroaring import BitMap

from tests.property.strategies import behaviors
from tests.support.anonymous_model import Mark, ModelLineage
from vfs_volatile.core.anonymous import AnonymousSpace
from vfs_volatile.core.lineage import Lineage
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan
from vfs_volatile.core.reclaim import Victim, choose

PAGES = 4
EVERYTHING = PageSpan(0, PAGES)
MANY = 10_000
MOST = 4
"""Processes alive at a time."""

picks = st.integers(0, MOST - 1)
"""Which of the processes alive."""
numbers = st.integers(0, PAGES - 1)
spans = (
    st.tuples(st.integers(0, PAGES), st.integers(0, PAGES))
    .filter(lambda ends: ends[0] < ends[1])
    .map(PageSpan._make)
)


class Anonymous(RuleBasedStateMachine):
    """One allocation, its processes, and what becomes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(MANY, MANY)
        self.model = ModelLineage(PAGES)
        self.lineage = Lineage(self.memory, PAGES, count(1))
        self.spaces: dict[int, AnonymousSpace] = {}
        self.told = True
        """Does the core know what all processes hold?"""
        self.exact = True
        """Was every page known that ever got shared? If not, more may count as shared than is."""

    @initialize()
    def start(self) -> None:
        self.spaces[self.model.start()] = self.lineage.first()

    def _process(self, pick: int) -> int:
        names = list(self.spaces)
        return names[pick % len(names)]

    @property
    def knows_all(self) -> bool:
        return self.told and self.exact

    # ---- processes ----

    @precondition(lambda self: len(self.spaces) < MOST)
    @rule(pick=picks)
    def fork(self, pick: int) -> None:
        self._fork(self._process(pick), set())

    @precondition(lambda self: len(self.spaces) < MOST)
    @rule(pick=picks, late=st.sets(numbers, min_size=1))
    def fork_while_another_thread_stores(self, pick: int, late: set[int]) -> None:
        """It stores ``late`` between the last report and the fork."""
        self._fork(self._process(pick), late)
        self.exact = False

    def _fork(self, parent: int, late: set[int]) -> None:
        self._report(parent)
        space = self.lineage.fork(self.spaces[parent])
        for number in late:
            self.model.store(parent, number)
        self.spaces[self.model.fork(parent)] = space
        self.told = False

    @precondition(lambda self: len(self.spaces) > 1)
    @rule(pick=picks)
    def exit(self, pick: int) -> None:
        process = self._process(pick)
        self.lineage.leave(self.spaces.pop(process))
        del self.model.processes[process]
        self.told = False  # what was shared may be exclusive now

    @rule(pick=picks, stored=st.sets(numbers, min_size=1))
    def store(self, pick: int, stored: set[int]) -> None:
        for number in stored:
            self.model.store(self._process(pick), number)
        self.told = False

    @rule(pick=picks)
    def stop_or_go_on(self, pick: int) -> None:
        process = self._process(pick)
        model = self.model.processes[process]
        model.answers = self.spaces[process].answers = not model.answers

    # ---- marks ----

    @rule(pick=picks, span=spans, behavior=behaviors)
    def mark(self, pick: int, span: PageSpan, behavior: int) -> None:
        process = self._process(pick)
        self.spaces[process].mark(span, behavior)
        self.model.mark(process, *span, Mark(self.memory.newest_age, behavior))

    @rule(span=spans, behavior=behaviors)
    def all_mark(self, span: PageSpan, behavior: int) -> None:
        for process in self.spaces:
            self.spaces[process].mark(span, behavior)
            self.model.mark(process, *span, Mark(self.memory.newest_age, behavior))

    @rule(pick=picks, span=spans)
    def unmark(self, pick: int, span: PageSpan) -> None:
        process = self._process(pick)
        self.spaces[process].unmark(span)
        if self.model.unmark(process, *span):
            self.told = False

    # ---- what the core hears ----

    @rule(pick=picks)
    def report(self, pick: int) -> None:
        self._report(self._process(pick))

    @rule()
    def report_all(self) -> None:
        self._report_all()

    def _report(self, process: int) -> None:
        pages = self.model.processes[process].pages
        self.spaces[process].report(
            EVERYTHING,
            BitMap(self.model.held(process)),
            BitMap(self.model.alone(process)),
            BitMap(number for number, page in enumerate(pages) if page.purged),
        )
        self.spaces[process].told_all()

    def _report_all(self) -> None:
        for process in self.spaces:
            self._report(process)
        self.told = True

    # ---- purges ----

    @rule(need=st.integers(1, 2 * PAGES))
    def purge_a_little(self, need: int) -> None:
        """In order: nothing that could go alone is passed over for something later."""
        self._report_all()
        before = self.model.may_go()
        turns = {spot: self.model.turn(*spot) for spot in before}
        gone = self._purge(need)
        if gone and self.exact:
            last = max(turns[spot] for spot in gone)
            for spot in before - gone:
                assert turns[spot] >= last or self._is_in_a_full_range_of(spot, last)

    @rule()
    def purge_all_there_is(self) -> None:
        self._report_all()
        expected = self.model.may_go()
        gone = self._purge(MANY)
        assert gone == expected if self.exact else gone <= expected
        assert not self._purge(MANY)

    @rule(need=st.integers(1, MANY))
    def purge_with_old_reports(self, need: int) -> None:
        self._purge(need)

    @rule(pick=picks, span=spans)
    def single_pages_may_go(self, pick: int, span: PageSpan) -> None:
        """As a process asks once more just before it drops pages."""
        process = self._process(pick)
        allowed = set(self.spaces[process].allowed(BitMap(range(*span))))
        truth = {n for n in range(*span) if self.model.consent(process, n)}
        held = self.model.held(process)
        assert allowed & held <= truth or not self.model.processes[process].answers
        if self.knows_all and self.model.processes[process].answers:
            assert truth <= allowed

    def _purge(self, need: int) -> set[tuple[int, int]]:
        """Drop what the core chooses; the pages that held something."""
        names = {space.ino: name for name, space in self.spaces.items()}
        victims = choose(self.memory.queue, need, {})
        chosen = {
            (names[victim.entry.space.ino], number)
            for victim in victims
            for span in victim.spans
            for number in range(*span)
        }
        held = {(name, number) for name, number in chosen if number in self.model.held(name)}
        for name, number in held:
            assert self.model.consent(name, number), "dropped without the consent of all"
            copy = self.model.processes[name].pages[number].copy
            assert copy is not None
            for other in self.model.sharers(copy):
                assert (other, number) in held, "a sharer keeps it: nothing is freed"
            if self.knows_all:
                assert self.model.full_range(name, number) <= held, "a FULL range goes in part"
        self._count(victims, held)
        for name, number in held:
            self.model.drop(name, number)
        for name in {name for name, _ in held}:
            self._report(name)
        return held

    def _count(self, victims: list[Victim], held: set[tuple[int, int]]) -> None:
        if self.knows_all:
            chosen = sum(victim.resident for victim in victims)
            copies = {self.model.processes[name].pages[number].copy for name, number in held}
            assert chosen <= len(copies), "promised more than it frees"

    def _is_in_a_full_range_of(self, spot: tuple[int, int], last: tuple[int, int]) -> bool:
        """Does something that goes later keep this page, as it goes with it or not at all?"""
        seen, todo = {spot}, [spot]
        while todo:
            for near in self.model._support(*todo.pop()) - seen:
                if self.model.turn(*near) >= last:
                    return True
                seen.add(near)
                todo.append(near)
        return False

    # ---- always ----

    @invariant()
    def is_consistent(self) -> None:
        self.lineage.check()
        assert self.memory.resident == self.lineage.charged
        for name, space in self.spaces.items():
            marks = self.model.processes[name].pages
            volatile = {n for n, page in enumerate(marks) if page.mark}
            assert volatile == {n for entry in space.volatility.ranges for n in range(*entry.span)}
            ages = [page.mark.age for page in marks if page.mark]
            assert ages == [
                entry.age for entry in space.volatility.ranges for _ in range(*entry.span)
            ]

    @invariant()
    def memory_is_counted_once(self) -> None:
        if self.knows_all:
            assert self.memory.resident == self.model.copies()


TestAnonymous = Anonymous.TestCase
