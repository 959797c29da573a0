"""Random processes on a real mount, against the model that the property test uses.

Each process maps one span once, as real ones mostly do; all the rest is drawn: marks, votes, forks,
other programs, exits, writes, purges. After each step the file is what the model says.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.files import VFile, letter
from tests.support.fvrange import PAGE, pages
from tests.support.mount import LONG_DEADLINE, MountFactory
from tests.support.vote_model import Process, VoteModel
from tests.support.voter import How, Stage, Voter
from tests.support.waiting import eventually

PAGES = 6
MOST_PROCESSES = 4
STEPS = 120
HOWS: tuple[How, ...] = ("shared", "private")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


class Play:
    """The processes and the file, each beside the model."""

    def __init__(self, file: VFile, stage: Stage, model: VoteModel, seed: int) -> None:
        self.file = file
        self.stage = stage
        self.model = model
        self.dice = random.Random(seed)
        self.voters: dict[str, Voter] = {}
        self.born = 0
        self.told: list[str] = []
        """The story so far, for whoever has to understand a failure."""
        for page in range(PAGES):
            model.write(page, letter(page))

    def step(self) -> None:
        """One thing happens."""
        alone: list[Callable[[], None]] = [self.mark, self.unmark, self.write, *[self.purge] * 4]
        of_one = [*[self.agree] * 4, self.hold, self.fork, self.exec, self.exit]
        if len(self.voters) < MOST_PROCESSES:
            alone += [self.start] * 2
        number = self.dice.randrange(len(alone) + len(of_one) * bool(self.voters))
        if number < len(alone):
            alone[number]()
        else:
            of_one[number - len(alone)](self.dice.choice(list(self.voters)))
        self.check()

    def start(self) -> None:
        name, span, how = self._name(), self._span(), self.dice.choice(HOWS)
        self._tell(name, "maps", how, span)
        self.voters[name] = self.stage.voter()
        self._map(name, how, span)

    def fork(self, parent: str) -> None:
        if len(self.voters) < MOST_PROCESSES:
            child = self._name()
            self._tell(parent, "forks", child)
            self.voters[child] = self.voters[parent].fork()
            self.model.fork(parent, child)

    def exec(self, name: str) -> None:
        span = self._span()
        self._tell(name, "runs another program, and maps", span)
        self.voters[name].exec()
        self.model.exec(name)
        self._map(name, "shared", span)

    def exit(self, name: str) -> None:
        self._tell(name, "exits")
        self.voters.pop(name).exit()
        self.model.exit(name)

    def agree(self, name: str) -> None:
        span = self._part(name)
        self._tell(name, "agrees to", span)
        found = self.voters[name].agree(span.start, len(span))
        assert found == PAGE * len(self.model.agree(name, span)), self.story

    def hold(self, name: str) -> None:
        span = self._part(name)
        self._tell(name, "holds", span)
        found = self.voters[name].hold(span.start, len(span))
        assert found == PAGE * len(self.model.hold(name, span)), self.story

    def mark(self) -> None:
        span = self._span()
        self._tell("fvrange VOLATILE", span)
        found = self.file.mark(*pages(span.start, len(span)))
        assert found == PAGE * len(self.model.mark(span)), self.story

    def unmark(self) -> None:
        span = self._span()
        self._tell("fvrange NONVOLATILE", span)
        found = self.file.unmark(*pages(span.start, len(span)))
        assert found == PAGE * len(self.model.unmark(span)), self.story

    def write(self) -> None:
        page = self.dice.randrange(PAGES)
        text = self.dice.choice("NOPQRSTUVW")
        self._tell("write", page, text)
        assert os.pwrite(self.file.fd, text.encode() * PAGE, page * PAGE) == PAGE
        self.model.write(page, text)

    def purge(self) -> None:
        span = self._span()
        self._tell("purge", span)
        self.file.purge(*pages(span.start, len(span)))
        self.model.purge(self.model.would_go(span))

    def check(self) -> None:
        """What the file says, by its state, by read(2) and through each mapping."""
        volatile = {
            page
            for run in self.file.ranges()
            for page in range(run.start // PAGE, (run.start + run.length) // PAGE)
        }
        assert volatile == self.model.volatile, self.story
        assert set(self.file.purged_pages()) == self.model.purged, self.story
        reads = self.model.reads()
        assert self.file.reads() == reads, self.story
        for name, voter in self.voters.items():
            mapped = sorted(self.model.processes[name].mapped)
            assert voter.loads() == "".join(reads[page] for page in mapped), self.story

    @property
    def story(self) -> str:
        return "\n".join(self.told)

    def _tell(self, *words: object) -> None:
        self.told.append(" ".join(map(str, words)))

    def _name(self) -> str:
        self.born += 1
        return f"p{self.born}"

    def _span(self) -> range:
        first = self.dice.randrange(PAGES)
        return range(first, self.dice.randint(first + 1, PAGES))

    def _part(self, name: str) -> range:
        """Some of what a process maps."""
        mapped = sorted(self.model.processes[name].mapped)
        first = self.dice.choice(mapped)
        return range(first, self.dice.randint(first + 1, mapped[-1] + 1))

    def _map(self, name: str, how: How, span: range) -> None:
        self.voters[name].map(self.file, how, span.start, len(span))
        process = Process()
        (process.shared if how == "shared" else process.private).update(span)
        self.model.processes[name] = process


@pytest.mark.parametrize("private", ["block", "keep"])
@pytest.mark.parametrize("unlinked", [False, True])
def test_random_processes(mount: MountFactory, stage: Stage, private: str, unlinked: bool) -> None:
    mounted = mount(deadline=LONG_DEADLINE, semantics="kim", private=private)
    file = mounted.file("file", PAGES)
    play = Play(file, stage, VoteModel(PAGES, private == "block", unlinked), seed=2 + unlinked)
    if unlinked:
        # Mapped by number, as nobody can open it by name any more.
        play.file = VFile(Path(f"/proc/{os.getpid()}/fd/{file.fd}"), file.fd)
        file.path.unlink()
    for _ in range(STEPS):
        play.step()
    for voter in play.voters.values():
        voter.exit()
    file.unmark()
    assert eventually(lambda: file.ranges() == [])
