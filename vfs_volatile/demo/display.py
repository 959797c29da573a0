"""Progress while the workers work: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vfs_volatile.demo.tally import Tally
from vfs_volatile.units import format_size

_LINE_SECONDS = 2.0


class Stage(Protocol):
    """One stage of the work."""

    def show(self, done: int, tally: Tally) -> None:
        """So much of it is done."""


@contextmanager
def stage(console: Console, title: str, total: int) -> Iterator[Stage]:
    """Show a stage for as long as the ``with`` lasts."""
    if console.is_terminal:
        with _progress(console) as progress:
            bar = _Bar(progress, title, total)
            yield bar
            bar.end()
    else:
        lines = _Lines(console, title, total)
        yield lines
        lines.end()


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<11}"),
        BarColumn(bar_width=18),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
        TimeElapsedColumn(),
        console=console,
    )


def _note(tally: Tally) -> str:
    return f"{format_size(tally.sample.get('resident', 0)):>9} resident"


class _Bar:
    """Stage: a bar that moves."""

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, note="")

    def show(self, done: int, tally: Tally) -> None:
        self._progress.update(self._task, completed=done, note=_note(tally))

    def end(self) -> None:
        """What was not done for want of time is not waited for."""
        self._progress.update(self._task, total=self._progress.tasks[0].completed)


class _Lines:
    """Stage: a line every few seconds, and one at the end."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        self._console = console
        self._title = title
        self._total = total
        self._line = ""
        self._next = time.monotonic() + _LINE_SECONDS

    def show(self, done: int, tally: Tally) -> None:
        self._line = f"{self._title:<11} {done} of {self._total}, {_note(tally).lstrip()}"
        if time.monotonic() > self._next:
            self.end()
            self._next += _LINE_SECONDS

    def end(self) -> None:
        self._console.print(self._line, highlight=False)
