"""Random processes with anonymous memory on a real mount, against the property test's model.

Forks, stores, marks, purges, exits and other programs are drawn by hypothesis; after each step
every page of every process shows what the model says.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.anonymous import Family, Process, compile_client
from tests.support.anonymous_model import Mark, ModelLineage
from tests.support.mount import LONG_DEADLINE, Mount, MountFactory
from tests.support.waiting import eventually
from vfs_volatile.abi.ioctls import VRANGE_FULL, VRANGE_PARTIAL, VRANGE_ZERO

PAGES = 6
MOST = 4
EXAMPLES = 25
STEPS = 30

picks = st.integers(0, MOST - 1)
pages = st.integers(0, PAGES - 1)
spans = (
    st.tuples(st.integers(0, PAGES), st.integers(0, PAGES))
    .filter(lambda ends: ends[0] < ends[1])
    .map(tuple)
)
behaviors = st.sampled_from(
    [VRANGE_PARTIAL, VRANGE_PARTIAL, VRANGE_FULL, VRANGE_PARTIAL | VRANGE_ZERO, VRANGE_ZERO]
)


class Real(RuleBasedStateMachine):
    """Processes, each beside its model."""

    mount: Mount
    family: Family

    def __init__(self) -> None:
        super().__init__()
        self.model = ModelLineage(PAGES)
        self.processes: dict[int, Process] = {}
        self.letters: dict[int, list[str]] = {}
        """What each page of each process shows where it holds something."""
        self.marks = 0

    def teardown(self) -> None:
        self.family.end()
        self._are_as_many_as(0)

    @initialize()
    def start(self) -> None:
        name = self.model.start()
        self.processes[name] = self.family.first().start(self.mount.path, PAGES)
        self.letters[name] = ["0"] * PAGES
        for page in range(PAGES):
            self._store(name, page, "a")

    def _pick(self, pick: int) -> int:
        return list(self.processes)[pick % len(self.processes)]

    # ---- what happens ----

    @precondition(lambda self: len(self.processes) < MOST)
    @rule(pick=picks)
    def fork(self, pick: int) -> None:
        parent = self._pick(pick)
        child = self.model.fork(parent)
        self.processes[child] = self.family.fork(self.processes[parent])
        self.letters[child] = list(self.letters[parent])

    @precondition(lambda self: len(self.processes) > 1)
    @rule(pick=picks, how=st.sampled_from(["kill", "exec"]))
    def end(self, pick: int, how: str) -> None:
        name = self._pick(pick)
        process = self.processes.pop(name)
        del self.model.processes[name], self.letters[name]
        if how == "exec":
            process.send("exec /bin/cat")
        else:
            process.signal(signal.SIGKILL)
        self._are_as_many_as(len(self.processes))

    def _are_as_many_as(self, count: int) -> None:
        assert eventually(lambda: self.mount.stats()["anonymous_processes"] == count)

    @rule(pick=picks, page=pages, letter=st.sampled_from("bcdefgh"))
    def store(self, pick: int, page: int, letter: str) -> None:
        self._store(self._pick(pick), page, letter)

    def _store(self, name: int, page: int, letter: str) -> None:
        expected = "X" if self._shows(name)[page] == "X" else "w"
        assert self.processes[name].fill(page, 1, letter) == expected
        if expected == "w":
            self.model.store(name, page)
            self.letters[name][page] = letter

    @rule(pick=picks, span=spans, behavior=behaviors)
    def mark(self, pick: int, span: tuple[int, int], behavior: int) -> None:
        self._mark(self._pick(pick), span, behavior)

    @rule(span=spans, behavior=behaviors)
    def all_mark(self, span: tuple[int, int], behavior: int) -> None:
        for name in self.processes:
            self._mark(name, span, behavior)

    def _mark(self, name: int, span: tuple[int, int], behavior: int) -> None:
        first, end = span
        self.marks += 1
        self.model.mark(name, first, end, Mark(self.marks, behavior))
        purged = sum(page.purged for page in self.model.processes[name].pages[first:end])
        assert self.processes[name].mark(first, end - first, behavior) == purged

    @rule(pick=picks, span=spans)
    def unmark(self, pick: int, span: tuple[int, int]) -> None:
        name, (first, end) = self._pick(pick), span
        assert self.processes[name].unmark(first, end - first) == self.model.unmark(name, *span)

    @rule()
    def purge(self) -> None:
        self.mount.rearm()
        gone = self.model.may_go()
        self.mount.set_root("purge", "all")
        for name, page in gone:
            self.model.drop(name, page)

    # ---- what is seen ----

    def _shows(self, name: int) -> str:
        text = ""
        for page, letter in zip(self.model.processes[name].pages, self.letters[name], strict=True):
            denied = page.purged and page.mark and not page.mark.behavior & VRANGE_ZERO
            text += "X" if denied else "0" if page.copy is None else letter
        return text

    @invariant()
    def shows_what_the_model_says(self) -> None:
        for name, process in self.processes.items():
            assert process.show() == self._shows(name)

    @invariant()
    def is_counted_as_the_model_says(self) -> None:
        volatile = sum(
            page.mark is not None
            for process in self.model.processes.values()
            for page in process.pages
        )
        assert self.mount.number("volatile") == volatile * 4096


@pytest.fixture
def machine(tmp_path: Path, mount: MountFactory) -> Iterator[type[RuleBasedStateMachine]]:
    mounted = mount(deadline=LONG_DEADLINE)
    made = Family(compile_client(tmp_path), tmp_path)

    class Machine(Real):
        mount = mounted
        family = made

    yield Machine
    made.end()


def test_random_processes_are_as_the_model_says(
    machine: type[RuleBasedStateMachine],
) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
