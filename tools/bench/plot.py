"""A plot of a table of figures: how each case compares with the first, row by row (SVG)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from tools.bench.figures import Figures, Row

_LEFT, _WIDTH, _BAR, _GAP = 260, 520, 11, 12
_COLORS = ["#888888", "#1b7f5c", "#2f6db3", "#c2571a", "#7a4fa3"]
_MOST = 3.0
"""Powers of ten to either side of "as fast"."""


def plot(figures: Figures) -> str:
    """Bars to the right are slower than the first case, to the left faster; a logarithmic scale."""
    lines = []
    y = 60
    for row in figures.rows.values():
        found = list(_against_first(row)) if figures.cases[0] in row.values else []
        if not found:
            continue
        lines.append(_text(_LEFT - 8, y + _BAR, row.operation, anchor="end"))
        for case, times_slower in found:
            color = _COLORS[figures.cases.index(case) % len(_COLORS)]
            lines.append(_bar(y, times_slower, color))
            y += _BAR + 1
        y += _GAP
    middle = _LEFT + _WIDTH / 2
    axis = f'<line x1="{middle}" y1="50" x2="{middle}" y2="{y}" stroke="#333"/>'
    head = _text(10, 20, figures.title, size=15)
    legend = [
        _text(10 + 150 * number, 42, case, color=_COLORS[number % len(_COLORS)])
        for number, case in enumerate(figures.cases)
    ]
    width = _LEFT + _WIDTH + 90
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y + 30}">',
            '<rect width="100%" height="100%" fill="white"/>',
            head,
            *legend,
            axis,
            *lines,
            _text(middle, y + 18, f"times as slow as {figures.cases[0]}", anchor="middle"),
            "</svg>\n",
        ]
    )


def _against_first(row: Row) -> Iterator[tuple[str, float]]:
    """(case, how many times as slow as the first), for all but the first."""
    (_, base), *others = row.cells.items()
    if not base.median or row.unit == "x":
        return
    for case, cell in others:
        if cell.median:
            better = row.unit.endswith("/s")
            yield case, base.median / cell.median if better else cell.median / base.median


def _bar(y: float, times: float, color: str) -> str:
    middle = _LEFT + _WIDTH / 2
    length = min(_MOST, max(-_MOST, math.log10(times))) / _MOST * _WIDTH / 2
    x, width = min(middle, middle + length), max(1.0, abs(length))
    at = middle + length + (6 if length >= 0 else -6)
    label = _text(
        at, y + _BAR - 2, f"{times:.2f}", size=10, anchor="start" if length >= 0 else "end"
    )
    return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{color}"/>{label}'


def _text(
    x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", color: str = "#222"
) -> str:
    style = f'font-family="sans-serif" font-size="{size}" text-anchor="{anchor}" fill="{color}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
