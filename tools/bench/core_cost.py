"""What the core costs by itself, in process: a call, a range, a file."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from tools.bench.figures import Figures, short
from tools.bench.population import Built, Scenario, serve

_ROUNDS = 40
_CALLS = 200
"""In a batch: few beside the thousand ranges of the smallest population."""
_BUILD_SECONDS = 300
_ANSWER_SECONDS = 60

_SLICE = "a slice in vain"
_ROUND = "a round in vain"
_COLLECTION = "full garbage collection"


class _Child:
    """A population in a process of its own."""

    def __init__(self, scenario: Scenario) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share the parent's memory
        self.scenario = scenario
        self._connection: Connection
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, scenario), daemon=True)
        self._process.start()
        theirs.close()

    def built(self) -> Built:
        found: Built = self._answer(_BUILD_SECONDS)
        return found

    def ask(self, *order: object) -> Any:
        self._connection.send(order)
        return self._answer(_ANSWER_SECONDS)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _answer(self, seconds: float) -> Any:
        if not self._connection.poll(seconds):
            raise TimeoutError(f"no answer from '{self.scenario.name}' within {seconds} s")
        return self._connection.recv()


def measure(quick: bool, say: Callable[[str], None]) -> list[Figures]:
    """All figures of the core."""
    sizes = [1_000, 10_000, 100_000] if quick else [1_000, 100_000, 1_000_000]
    files = 10_000 if quick else 100_000
    most = sizes[-1]
    in_ranges = [
        *(Scenario(f"{short(size)} in 1 file", size) for size in sizes),
        Scenario(f"{short(files)} in {short(files)} files", files, files),
        Scenario(f"{short(most)} in {short(files)} files", most, files),
    ]
    half_purged = [Scenario(short(size), size, purged=True) for size in sizes]
    in_runs = [Scenario(short(size), size, one_range=True) for size in sizes]
    return [
        *_measure_ranges(in_ranges, say),
        _measure_calls("Core: one file, every other range purged, us per call", half_purged, say),
        _measure_calls("Core: one range with so many purged runs, us per call", in_runs, say),
    ]


def _measure_ranges(scenarios: Sequence[Scenario], say: Callable[[str], None]) -> list[Figures]:
    names = [scenario.name for scenario in scenarios]
    children = [_Child(scenario) for scenario in scenarios]
    try:
        memory = _memory(children, say)
        calls = Figures(
            "Core: one call with so many ranges of one page, us",
            names,
            ratio="growth",
            notes=[
                f"Median and quartiles of {_ROUNDS} batches of {_CALLS} calls at random places.",
                "CPU time of the thread; the populations take turns, one batch each.",
                "The garbage collector runs as in the daemon, with Python's defaults.",
            ],
        )
        _take_turns(children, calls, say)
        pauses = Figures(
            "Core: what the collector and a private mapper of everything cost, ms",
            names,
            notes=[
                f"'{_ROUND}': a look for victims where all is mapped private. It is done in",
                "slices; nothing else is served during a slice, or a collection.",
            ],
        )
        for child in children:
            name = child.scenario.name
            pauses.add(_ROUND, "ms", name, child.ask("blocked_round") / 1000)
            for _ in range(3):
                pauses.add(_SLICE, "ms", name, child.ask("blocked_slice") / 1000)
                pauses.add(_COLLECTION, "ms", name, child.ask("full_collection") / 1000)
    finally:
        for child in children:
            child.end()
    return [calls, memory, pauses]


def _measure_calls(
    title: str, scenarios: Sequence[Scenario], say: Callable[[str], None]
) -> Figures:
    figures = Figures(title, [scenario.name for scenario in scenarios], ratio="growth")
    children = [_Child(scenario) for scenario in scenarios]
    try:
        for child in children:
            say(f"core: {child.scenario.name} purged, built in {child.built().seconds:.1f} s")
        _take_turns(children, figures, say)
    finally:
        for child in children:
            child.end()
    return figures


def _memory(children: Sequence[_Child], say: Callable[[str], None]) -> Figures:
    figures = Figures(
        "Core: memory, bytes (growth of a process's resident memory)",
        [child.scenario.name for child in children],
        notes=[
            "A file: its address_space with resident pages, no inode or name, before its marks."
        ],
    )
    for child in children:
        built = child.built()
        name = child.scenario.name
        say(f"core: {name}, built in {built.seconds:.1f} s")
        figures.add("a range", "B", name, built.bytes_per_range)
        if child.scenario.files > 1:
            figures.add("a file", "B", name, built.bytes_per_file)
    return figures


def _take_turns(children: Sequence[_Child], figures: Figures, say: Callable[[str], None]) -> None:
    """Batches in turn, so that a noisy moment of the machine hits all populations alike."""
    say("core: measuring")
    for _ in range(_ROUNDS):
        for child in children:
            for operation, cost in child.ask("batch", _CALLS).items():
                figures.add(operation, "us", child.scenario.name, cost, limited=True)
