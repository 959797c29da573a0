"""A scenario as it was read, and what was seen of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from vfs_volatile.core.semantics import Preset
from vfs_volatile.scenarios.grammar import Command, Result

ALL_PRESETS: tuple[Preset, ...] = get_args(Preset)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that one actor does."""

    number: int
    """From 1."""
    actor: str
    """A capital letter, or ``system``."""
    text: str
    """As it stands in the file."""
    command: Command
    gives: Result
    expect: Mapping[Preset, str] | None
    """The result under each preset; None: it has to succeed."""
    outcome: bool
    """Is this the step whose result stands for the scenario?"""

    @property
    def differs(self) -> bool:
        """Do the presets disagree here?"""
        return self.expect is not None and len(set(self.expect.values())) > 1


@dataclass(frozen=True, slots=True)
class Scenario:
    """A file of ``docs/scenarios.md``."""

    name: str
    path: str
    title: str
    topic: str
    source: str
    quote: str
    """Perhaps empty: what is known from code has no words."""
    story: str
    files: Mapping[str, str]
    """Name -> a letter for each page: d data, 0 a hole."""
    mount: Mapping[str, str]
    """Options of the mount besides ``--semantics``."""
    steps: tuple[Step, ...]

    @property
    def shown(self) -> Step:
        """The step whose result stands for the whole.

        The marked one, or the last on which the presets disagree, or the last with an ``expect``.
        """
        told = [step for step in self.steps if step.expect is not None]
        marked = [step for step in told if step.outcome]
        return (marked or [step for step in told if step.differs] or told)[-1]


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of one step."""

    number: int
    result: str
    held: bool
    """Was it what was expected?"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a scenario under one preset."""

    scenario: str
    preset: Preset
    seen: tuple[Seen, ...]
    problem: str
    """Why it could not be played to its end; empty if it was."""
    seconds: float

    @property
    def held(self) -> bool:
        """Did all go as expected?"""
        return not self.problem and all(seen.held for seen in self.seen)

    def result_of(self, step: Step) -> str | None:
        """The result of that step; None if it was not reached."""
        return next((seen.result for seen in self.seen if seen.number == step.number), None)
