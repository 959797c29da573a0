"""The test's end of ``sleeper.c``: a process that sleeps between orders."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from pathlib import Path

from tests.support.waiting import PATIENCE

SOURCE = Path(__file__).with_name("sleeper.c")


def compile_sleeper(directory: Path) -> Path:
    """Compile the program into ``directory``."""
    program = directory / "sleeper"
    subprocess.run(["gcc", "-O1", "-pthread", "-o", program, SOURCE], check=True, timeout=PATIENCE)
    return program


class Sleeper:
    """One process, its thread or child, and what their memory has mapped."""

    def __init__(self, program: Path, file: Path) -> None:
        read, self._others = os.pipe()
        with os.fdopen(read, "rb") as orders:
            self._process = subprocess.Popen(
                [program, file, str(orders.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[orders.fileno()],
                bufsize=0,
            )
        self.pid = self._process.pid
        self._await("h")

    def does(self, order: str) -> None:
        """The first thread carries out an order; returns when it is done."""
        assert self._process.stdin is not None
        os.write(self._process.stdin.fileno(), order.encode())
        self._await(order)

    def other_does(self, order: str) -> None:
        """The thread or child does."""
        os.write(self._others, order.encode())
        self._await(order)

    @property
    def child(self) -> int:
        """The pid of the only child."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text())

    def end(self) -> None:
        """End it, with its child, and reap it."""
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()
            os.close(self._others)
            os.kill(self.pid, signal.SIGKILL)  # ours until it is reaped
            self._process.wait(PATIENCE)
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _await(self, answer: str) -> None:
        assert self._process.stdout is not None
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        assert poll.poll(1000 * PATIENCE), f"no answer to {answer}"
        assert os.read(self._process.stdout.fileno(), 1).decode() == answer
        if answer == "x":
            self._await("h")
