"""The client of ``probe.c``: a scriptable process that touches memory and survives it."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.support.fvrange import PAGE
from tests.support.waiting import PATIENCE

How = Literal["shared", "private"]
BOTH: tuple[How, ...] = ("shared", "private")

PROBE_SOURCE = Path(__file__).with_name("probe.c")


def compile_probe(directory: Path) -> Path:
    """Compile the probe into ``directory``; raises when the compiler has anything to say."""
    program = directory / "probe"
    command = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(PROBE_SOURCE)]
    subprocess.run(command, check=True, timeout=PATIENCE)
    return program


def sigbus(offset: int) -> str:
    """What an access replies that met SIGBUS, BUS_ADRERR, at exactly this file offset."""
    return f"SIGBUS BUS_ADRERR {offset}"


class Actor:
    """One process that opened a file of the mount, and perhaps mapped it."""

    def __init__(self, program: Path, path: Path, access: Literal["r", "rw"] = "rw") -> None:
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._received = b""
        self.must(f"open {path} {access}")

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, command: str) -> str:
        """Send one command and wait for its reply, at most PATIENCE."""
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        return self._reply(command)

    def must(self, command: str) -> None:
        """A command that has to succeed."""
        reply = self.ask(command)
        assert reply == "ok", f"{command}: {reply}"

    def map(
        self,
        how: How = "shared",
        access: Literal["r", "rw"] = "rw",
        first: int = 0,
        count: int = 0,
    ) -> Self:
        """Map ``count`` pages from page ``first`` (0 = to the end); returns itself."""
        self.must(f"map {how} {access} {first} {count}")
        return self

    def unmap(self) -> None:
        self.must("unmap")

    def load(self, offset: int) -> str:
        """The byte at ``offset`` ("0" for NUL), or a reply equal to ``sigbus(offset)``."""
        return self.ask(f"load {offset}")

    def store(self, offset: int, character: str) -> str:
        return self.ask(f"store {offset} {character}")

    def loads(self, order: Iterable[int] = ()) -> str:
        """One letter for each page, by page index, whatever the order of access.

        A letter is the page's first byte, 0 for NUL, X for the promised SIGBUS, ! for another.
        """
        return self._by_page("loads", list(order))

    def stores(self, character: str, order: Iterable[int] = ()) -> str:
        """Fill each page with ``character``: w when filled, X for the promised SIGBUS."""
        return self._by_page(f"stores {character}", list(order))

    def pipe(self, page: int) -> str:
        """write(2) of a mapped page to a pipe: the number of bytes, or an errno's name."""
        return self.ask(f"pipe {page}")

    def populate(self, first: int, count: int, access: Literal["r", "w"] = "r") -> str:
        return self.ask(f"populate {access} {first} {count}")

    def fork(self) -> None:
        """From here on a forked child answers, until ``leave_child``."""
        self.must("fork")

    def leave_child(self) -> None:
        self.must("exit")

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=PATIENCE)
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _by_page(self, command: str, order: list[int]) -> str:
        letters = self.ask(" ".join([command, *map(str, order)]))
        if not order:
            return letters
        return "".join(letter for _, letter in sorted(zip(order, letters, strict=True)))

    def _reply(self, command: str) -> str:
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._received:
            ready, _, _ = select.select(
                [self.process.stdout], [], [], max(0.0, deadline - time.monotonic())
            )
            if not ready:
                raise TimeoutError(f"the probe did not answer '{command}'")
            chunk = os.read(self.process.stdout.fileno(), PAGE * 16)
            if not chunk:
                raise EOFError(
                    f"the probe died of '{command}': {self.process.wait(timeout=PATIENCE)}"
                )
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()
