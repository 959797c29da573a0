"""Figures: what was measured, how far it spreads, and tables of it for people and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

MOST_GROWTH = 2.0
"""The cost of one call may grow so much from the first case to the last."""


class Spread(NamedTuple):
    """Repeated measurements of one thing."""

    median: float
    low: float
    """Lower quartile; the least if there are fewer than four."""
    high: float
    """Upper quartile; the greatest if there are fewer than four."""
    worst: float
    """The greatest, or the least where more is better."""
    times: int


def spread(values: Sequence[float], *, more_is_better: bool = False) -> Spread:
    """Median and quartiles of ``values`` (at least one)."""
    if len(values) < 4:
        low, high = min(values), max(values)
    else:
        low, _, high = statistics.quantiles(values, n=4)
    worst = min(values) if more_is_better else max(values)
    return Spread(statistics.median(values), low, high, worst, len(values))


@dataclass
class Row:
    """One operation in several cases."""

    operation: str
    unit: str
    limited: bool
    """Is growth beyond MOST_GROWTH a fault?"""
    values: dict[str, list[float]] = field(default_factory=dict)

    @property
    def cells(self) -> dict[str, Spread]:
        better = self.unit.endswith("/s")
        return {case: spread(found, more_is_better=better) for case, found in self.values.items()}

    @property
    def ratio(self) -> float | None:
        """The greatest median of the later cases over the first; None if there are no two."""
        first, *others = [cell.median for cell in self.cells.values()]
        return max(others) / first if others and first else None

    @property
    def too_steep(self) -> bool:
        return self.limited and self.ratio is not None and self.ratio > MOST_GROWTH


class Figures:
    """A table of operations by cases, with what a reader must know about them."""

    def __init__(
        self, title: str, cases: Sequence[str], *, ratio: str = "", notes: Sequence[str] = ()
    ) -> None:
        self.title = title
        self.cases = cases
        self.ratio = ratio
        """Head of the column for :attr:`Row.ratio`; empty for none."""
        self.notes = list(notes)
        self.rows: dict[str, Row] = {}

    def add(
        self, operation: str, unit: str, case: str, *values: float, limited: bool = False
    ) -> None:
        """Add measurements of ``operation`` in ``case``. ``limited``: growth has a limit."""
        row = self.rows.setdefault(operation, Row(operation, unit, limited))
        row.values.setdefault(case, []).extend(values)

    def show(self, console: Console) -> None:
        """Print the table: medians, and quartiles below them."""
        table = Table(title=self.title, title_justify="left", box=box.SIMPLE_HEAD, expand=False)
        table.add_column("", no_wrap=True)
        table.add_column("unit", style="dim", no_wrap=True)
        for name in [*self.cases, *([self.ratio] if self.ratio else [])]:
            table.add_column(name, justify="right")
        for row in self.rows.values():
            found = row.cells
            cells = [_cell(found.get(case)) for case in self.cases]
            table.add_row(row.operation, row.unit, *cells, *([_ratio(row)] if self.ratio else []))
        console.print(table)
        for note in self.notes:
            console.print(f"  {note}", style="dim", highlight=False, soft_wrap=True)
        console.print()

    def as_json(self) -> dict[str, object]:
        return {
            "title": self.title,
            "notes": self.notes,
            "rows": [
                {
                    "operation": row.operation,
                    "unit": row.unit,
                    "cases": {case: cell._asdict() for case, cell in row.cells.items()},
                    "ratio": row.ratio,
                    "too_steep": row.too_steep,
                }
                for row in self.rows.values()
            ],
        }


def short(number: int) -> str:
    """``number`` as a column's head names it: 1 k, 100 k, 1 M."""
    return f"{number // 1_000_000} M" if number >= 1_000_000 else f"{number // 1000} k"


def _cell(found: Spread | None) -> str:
    if found is None:
        return ""
    if found.times == 1:
        return _number(found.median)
    return f"{_number(found.median)}\n[dim]{_number(found.low)}..{_number(found.high)}[/dim]"


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return ""
    text = f"{row.ratio:.2f}x"
    return f"[bold red]{text} TOO STEEP[/bold red]" if row.too_steep else text


def _number(value: float) -> str:
    """Three digits that matter, and no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
