"""How ``top`` draws a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vfs_volatile.cli.top_sample import ORDERS, Sample, rate
from vfs_volatile.cli.wording import blockers_line, clock, path_of, span_of
from vfs_volatile.units import format_size

_SPARKS = "▁▂▃▄▅▆▇█"
_FOOTER_LINES = 1
_SPEEDS_WIDTH = 78
"""Columns of the line of speeds without its picture."""
_ONE_LINE: Any = {"no_wrap": True, "overflow": "ellipsis"}
_JUST_NOW = 3.0
"""Seconds: a purger that is blocked tries again sooner than that."""


@dataclass
class State:
    """What the user has chosen."""

    path: str
    order: str = ORDERS[0]
    paused: bool = False

    def next_order(self) -> None:
        self.order = ORDERS[(ORDERS.index(self.order) + 1) % len(ORDERS)]


def draw(sample: Sample, state: State, width: int, height: int) -> RenderableType:
    """``sample`` for a terminal of this size; no more lines than it has."""
    header: list[RenderableType] = [
        _title(sample, state, width),
        _bar(sample, width),
        _legend(sample),
        _speeds(sample, width),
        Text(),
    ]
    rows = height - len(header) - _FOOTER_LINES
    if rows < 0:
        return Group(*header[:height])
    blocked_rows, files_rows, purges_rows = _share(rows, sample)
    return Group(
        *header,
        *_section(_files(sample, state, files_rows - 2, width), files_rows),
        *_section(_blocked(sample, blocked_rows - 2, width), blocked_rows),
        *_section(_purges(sample, purges_rows - 2, width), purges_rows),
        *[Text()] * (rows - files_rows - blocked_rows - purges_rows),
        _keys(state),
    )


def _share(rows: int, sample: Sample) -> tuple[int, int, int]:
    """Lines for what is blocked, for files and for purges, headings and gaps included."""
    blocked = min(len(sample.blocked) + 2, rows // 3) if sample.blocked else 0
    files = min(len(sample.files) + 2, max(3, (rows - blocked) * 3 // 5))
    files = min(files, rows - blocked)
    purges = max(0, min(len(sample.purges) + 2, rows - blocked - files))
    return blocked, files, purges


def _section(part: RenderableType, rows: int) -> list[RenderableType]:
    """A part with an empty line after it, if there is room for anything of it."""
    return [part, Text()] if rows > 2 else [Text()] * max(0, rows)


# ---- the header ----


def _title(sample: Sample, state: State, width: int) -> Text:
    now = f"{'  PAUSED ' if state.paused else ''}  {clock(sample.time)[:8]} "
    path = _end_of(state.path, width - len(now) - 1)
    title = Text(f" {path:<{max(0, width - len(now) - 1)}}", "bold", **_ONE_LINE)
    title.append(now)
    title.highlight_words([" PAUSED "], "reverse yellow")
    return title


def _bar(sample: Sample, width: int) -> Text:
    """Resident memory beside the budget: what stays, what may go, what is free."""
    stats = sample.stats
    resident, budget = stats["resident"], stats["budget"]
    said = f"  {format_size(resident)} of {format_size(budget)}"
    cells = max(10, width - len(said) - 2)
    whole = max(budget, resident, 1)
    plain = round(cells * (resident - sample.droppable) / whole)
    droppable = round(cells * resident / whole) - plain
    limit = round(cells * budget / whole)
    over = resident > budget
    drawn = "█" * plain + "▓" * droppable + "░" * (cells - plain - droppable)
    bar = Text.assemble(
        " ", drawn, " ", (said.strip(), "bold red" if over else "bold"), **_ONE_LINE
    )
    bar.stylize("cyan", 1, 1 + plain)
    bar.stylize("green", 1 + plain, 1 + plain + droppable)
    bar.stylize("dim", 1 + plain + droppable, 1 + cells)
    if over:
        bar.stylize("red", 1 + limit, 1 + plain + droppable)
    return bar


def _legend(sample: Sample) -> Text:
    stats = sample.stats
    kept = stats["resident"] - sample.droppable
    return Text.assemble(
        (" █ ", "cyan"), f"{format_size(kept)} stays",
        ("   ▓ ", "green"), f"{format_size(sample.droppable)} may go",
        ("   ░ ", "dim"), f"{format_size(max(0, stats['budget'] - stats['resident']))} free",
        f"   purged {format_size(stats['purged'])}",
        (f"   size {format_size(stats['size'])}", "dim"),
        **_ONE_LINE,
    )  # fmt: skip


def _speeds(sample: Sample, width: int) -> Text:
    rates = sample.rates
    sparks = min(40, width - _SPEEDS_WIDTH)
    return Text.assemble(
        " purged ", (f"{rate(rates['purged_ever']):<12} ", "bold"),
        (_spark(sample.purging, sparks) if sparks > 0 else "", "magenta"),
        "  found purged ", (rate(rates["unmarked_purged"]), "bold"),
        "   ", (f"{rates['marks']:.0f}", "bold"), " marks/s",
        "   ", (f"{rates['unmarks']:.0f}", "bold"), " unmarks/s",
        **_ONE_LINE,
    )  # fmt: skip


# ---- the tables ----


def _files(sample: Sample, state: State, rows: int, width: int) -> Table:
    table = _table()
    columns = ("MAY GO", "RESIDENT", "PURGED")
    for name, order in zip(columns, ORDERS, strict=True):
        mark = "▼ " if order == state.order else ""
        table.add_column(mark + name, justify="right", width=11, no_wrap=True)
    table.add_column("OPEN", justify="right", width=5, no_wrap=True)
    table.add_column("FILE", ratio=1, no_wrap=True)
    for entry in sample.files[:rows]:
        table.add_row(
            Text(_amount(min(entry["resident"], entry["volatile"] - entry["purged"])), "green"),
            _amount(entry["resident"]),
            Text(_amount(entry["purged"]), "magenta"),
            str(entry["opens"] or "-"),
            Text(_end_of(path_of(entry), width - 46)),
        )
    return table


def _blocked(sample: Sample, rows: int, width: int) -> Table:
    table = _table()
    file_width = max(12, width // 4)
    table.add_column("NOT PURGED", width=file_width, no_wrap=True)
    table.add_column("RANGE", width=14, no_wrap=True)
    table.add_column("LAST TRY", width=9, justify="right", no_wrap=True)
    table.add_column("BECAUSE IT IS", ratio=1, no_wrap=True)
    for entry in sample.blocked[:rows]:
        ago = sample.time - entry["last"]
        table.add_row(
            Text(_end_of(path_of(entry), file_width)),
            span_of(entry),
            Text("now", "bold yellow") if ago < _JUST_NOW else f"{_ago(ago)} ago",
            Text(blockers_line(entry["by"]), "yellow"),
        )
    return table


def _purges(sample: Sample, rows: int, width: int) -> Table:
    table = _table()
    table.add_column("LAST PURGES", width=12, no_wrap=True)
    table.add_column("BYTES", justify="right", width=11, no_wrap=True)
    table.add_column("FOR", width=15, no_wrap=True)
    table.add_column("FILE", ratio=1, no_wrap=True)
    for event in sample.purges[:rows]:
        table.add_row(
            clock(event["time"]),
            Text(_amount(event["bytes"]), "magenta"),
            event["cause"],
            Text(_end_of(f"{path_of(event)}  {span_of(event)}", width - 45)),
        )
    return table


def _table() -> Table:
    return Table(
        box=None, expand=True, padding=(0, 1), header_style="bold underline", show_edge=False
    )


def _keys(state: State) -> Text:
    return Text.assemble(
        (" q ", "reverse"), " quit  ",
        (" p ", "reverse"), " go on  " if state.paused else " pause  ",
        (" s ", "reverse"), f" files by {state.order}",
        **_ONE_LINE,
    )  # fmt: skip


# ---- words ----


def _amount(size: int) -> str:
    return format_size(size) if size else "-"


def _ago(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"


def _end_of(text: str, width: int) -> str:
    """The end of a path says more than its beginning."""
    width = max(1, width)
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def _spark(values: Sequence[float], width: int) -> str:
    """The last of ``values`` as a row of columns, the highest as high as there is."""
    shown = values[-width:]
    highest: Any = max(shown, default=0) or 1
    columns = (_SPARKS[min(7, int(value / highest * 7.999))] for value in shown)
    return "".join(columns).ljust(width)
