"""The client of ``anonymous.c``: processes with volatile anonymous memory, and their children."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Self

from tests.support.fvrange import PAGE
from tests.support.waiting import PATIENCE, eventually

PACKAGE = Path(__file__).parents[2] / "vfs_volatile"
SOURCE = Path(__file__).with_name("anonymous.c")
LIBRARY_SOURCES = sorted((PACKAGE / "native" / "libfvrange").glob("*.c"))


def compile_client(directory: Path, sanitizer: str | None = None) -> Path:
    """Compile the client with the library in it, so that a sanitizer sees all of it."""
    program = directory / f"anonymous-{sanitizer or 'plain'}"
    extra = [f"-fsanitize={sanitizer}", "-fno-omit-frame-pointer"] if sanitizer else []
    gcc = ["gcc", "-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", *extra]
    sources: list[str | Path] = ["-I", PACKAGE, SOURCE, *LIBRARY_SOURCES]
    command = [*gcc, *sources, "-o", program, "-pthread", "-Wl,--wrap=ioctl"]
    subprocess.run(command, check=True, timeout=120)
    return program


class Process:
    """One process, which forks others of its kind."""

    _names = count()

    def __init__(self, pid: int, orders: int, answers: int, work: Path) -> None:
        self.pid = pid
        self._orders = orders
        self._answers = answers
        self._work = work
        self._received = b""

    def ask(self, command: str) -> str:
        """Send one command and wait for its reply. Raises EOFError if the process ends instead."""
        self.send(command)
        return self.reply(command)

    def send(self, command: str) -> None:
        os.write(self._orders, command.encode() + b"\n")

    def reply(self, command: str = "?") -> str:
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._received:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._answers], [], [], left)[0]:
                raise TimeoutError(f"no answer to '{command}'")
            chunk = os.read(self._answers, 1 << 20)
            if not chunk:
                raise EOFError(f"it died of '{command}'")
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()

    def number(self, command: str) -> int:
        """A command that succeeds and answers with a number."""
        answer = self.ask(command)
        assert answer.isdigit(), f"{command}: {answer}"
        return int(answer)

    def start(self, mount: Path, pages: int) -> Self:
        """Attach and allocate; returns itself."""
        self.number(f"attach {mount}")
        self.number(f"alloc {pages}")
        return self

    def mark(self, first: int, pages: int, behavior: int = 1) -> int:
        """VOLATILE (PARTIAL unless told otherwise); pages found purged."""
        return self.number(f"mark {first} {pages} {behavior}") // PAGE

    def unmark(self, first: int, pages: int) -> int:
        """NONVOLATILE; pages found purged."""
        return self.number(f"unmark {first} {pages}") // PAGE

    def fill(self, first: int, pages: int, letter: str) -> str:
        """A letter a page: w, or X for SIGBUS."""
        return self.ask(f"store {first} {pages} {letter}")

    def show(self) -> str:
        """A letter a page: its first byte, 0 for NUL, X for SIGBUS."""
        return self.ask("show")

    def fork(self, how: str = "fork") -> Process:
        """A child that takes orders of its own."""
        name = self._work / f"child{next(self._names)}"
        orders, answers = name.with_suffix(".in"), name.with_suffix(".out")
        os.mkfifo(orders)
        os.mkfifo(answers)
        # Opened both ways: opening waits for nobody, and the end of the child is seen by its pid.
        ends = os.open(orders, os.O_RDWR), os.open(answers, os.O_RDWR)
        return Process(self.number(f"{how} {name}"), *ends, self._work)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; of a SIGSTOP wait until no thread runs any more."""
        os.kill(self.pid, number)
        if number == signal.SIGSTOP:
            assert eventually(self._is_stopped)

    def _is_stopped(self) -> bool:
        stats = [task.read_text() for task in Path(f"/proc/{self.pid}/task").glob("*/stat")]
        return {stat.rpartition(")")[2].split()[0] for stat in stats} == {"T"}

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        for fd in {self._orders, self._answers}:
            with contextlib.suppress(OSError):
                os.close(fd)


class First(Process):
    """One that the test has started itself."""

    def __init__(
        self, program: Path, work: Path, environment: dict[str, str] | None = None
    ) -> None:
        self._errors = work / f"stderr{next(self._names)}.txt"
        with self._errors.open("w") as errors:
            self._popen = subprocess.Popen(
                [program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                env=environment,
            )
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        super().__init__(
            self._popen.pid, self._popen.stdin.fileno(), self._popen.stdout.fileno(), work
        )

    @property
    def complaints(self) -> str:
        """What it, or a sanitizer, said on stderr."""
        return self._errors.read_text(errors="replace")

    def leave(self) -> int:
        """Let it end by itself; its exit code."""
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        return self._popen.wait(timeout=PATIENCE)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._popen.kill()
        self._popen.wait(timeout=PATIENCE)
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                pipe.close()


class Family:
    """Processes that a test starts, and all that they fork; none outlives it."""

    def __init__(self, program: Path, work: Path) -> None:
        self.program = program
        self._work = work
        self._all: list[Process] = []

    def first(self, environment: dict[str, str] | None = None) -> First:
        process = First(self.program, self._work, environment)
        self._all.append(process)
        return process

    def fork(self, parent: Process, how: str = "fork") -> Process:
        child = parent.fork(how)
        self._all.append(child)
        return child

    def end(self, processes: Iterable[Process] | None = None) -> None:
        """The last first: a parent may have to wait for its children."""
        for process in list(reversed(self._all if processes is None else list(processes))):
            with contextlib.suppress(ProcessLookupError):
                process.signal(signal.SIGCONT)
            process.end()
            self._all.remove(process)


def all_of(letters: str, pages: Sequence[int]) -> str:
    """The letters of these pages."""
    return "".join(letters[page] for page in pages)
