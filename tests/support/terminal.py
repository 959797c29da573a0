"""A program on a terminal of its own: what it draws, is told, and leaves behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from tests.support.mount import ROOT
from tests.support.waiting import PATIENCE, eventually

_OVERRULING = ("NO_COLOR", "COLUMNS", "LINES")
_HOME = b"\x1b[H"
_ESCAPE = re.compile(rb"\x1b(\[[0-9;?]*[a-zA-Z]|[()].|[=>])")


class Terminal:
    """A pseudo-terminal with one program on it; ended with the ``with``."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], width: int = 100, height: int = 30
    ) -> None:
        self._ours, self._theirs = pty.openpty()
        self._resize(width, height)
        self._settings = termios.tcgetattr(self._theirs)
        # What would overrule the terminal.
        inherited = {name: value for name, value in os.environ.items() if name not in _OVERRULING}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={**inherited, "TERM": "xterm-256color", **env},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.output = b""
        """All that it has written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self._ours)
        os.close(self._theirs)

    def resize(self, width: int, height: int) -> None:
        """As the user of a window does."""
        self._resize(width, height)
        self.process.send_signal(signal.SIGWINCH)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def shows(self, words: str) -> bool:
        """Wait until it draws ``words``, from now on."""
        before = len(self.output)
        return self._until(lambda: words in self.text[len(_plain(self.output[:before])) :])

    def draws(self, wanted: Callable[[list[str]], bool]) -> bool:
        """Wait until what it draws from the top of the screen, perhaps not yet all, is as wanted.

        Lines of the frame alone that was begun last: it follows another without a new line.
        """
        return self._until(lambda: wanted(_plain(self.output.rpartition(_HOME)[2]).split("\r\n")))

    @property
    def text(self) -> str:
        """What it has written, without escape sequences."""
        return _plain(self.output)

    def end(self) -> int:
        """Wait for its end; the exit code."""
        assert self._until(lambda: self.process.poll() is not None), "it has not ended"
        self._read()
        return self.process.wait()

    def stopped(self) -> bool:
        """Wait until it is stopped."""

        def is_stopped() -> bool:
            with open(f"/proc/{self.process.pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] == "T"

        return self._until(is_stopped)

    def is_as_before(self) -> bool:
        """Is the terminal as it was: its settings, the screen, the cursor?"""
        self._read()  # what it wrote just before it stopped
        screen = self.output.count(b"\x1b[?1049h") == self.output.count(b"\x1b[?1049l")
        cursor = self.output.rfind(b"\x1b[?25h") >= self.output.rfind(b"\x1b[?25l")
        return screen and cursor and termios.tcgetattr(self._theirs) == self._settings

    def _until(self, condition: Callable[[], object]) -> bool:
        def check() -> object:
            self._read()
            return condition()

        return eventually(check)

    def _read(self) -> None:
        while select.select([self._ours], [], [], 0)[0]:
            chunk = b""
            with contextlib.suppress(OSError):
                chunk = os.read(self._ours, 65536)
            if not chunk:
                return
            self.output += chunk

    def _resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def _plain(output: bytes) -> str:
    return _ESCAPE.sub(b"", output).decode(errors="replace")
