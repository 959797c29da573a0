"""A terminal that a program has for itself: keys one by one, and everything put back at the end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import ExitStack
from types import FrameType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live

_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Screen:
    """The alternate screen of the terminal that stdout is; keys come from stdin if that is one.

    Used as a context manager. SIGTERM and SIGHUP end the program through it, Ctrl-Z puts the
    terminal back for as long as the program is stopped, and a new size is drawn at once.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stack = ExitStack()
        self._live: Live | None = None
        self._wakeups = -1
        """Gets a byte with the number of each signal that came."""
        self._drawn: RenderableType | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._wakeups = stack.enter_context(_signals())
            self._open()
            stack.callback(self._close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def show(self, drawn: RenderableType) -> None:
        self._drawn = drawn
        if self._live is not None:
            self._live.update(drawn, refresh=True)

    def wait(self, until: float) -> str | None:
        """The next key; ``resize`` when there is a new size; None at ``until`` (monotonic)."""
        sources = [self._wakeups]
        if sys.stdin.isatty():
            sources.append(sys.stdin.fileno())
        ready, _, _ = select.select(sources, [], [], max(0.0, until - time.monotonic()))
        if self._wakeups in ready:
            return self._woken()
        if ready:
            key = os.read(sys.stdin.fileno(), 1)
            return key.decode("latin-1") if key else "q"  # the terminal has gone
        return None

    def _woken(self) -> str | None:
        numbers = os.read(self._wakeups, 64)
        if signal.SIGTSTP in numbers:
            self._close()
            os.kill(os.getpid(), signal.SIGSTOP)
            # Here the program goes on.
            self._open()
        return "resize"

    def _open(self) -> None:
        if sys.stdin.isatty():
            self._saved = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        self._live = Live(
            self._drawn, console=self._console, screen=True, auto_refresh=False,
            redirect_stdout=False, redirect_stderr=False, vertical_overflow="crop",
        )  # fmt: skip
        self._live.start(refresh=self._drawn is not None)

    def _close(self) -> None:
        live, self._live = self._live, None
        try:
            if live is not None:
                live.stop()
        finally:
            if sys.stdin.isatty():
                with contextlib.suppress(termios.error):
                    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._saved)


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """A descriptor that tells of signals; those that end the program raise SystemExit."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {
        number: signal.getsignal(number) for number in (*_ENDING, signal.SIGWINCH, signal.SIGTSTP)
    }
    for number in _ENDING:
        signal.signal(number, _end)
    for number in (signal.SIGWINCH, signal.SIGTSTP):
        signal.signal(number, _noted)
    old = signal.set_wakeup_fd(writer)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _noted(number: int, frame: FrameType | None) -> None:
    """The wakeup descriptor tells of it."""
