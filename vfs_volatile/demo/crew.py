"""The workers: started, listened to, and ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from vfs_volatile.demo.tally import Tally
from vfs_volatile.errors import UserError
from vfs_volatile.trial.modules import how_it_ended, run_module
from vfs_volatile.trial.mounting import TemporaryMount

_TICK_SECONDS = 0.1
_END_SECONDS = 5.0
_GRACE_SECONDS = 5.0
"""A daemon that dies is missed by the workers before it has quite gone."""


class Worker:
    """One process of ``vfs_volatile.demo.worker``."""

    def __init__(self, role: str, number: int, plan: Path) -> None:
        self.name = f"{role} {number}"
        self.log = plan.with_name(f"{role}-{number}.log")
        with self.log.open("wb") as log:
            self.process = run_module(
                "vfs_volatile.demo.worker",
                *(role, str(number), str(plan)),
                stderr=log,
                stdin=subprocess.PIPE,
            )
        assert self.process.stdout is not None
        self.output = self.process.stdout
        self._partial = b""
        self.ended = False

    def lines(self) -> list[bytes]:
        """The whole lines it has said since; call it when ``output`` is readable."""
        chunk = os.read(self.output.fileno(), 1 << 16)
        self.ended = not chunk
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        return lines

    def dismiss(self) -> None:
        """Close its stdin: what it waits for, if it waits."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def kill(self) -> None:
        """End it and its children, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def problem(self) -> str:
        """How it ended and what it said, if that was not well."""
        code = self.process.wait(_END_SECONDS)
        if code == 0:
            return ""
        said = [line for line in self.log.read_text(errors="replace").split("\n") if line.strip()]
        return how_it_ended(code) + (f" ({said[-1].strip()})" if said else "")


class Crew:
    """All workers of one run, within a limit of time."""

    def __init__(self, plan: Path, mount: TemporaryMount, limit_seconds: float) -> None:
        self.tally = Tally()
        self._plan = plan
        self._mount = mount
        self._limit_seconds = limit_seconds
        self._ends = time.monotonic() + limit_seconds
        self._workers: list[Worker] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the mount
                worker.process.wait(_END_SECONDS)
            worker.output.close()
            worker.dismiss()

    def start(self, role: str, count: int = 1) -> list[Worker]:
        """Start ``count`` workers of a role."""
        started = []
        for number in range(count):
            started.append(Worker(role, number, self._plan))
            self._workers.append(started[-1])
        return started

    def wait_for_end(
        self, workers: list[Worker], on_tick: Callable[[], None] = lambda: None
    ) -> None:
        """Listen to all workers until these have ended. Raises as :meth:`wait_until`."""
        self.wait_until(lambda: all(worker.ended for worker in workers), on_tick)

    def wait_until(
        self, done: Callable[[], bool], on_tick: Callable[[], None] = lambda: None
    ) -> None:
        """Listen to all workers until ``done()``, with ``on_tick()`` after each bit of news.

        Raises UserError if a worker fails, the daemon ends or the time is up.
        """
        while not done():
            self._listen()
            on_tick()
            self._mount.check()
            if time.monotonic() > self._ends:
                raise UserError(
                    f"the demo was not done after {self._limit_seconds:.0f} s and was stopped;"
                    " give fewer --modules, or the machine less to do"
                )

    def _listen(self) -> None:
        talking = {worker.output: worker for worker in self._workers if not worker.ended}
        for output in select.select(list(talking), [], [], _TICK_SECONDS)[0]:
            worker = talking[output]
            for line in worker.lines():
                self.tally.add(line)
            if worker.ended and (problem := worker.problem()):
                self._mount.check(_GRACE_SECONDS)  # the likely cause
                raise UserError(
                    f"worker '{worker.name}' {problem}; run the demo again, and report it if it"
                    " happens again"
                )
