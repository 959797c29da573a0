"""Playing a scenario: on a fresh mount, step by step, within a limit of time."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from vfs_volatile.core.semantics import Preset
from vfs_volatile.errors import UserError
from vfs_volatile.mountinfo import find_mount
from vfs_volatile.scenarios.cast import Cast, OutOfTimeError, PlayError
from vfs_volatile.scenarios.grammar import SYSTEM
from vfs_volatile.scenarios.model import Outcome, Scenario, Seen, Step
from vfs_volatile.trial.leash import end_with_parent
from vfs_volatile.trial.mounting import TemporaryMount
from vfs_volatile.trial.work import make_work_directory

LIMIT_SECONDS = 60.0
"""For one play, the start of its mount included."""
AT_ONCE = 2
"""Plays at the same time."""


def play(scenario: Scenario, preset: Preset) -> Outcome:
    """Play a scenario under one preset, on a mount of its own that is gone afterwards."""
    began = time.monotonic()
    seen: list[Seen] = []
    problem = ""
    work = make_work_directory("scenario")
    directory = work / "mnt"
    directory.mkdir()
    try:
        _play_in(work, directory, scenario, preset, seen)
    except (PlayError, UserError) as error:
        problem = str(error)
    finally:
        if find_mount(str(directory)) is None:  # never reach into a mount
            shutil.rmtree(work)
    seconds = time.monotonic() - began
    return Outcome(scenario.name, preset, tuple(seen), problem, round(seconds, 3))


def begin(executor: Executor, scenario: Scenario, preset: Preset) -> Future[Outcome]:
    """Have one of the :func:`players` play."""
    return executor.submit(_play_as_player, scenario, preset)


def play_all(
    executor: Executor, plays: Sequence[tuple[Scenario, Preset]]
) -> Iterator[tuple[Scenario, Outcome]]:
    """What becomes of the plays, as each ends."""
    futures: dict[Future[Outcome], Scenario] = {
        begin(executor, scenario, preset): scenario for scenario, preset in plays
    }
    for future in as_completed(futures):
        try:
            yield futures[future], future.result()
        except BrokenProcessPool:
            raise UserError("a process that plays was killed; run the scenarios again") from None


@contextmanager
def players() -> Iterator[Executor]:
    """Processes that play. Leaving waits for those that play, and they unmount; no more begin."""
    executor = ProcessPoolExecutor(
        AT_ONCE, multiprocessing.get_context("spawn"), initializer=_be_a_player
    )
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _play_as_player(scenario: Scenario, preset: Preset) -> Outcome:
    try:
        return play(scenario, preset)
    except SystemExit:  # everything is unmounted; the executor would only go on with the next
        os._exit(1)


def _be_a_player() -> None:
    """A player ends with us, but not before it has taken its mount down."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: we are asked to end the play first
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    end_with_parent(signal.SIGTERM)


def _play_in(
    work: Path, directory: Path, scenario: Scenario, preset: Preset, seen: list[Seen]
) -> None:
    """Play to the end, with what was seen in ``seen``. Raises PlayError, UserError."""
    mount = TemporaryMount(directory, work / "daemon.log", _options(scenario, preset))
    ends = time.monotonic() + LIMIT_SECONDS
    with mount, Cast(work, directory, _first_actors(scenario), ends) as cast:
        try:
            mount.wait_until_ready()
            cast.assemble()
            for name, letters in scenario.files.items():
                cast.create(name, letters)
            for step in scenario.steps:
                result = cast.do(step.actor, step.command)
                seen.append(Seen(step.number, result, _held(step, preset, result)))
        except PlayError as error:
            if isinstance(error, OutOfTimeError):
                mount.abort()  # or a process that hangs in it could not end
            words = cast.last_words() or mount.last_words()
            at = f"step {len(seen) + 1}: " if len(seen) < len(scenario.steps) else ""
            raise PlayError(f"{at}{error}" + (f" ({words})" if words else "")) from None


def _options(scenario: Scenario, preset: Preset) -> list[str]:
    """The options of ``vfs-volatile mount`` for a play."""
    words = ["--semantics", preset]
    for name, value in scenario.mount.items():
        words += [f"--{name}", value]
    return words


def _first_actors(scenario: Scenario) -> list[str]:
    """Those who are there from the start: all that nobody forks."""
    forks = [step.command for step in scenario.steps if step.command.verb == "fork"]
    born = {command.arguments["ACTOR"] for command in forks}
    names = {step.actor for step in scenario.steps} - {SYSTEM}
    return sorted(names - born)


def _held(step: Step, preset: Preset, result: str) -> bool:
    """Is that what the step expects? One that expects nothing has to succeed."""
    if step.expect is not None:
        return result == step.expect[preset]
    return result not in errno.errorcode.values() and "X" not in result
