"""The matrix scenario x preset: as a table for a terminal, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from vfs_volatile.core.semantics import Preset
from vfs_volatile.scenarios.model import Outcome, Scenario, Step

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_WORDS = {
    "d": "data",
    "0": "zeros",
    "X": "SIGBUS",
    "E": "ENODATA",
    "w": "stored",
    "v": "volatile",
    "p": "purged",
    "-": "not volatile",
    "0 purged": "intact",
}
LEGEND = (
    "Letters stand for pages. d: data, a b c: what A, B, C stored, 0: zeros, X: SIGBUS, E: ENODATA;"
    " -: not volatile, v: volatile, p: purged."
)
_LOOKS = ("state", "read", "load", "store")


def in_words(step: Step, result: str) -> str:
    """A result for people: a word if all pages are alike, else a letter for each."""
    if result == "0 purged" and step.command.arguments["volatile|nonvolatile"] == "volatile":
        return "marked"
    if step.gives in _LOOKS and len(set(result)) == 1:
        return _WORDS.get(result[0], f"all '{result[0]}'")
    return _WORDS.get(result, result)


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario: what came of it under each preset that was played."""

    scenario: Scenario
    outcomes: Mapping[Preset, Outcome]

    @property
    def held(self) -> bool:
        return all(outcome.held for outcome in self.outcomes.values())

    @property
    def differs(self) -> bool:
        """Did the presets come to different ends?"""
        return len({self.cell(preset) for preset in self.outcomes}) > 1

    def cell(self, preset: Preset) -> str:
        """What came of it under ``preset``, in a word."""
        outcome = self.outcomes[preset]
        result = outcome.result_of(self.scenario.shown)
        if result is None:
            return "not reached"
        return in_words(self.scenario.shown, result)

    def failures(self) -> list[str]:
        """A line for each expectation that did not hold, and for each play that broke off."""
        lines = []
        for preset, outcome in self.outcomes.items():
            if outcome.problem:
                lines.append(f"{self.scenario.name}, {preset}: {outcome.problem}")
            for seen in outcome.seen:
                if not seen.held:
                    step = self.scenario.steps[seen.number - 1]
                    expected = step.expect[preset] if step.expect else "success"
                    lines.append(
                        f"{self.scenario.name}, {preset}, step {seen.number}:"
                        f" {step.actor} {step.text}: expected {expected}, saw {seen.result}"
                    )
        return lines


def rows(plays: Iterable[tuple[Scenario, Outcome]], presets: Sequence[Preset]) -> list[Row]:
    """The rows of the matrix, in the order in which the scenarios come."""
    scenarios: dict[str, Scenario] = {}
    found: dict[str, dict[Preset, Outcome]] = {}
    for scenario, outcome in plays:
        scenarios[scenario.path] = scenario
        found.setdefault(scenario.path, {})[outcome.preset] = outcome
    return [
        Row(scenario, {preset: found[path][preset] for preset in presets if preset in found[path]})
        for path, scenario in scenarios.items()
    ]


def as_table(matrix: Sequence[Row], presets: Sequence[Preset]) -> Table:
    """The matrix for a terminal: where presets differ the row is bold, a failure is red."""
    from rich import box  # here: rich is slow to load
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("scenario", overflow="fold")
    table.add_column("")
    for preset in presets:
        table.add_column(preset, overflow="fold")
    for topic, group in groupby(matrix, key=lambda row: row.scenario.topic):
        table.add_row(f"[dim]{topic}[/dim]")
        for row in group:
            style = "bold" if row.differs else ""
            name = f"  {row.scenario.name}"
            cells = [_styled(row, preset) for preset in presets]
            table.add_row(name, "≠" if row.differs else "", *cells, style=style)
    return table


def as_markdown(matrix: Sequence[Row], presets: Sequence[Preset]) -> str:
    """The matrix as a table of Markdown: outcomes that differ are bold, failures are marked."""
    lines = [
        f"| scenario | what it asks | {' | '.join(presets)} |",
        f"|{'---|' * (len(presets) + 2)}",
    ]
    for row in matrix:
        cells = []
        for preset in presets:
            text = f"**{row.cell(preset)}**" if row.differs else row.cell(preset)
            cells.append(text if row.outcomes[preset].held else f"{text} (FAILED)")
        lines.append(f"| {row.scenario.name} | {row.scenario.title} | {' | '.join(cells)} |")
    failures = [f"- {line}" for row in matrix for line in row.failures()]
    return "\n".join([*lines, *(["", *failures] if failures else [])])


def as_json(matrix: Sequence[Row]) -> dict[str, Any]:
    """The matrix for programs: every step's result under every preset."""
    return {
        "held": all(row.held for row in matrix),
        "scenarios": [_row_as_json(row) for row in matrix],
    }


def summary(matrix: Sequence[Row], presets: Sequence[Preset]) -> str:
    """How it went, on one line."""
    broken = sum(not row.held for row in matrix)
    differ = sum(row.differs for row in matrix)
    end = f"{broken} FAILED" if broken else "all as expected"
    return (
        f"{len(matrix)} scenarios under {', '.join(presets)}: {end}; the presets differ in {differ}"
    )


def _styled(row: Row, preset: Preset) -> Text:
    from rich.text import Text

    cell = row.cell(preset)
    if row.outcomes[preset].held:
        return Text(cell, style="yellow" if row.differs else "")
    return Text(f"FAILED: {cell}", style="bold red")


def _row_as_json(row: Row) -> dict[str, Any]:
    scenario = row.scenario
    return {
        "name": scenario.name,
        "title": scenario.title,
        "topic": scenario.topic,
        "source": scenario.source,
        "mount": dict(scenario.mount),
        "held": row.held,
        "differs": row.differs,
        "presets": {
            preset: {
                "held": outcome.held,
                "outcome": row.cell(preset),
                "problem": outcome.problem,
                "seconds": outcome.seconds,
                "steps": [
                    {
                        "step": seen.number,
                        "actor": scenario.steps[seen.number - 1].actor,
                        "do": scenario.steps[seen.number - 1].text,
                        "expected": (scenario.steps[seen.number - 1].expect or {}).get(preset),
                        "seen": seen.result,
                        "held": seen.held,
                    }
                    for seen in outcome.seen
                ],
            }
            for preset, outcome in row.outcomes.items()
        },
    }
