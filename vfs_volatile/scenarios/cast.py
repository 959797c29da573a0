"""The processes of one play: started, asked, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vfs_volatile.scenarios import address
from vfs_volatile.scenarios.grammar import SYSTEM, Arguments, Command
from vfs_volatile.trial.modules import run_module

_END_SECONDS = 5.0


class PlayError(Exception):
    """The scenario cannot go on, and why."""


class OutOfTimeError(PlayError):
    """A process did not answer within the time of the play."""


class Actor:
    """Our end of the connection to one process."""

    def __init__(self, name: str, pid: int, stream: socket.SocketIO) -> None:
        self.name = name
        self.pidfd = os.pidfd_open(pid)
        self._stream = stream

    def ask(self, verb: str, arguments: Arguments) -> None:
        """Send a request; :meth:`answer` receives what comes of it."""
        line = json.dumps({"verb": verb, "arguments": arguments})
        with contextlib.suppress(BrokenPipeError):  # answer() finds it gone
            self._stream.write(line.encode() + b"\n")

    def answer(self, ends: float) -> dict[str, Any]:
        """The answer. Raises PlayError if none comes until ``ends``."""
        _wait(self._stream.fileno(), ends, f"{self.name} did not answer")
        line = self._stream.readline()
        if not line:
            raise PlayError(f"{self.name} died")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def wait_until_gone(self, ends: float) -> None:
        """Return when the process has ended. Raises OutOfTimeError."""
        _wait(self.pidfd, ends, f"{self.name} did not end")

    def kill(self) -> None:
        """End it, at once and surely."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """Let go of it, which ends it too."""
        self._stream.close()
        os.close(self.pidfd)


class Cast:
    """All processes of one play. They start when it is made, and end with it."""

    def __init__(self, work: Path, directory: Path, names: Iterable[str], ends: float) -> None:
        """``work``: where the socket and what they say on stderr go. ``ends``: when the play does,
        as time.monotonic() says.
        """
        self._ends = ends
        self._log = work / "actors.log"
        self._listener = socket.socket(socket.AF_UNIX)
        path = work / "socket"
        address.bind(self._listener, str(path))
        self._listener.listen()
        self._actors: dict[str, Actor] = {}
        with self._log.open("wb") as log:
            self._processes = {
                name: run_module(
                    "vfs_volatile.scenarios.process", str(path), str(directory), name, stderr=log
                )
                for name in (SYSTEM, *names)
            }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for actor in self._actors.values():
            actor.kill()
        for process in self._processes.values():
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the mount
                process.wait(_END_SECONDS)
            assert process.stdout is not None
            process.stdout.close()
        self._listener.close()

    def assemble(self) -> None:
        """Wait until all have come. Raises PlayError."""
        while len(self._actors) < len(self._processes):
            self._admit()

    def create(self, name: str, letters: str) -> None:
        """A file of the scenario, before its first step. Raises PlayError."""
        result = self.do(SYSTEM, Command("create", {"FILE": name, "letters": letters}))
        if result != "ok":
            raise PlayError(f"{name} could not be made: {result}")

    def do(self, name: str, command: Command) -> str:
        """Have an actor do something; the result in words. Raises PlayError."""
        if name not in self._actors:
            raise PlayError(f"{name} is not there")
        actor = self._actors[name]
        actor.ask(command.verb, command.arguments)
        if command.verb == "exit":
            return self._bury(actor)
        if command.verb == "exec":
            return self._renew(actor)
        answer = actor.answer(self._ends)
        if "error" in answer:
            raise PlayError(answer["error"])
        if command.verb == "fork" and answer["result"] == "ok":
            self._admit()
        return str(answer["result"])

    def last_words(self) -> str:
        """What a process said last on stderr, if any said something."""
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _admit(self) -> None:
        """Let in one process that connects."""
        _wait(self._listener.fileno(), self._ends, "a process did not start")
        connection, _ = self._listener.accept()
        with connection:
            stream = connection.makefile("rwb", buffering=0)
        _wait(stream.fileno(), self._ends, "a process did not introduce itself")
        hello = json.loads(stream.readline())
        self._actors[hello["name"]] = Actor(hello["name"], hello["pid"], stream)

    def _bury(self, actor: Actor) -> str:
        actor.wait_until_gone(self._ends)
        if process := self._processes.get(actor.name):
            process.wait()
        actor.close()
        del self._actors[actor.name]
        return "ok"

    def _renew(self, actor: Actor) -> str:
        """The same process runs a fresh program, which connects anew."""
        self._admit()
        actor.close()
        return "ok"


def _wait(fd: int, ends: float, complaint: str) -> None:
    """Return when ``fd`` is readable. Raises OutOfTimeError."""
    if not select.select([fd], [], [], max(0.0, ends - time.monotonic()))[0]:
        raise OutOfTimeError(f"{complaint} in time")
