"""Mapping, voting, forking and exiting while purges run: nothing goes that a mapping older than the
purge protects, nobody hangs, and the daemon stays well.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.files import VFile
from tests.support.fvrange import PAGE
from tests.support.mount import ROOT, Mount, MountFactory
from tests.support.voter import Stage
from tests.support.waiting import PATIENCE, eventually

SECONDS = 3.0
PAGES = 16
A_FEW = 10
"""Rounds that all make, however slow the machine is; on a quiet one it is hundreds."""


class Race:
    """Racers on one file, ended at the end of the test."""

    def __init__(self, file: VFile, clock: Path) -> None:
        self._file = file
        self._clock = clock
        self._clock.write_bytes(bytes(8))
        self._racers: list[subprocess.Popen[str]] = []
        self._purgers: list[subprocess.Popen[str]] = []

    def start(self, role: str, seed: int = 0, seconds: float = SECONDS) -> None:
        program = [sys.executable, "-m", "tests.support.racer"]
        arguments = [role, str(self._file.path), str(seconds), str(seed), str(self._clock)]
        (self._purgers if role == "purger" else self._racers).append(
            subprocess.Popen(
                [*program, *arguments],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )

    def finish(self) -> list[int]:
        """What each had to say, once all (and their children) have ended without a lie."""
        numbers = [number for racer in self._racers for number in self._end(racer)]
        assert eventually(lambda: self.purges > A_FEW)
        self._clock.with_name(f"{self._clock.name}.over").touch()
        for purger in self._purgers:
            self._end(purger)
        return numbers

    def _end(self, racer: subprocess.Popen[str]) -> list[int]:
        out, err = racer.communicate(timeout=SECONDS + PATIENCE)
        assert not err
        assert racer.returncode == 0
        return [int(word) for word in out.split()]

    @property
    def purges(self) -> int:
        return int.from_bytes(self._clock.read_bytes(), "little")

    def close(self) -> None:
        for racer in self._racers + self._purgers:
            racer.kill()
            racer.communicate(timeout=PATIENCE)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def race(stack: ExitStack, file: VFile, tmp_path: Path) -> Race:
    made = Race(file, tmp_path / "clock")
    stack.callback(made.close)
    return made


def check_well(mounted: Mount, file: VFile) -> None:
    """It answers, and holds nothing back."""
    file.unmark()
    file.fill(PAGES)
    file.mark()
    assert eventually(lambda: file.purge() == PAGES * PAGE), "somebody is thought to map it still"
    assert file.unmark() == PAGES * PAGE
    assert mounted.number("volatile") == 0


def test_mapping_private_while_purges_run(
    mount: MountFactory, stack: ExitStack, tmp_path: Path
) -> None:
    mounted = mount()
    file = mounted.file("file", PAGES)
    file.mark()
    running = race(stack, file, tmp_path)
    running.start("purger", 1)
    for seed in range(3):
        running.start("mapper", seed)
    assert len(running.finish()) == 3
    check_well(mounted, file)


def test_a_mapping_handed_from_parent_to_child_while_purges_run(
    mount: MountFactory, stack: ExitStack, tmp_path: Path
) -> None:
    """At any time one process has it, and it is never the one that had it a moment ago."""
    mounted = mount()
    file = mounted.file("file", PAGES)
    file.mark()
    running = race(stack, file, tmp_path)
    running.start("purger", 2)
    running.start("relay")
    (generations,) = running.finish()
    assert generations > A_FEW
    check_well(mounted, file)


def test_a_hold_handed_from_parent_to_child_while_purges_run(
    mount: MountFactory, stack: ExitStack, tmp_path: Path
) -> None:
    """The same with a veto over an fvrange mark: each child inherits it."""
    mounted = mount(semantics="kim")
    file = mounted.file("file", PAGES)
    file.mark()
    running = race(stack, file, tmp_path)
    running.start("purger", 3)
    running.start("relay", 1)
    (generations,) = running.finish()
    assert generations > A_FEW
    check_well(mounted, file)


def test_exiting_while_voting_and_while_purges_run(
    mount: MountFactory, stack: ExitStack, tmp_path: Path
) -> None:
    """Votes end with their processes; one that lives is never overruled."""
    mounted = mount(semantics="kim")
    file = mounted.file("file", PAGES)
    stage = Stage(tmp_path)
    stack.callback(stage.close)
    holder = stage.voter().map(file, first=0, count=4)
    holder.hold()
    silent = stage.voter().map(file, first=4, count=4)
    running = race(stack, file, tmp_path)
    running.start("purger", 4)
    for seed in range(3):
        running.start("voter", seed)
    lives = running.finish()
    assert sum(lives) > A_FEW
    assert holder.loads() == "abcd"
    assert silent.loads() == "efgh"
    assert eventually(lambda: file.ranges() == []), "votes outlive their processes"
    holder.exit()
    silent.exit()
    check_well(mounted, file)


def test_a_storm_of_forks_during_purges_of_the_budget(
    mount: MountFactory, stack: ExitStack, tmp_path: Path
) -> None:
    """The budget presses all the time; what the storm maps stays, what nobody maps goes."""
    mounted = mount(budget="64K")
    file = mounted.file("file", PAGES)
    free = mounted.file("free", 4 * PAGES)
    file.mark()
    running = race(stack, file, tmp_path)
    running.start("relay", 0)
    running.start("purger", 5)
    free.mark()
    (generations,) = running.finish()
    assert generations > A_FEW
    assert mounted.within_budget()
    free.unmark()
    check_well(mounted, file)
