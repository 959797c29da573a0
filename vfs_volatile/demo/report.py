"""The figures of a run: whether all of it held, and the table that shows them."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.table import Table

from vfs_volatile.demo.plan import Plan
from vfs_volatile.demo.tally import Tally
from vfs_volatile.errors import UserError
from vfs_volatile.units import PAGE_SIZE, format_size, pages_for

LEAST_RATIO = 2
"""The cache must be larger than so many budgets."""
SLACK_ENTRIES = 4
"""For each worker: one that is unmarked, and those stored in one round of the purger."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run came to. Sizes are bytes."""

    modules: int
    """To be compiled,"""
    entries: int
    """and that were, as not all do, and the time is limited."""
    size: int
    """Of all contents together."""
    budget: int
    slack: int
    """How far resident may rise above the budget, see :func:`slack_for`."""
    highest_resident: int
    """The highest ever, by the mount's own account and by sampling."""
    settled_resident: int
    """When everything was volatile and the purger had had its time."""
    purged: int
    rebuilt: int
    hits: int
    held_pages: int
    """Pages mapped private,"""
    cowed_pages: int
    """of which the holder wrote to these,"""
    kept_pages: int
    """and that were as they should be at the end."""
    sigbus: int
    verified: int
    failures: tuple[str, ...]
    """What may not be, in words."""
    unreadable: bool
    """Are there processes whose mappings cannot be read? They count as private mappers of all."""
    seconds: float


def collect(
    tally: Tally, plan: Plan, lengths: list[int], settled_resident: int, seconds: float
) -> Figures:
    """The figures, from what the workers said and the lengths of the entries."""
    counts, sample = tally.counts, tally.sample
    return Figures(
        modules=len(plan.sources),
        entries=len(lengths),
        size=sum(lengths),
        budget=sample["budget"],
        slack=slack_for(lengths, plan.workers),
        highest_resident=max(sample["highest_resident"], tally.highest_sampled),
        settled_resident=settled_resident,
        purged=sample["purged_ever"],
        rebuilt=counts["rebuilt"],
        hits=counts["hits"],
        held_pages=counts["held_pages"],
        cowed_pages=counts["cowed_pages"],
        kept_pages=counts["kept_pages"],
        sigbus=counts["sigbus"],
        verified=counts["verified"],
        failures=tuple(tally.failures),
        unreadable=bool(sample["unreadable_processes"]),
        seconds=seconds,
    )


def slack_for(lengths: list[int], workers: int) -> int:
    """Bytes that may be resident above the budget while ``workers`` build or read.

    Each may keep one entry from being purged, and store a few while the purger, which runs in the
    background and looks at all processes first, is at work on what was there before. What this
    comes to at most: the largest entries of all, so many for each worker.
    """
    largest = sorted(lengths)[-SLACK_ENTRIES * workers :]
    return sum(pages_for(length) * PAGE_SIZE for length in largest)


def judge(figures: Figures) -> None:
    """Raise UserError, with the first thing that did not hold, unless all of it held."""
    for problem in _problems(figures):
        raise UserError(f"the demo failed: {problem}")


def _problems(figures: Figures) -> Iterator[str]:
    """What did not hold; cause and mend."""
    report = "please report it, with the table above"
    if figures.failures:
        more = f" (and {len(figures.failures) - 1} more)" if len(figures.failures) > 1 else ""
        yield f"{figures.failures[0]}{more}; {report}"
    if figures.size <= LEAST_RATIO * figures.budget:
        yield (
            f"the cache came to {format_size(figures.size)}, not more than {LEAST_RATIO} times"
            " the budget; give a smaller --budget or more --modules"
        )
    if figures.unreadable and not figures.purged:
        yield "nothing could be purged: the mappings of a process cannot be read; run it as root"
    if figures.settled_resident > figures.budget:
        yield (
            f"{format_size(figures.settled_resident)} stayed resident, above the budget, when all"
            " was volatile; something else may have the files mapped, or --budget is too small"
        )
    if figures.highest_resident > figures.budget + figures.slack:
        yield (
            f"up to {format_size(figures.highest_resident)} were resident, more than the budget"
            f" and the {format_size(figures.slack)} above it that are allowed; {report}"
        )
    if not figures.held_pages or figures.kept_pages != figures.held_pages:
        yield f"{figures.kept_pages} of {figures.held_pages} private pages were kept; {report}"
    for count, what in (
        (figures.purged, "was purged"),
        (figures.rebuilt, "had to be rebuilt"),
        (figures.hits, "was found intact"),
        (figures.sigbus, "gave SIGBUS"),
    ):
        if not count:
            yield f"nothing {what}; give a smaller --budget or more --modules"


def make_table(figures: Figures) -> Table:
    """What was done and seen, for 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for row in _rows(figures):
        table.add_row(*row)
    return table


def _rows(figures: Figures) -> Iterator[tuple[str, str, str]]:
    python = f"Python {platform.python_version()}"
    ratio = figures.size / figures.budget
    above = max(0, figures.highest_resident - figures.budget)
    yield "Entries", f"{figures.entries:,}", f"compiled, of {figures.modules:,} modules of {python}"
    yield "Bytes", format_size(figures.size), f"{ratio:.1f} times the budget"
    yield "Budget", format_size(figures.budget), ""
    yield (
        "Highest resident",
        format_size(figures.highest_resident),
        f"{format_size(above)} over budget, {format_size(figures.slack)} allowed",
    )
    yield "Purged", format_size(figures.purged), "by the mount's own account"
    yield "Rebuilt", f"{figures.rebuilt:,}", "look-ups that found the entry purged"
    yield "Hits", f"{figures.hits:,}", "look-ups that found it intact"
    yield (
        "Private pages kept",
        f"{figures.kept_pages:,}",
        f"of {figures.held_pages:,} mapped, {figures.cowed_pages:,} of them written to",
    )
    yield "SIGBUS caught", f"{figures.sigbus:,}", "optimistic readers that met a purged page"
    yield (
        "Contents verified",
        f"{figures.verified:,}",
        f"by SHA-256; {len(figures.failures)} failures",
    )
    yield "Time", f"{figures.seconds:.1f} s", ""
