"""A process that maps a file, marks it by address, forks, runs another program, and ends.

    python -m tests.support.voter SOCKET

Each process, a forked child too, makes a connection of its own to the test's SOCKET, so parent and
child are told what to do one by one. An order is a JSON list in a line, its answer a JSON value.
The file is read through the mapping by write(2) to a pipe, which fails where a load were SIGBUS.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from io import BufferedRWPair
from pathlib import Path
from typing import Any, Literal

from tests.support.files import VFile
from tests.support.fvrange import PAGE
from tests.support.waiting import PATIENCE, eventually
from vfs_volatile.client.mapped import mvrange

How = Literal["shared", "private"]
ROOT = Path(__file__).parents[2]
SYS_EXIT = {"x86_64": 60, "aarch64": 93}[os.uname().machine]


class Voter:
    """The test's end of one such process. Positions and counts are pages of the file."""

    def __init__(self, stage: Stage, pid: int, lines: BufferedRWPair) -> None:
        self.pid = pid
        self._stage = stage
        self._lines = lines

    def map(self, file: VFile | Path, how: How = "shared", first: int = 0, count: int = 0) -> Voter:
        """Open and map ``count`` pages (0 = to the end); returns itself."""
        path = file.path if isinstance(file, VFile) else file
        self._ask("map", str(path), how, first, count)
        return self

    def unmap(self) -> None:
        self._ask("unmap")

    def close_file(self) -> None:
        """Keep the mapping alone."""
        self._ask("close_file")

    def agree(self, first: int = 0, count: int = 0, behavior: int = 0) -> int:
        """mvrange VOLATILE; the bytes found purged. Raises OSError."""
        return self._mvrange("here", first, count, 1, behavior)

    def hold(self, first: int = 0, count: int = 0) -> int:
        """mvrange NONVOLATILE; the bytes found purged. Raises OSError."""
        return self._mvrange("here", first, count, 0, 0)

    def agree_in_a_thread(self, first: int = 0, count: int = 0) -> int:
        return self._mvrange("thread", first, count, 1, 0)

    def loads(self) -> str:
        """One letter for each mapped page: its byte, 0 for zeros, X for what were SIGBUS."""
        return str(self._ask("loads"))

    def store(self, page: int, letter: str) -> None:
        """Fill a page through the mapping; it must not be purged."""
        self._ask("store", page, letter)

    def fork(self) -> Voter:
        """A child with the same mapping."""
        self._ask("fork")
        return self._stage.accept()

    def exec(self) -> None:
        """Run the program anew, with nothing mapped."""
        self._tell("exec")
        self._lines = self._stage.accept()._lines

    def drop_first_thread(self) -> None:
        """End the first thread; another one goes on with the conversation."""
        self._ask("drop_first_thread")

    def exit(self) -> None:
        """End the process, and wait until it has ended."""
        with contextlib.suppress(OSError):
            self._tell("exit")
        self.wait()

    def wait(self) -> None:
        self._stage.reap(self.pid)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._lines.close()

    def _mvrange(self, where: str, first: int, count: int, mode: int, behavior: int) -> int:
        purged, code = self._ask("mvrange", where, first, count, mode, behavior)
        if code:
            raise OSError(code, os.strerror(code))
        return int(purged)

    def _ask(self, *order: object) -> Any:
        self._tell(*order)
        answer = self._lines.readline()
        assert answer, f"process {self.pid} died of {order}"
        return json.loads(answer)

    def _tell(self, *order: object) -> None:
        self._lines.write(json.dumps(order).encode() + b"\n")
        self._lines.flush()


class Stage:
    """Where voters appear. ``close`` ends them all."""

    def __init__(self, work: Path) -> None:
        self._path = work / "voters"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._socket.bind(str(self._path))
        self._socket.listen()
        self._voters: list[Voter] = []
        self._started: dict[int, subprocess.Popen[bytes]] = {}

    def voter(self) -> Voter:
        """A new process, with nothing mapped."""
        program = [sys.executable, "-m", "tests.support.voter", str(self._path)]
        process = subprocess.Popen(program, cwd=ROOT)
        self._started[process.pid] = process
        return self.accept()

    def accept(self) -> Voter:
        """The process that says hello next."""
        connection, _ = self._socket.accept()
        connection.settimeout(PATIENCE)
        with connection:
            lines = connection.makefile("rwb")
        self._voters.append(Voter(self, json.loads(lines.readline()), lines))
        return self._voters[-1]

    def reap(self, pid: int) -> None:
        """Wait until the process has ended; orphans may stay zombies for a while."""
        if pid in self._started:
            self._started.pop(pid).wait(PATIENCE)
        assert eventually(lambda: _has_ended(pid)), f"process {pid} does not end"

    def close(self) -> None:
        for voter in self._voters:
            with contextlib.suppress(OSError):
                os.kill(voter.pid, signal.SIGKILL)  # ours: nobody else gets the pid before the reap
            voter.close()
        for process in self._started.values():
            process.wait(PATIENCE)
        self._socket.close()


class Actor:
    """The process's end."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._first = 0
        self._map: mmap.mmap | None = None
        self._lines = self._connect()

    def obey(self) -> None:
        """Until the test hangs up."""
        for line in self._lines:
            name, *arguments = json.loads(line)
            answer = getattr(self, f"do_{name}")(*arguments)
            self._say(answer)

    def do_map(self, path: str, how: str, first: int, count: int) -> None:
        self._fd = os.open(path, os.O_RDWR)
        flags = mmap.MAP_SHARED if how == "shared" else mmap.MAP_PRIVATE
        length = count * PAGE or os.fstat(self._fd).st_size - first * PAGE
        self._map = mmap.mmap(self._fd, length, flags, offset=first * PAGE)
        self._first = first

    def do_unmap(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None

    def do_close_file(self) -> None:
        os.close(self._fd)

    def do_mvrange(
        self, where: str, first: int, count: int, mode: int, behavior: int
    ) -> tuple[int, int]:
        """(bytes found purged, errno)."""
        found: list[tuple[int, int]] = []

        def call() -> None:
            assert self._map is not None
            start = (first - self._first if first else 0) * PAGE
            view = memoryview(self._map)[start:]
            try:
                length = count * PAGE or len(view)
                found.append((mvrange(view, length, mode, behavior, fd=self._fd), 0))
            except OSError as error:
                found.append((0, error.errno or 0))
            finally:
                view.release()

        if where == "thread":
            thread = threading.Thread(target=call)
            thread.start()
            thread.join()
        else:
            call()
        return found[0]

    def do_loads(self) -> str:
        assert self._map is not None
        return "".join(_letter(self._map, at) for at in range(0, len(self._map), PAGE))

    def do_store(self, page: int, letter: str) -> None:
        assert self._map is not None
        at = (page - self._first) * PAGE
        self._map[at : at + PAGE] = letter.encode() * PAGE

    def do_fork(self) -> int:
        child = os.fork()
        if child == 0:
            self._lines = self._connect()
            self.obey()
            os._exit(0)
        return child

    def do_exec(self) -> None:
        os.execv(sys.executable, [sys.executable, "-m", "tests.support.voter", self._path])

    def do_exit(self) -> None:
        os._exit(0)

    def do_drop_first_thread(self) -> None:
        """The rest of the conversation is the second thread's."""
        first_may_go = threading.Event()

        def go_on() -> None:
            first_may_go.wait()
            gone = eventually(lambda: _state_of(os.getpid()) == "Z")
            assert gone, "the first thread does not end"
            self._say(None)
            self.obey()
            os._exit(0)

        threading.Thread(target=go_on).start()
        first_may_go.set()
        ctypes.CDLL(None).syscall(SYS_EXIT, 0)  # of this thread alone

    def _connect(self) -> BufferedRWPair:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._path)
        with connection:
            self._lines = connection.makefile("rwb")
        self._say(os.getpid())
        return self._lines

    def _say(self, answer: object) -> None:
        self._lines.write(json.dumps(answer).encode() + b"\n")
        self._lines.flush()


def _letter(memory: mmap.mmap, at: int) -> str:
    reader, writer = os.pipe()
    view = memoryview(memory)[at : at + PAGE]
    try:
        os.write(writer, view)
        values = set(os.read(reader, PAGE))
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return "X"
    finally:
        view.release()
        os.close(reader)
        os.close(writer)
    if len(values) > 1:
        return "?"
    return chr(values.pop()) if values != {0} else "0"


def _state_of(pid: int) -> str:
    """Of the first thread of a process. Raises OSError."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def _has_ended(pid: int) -> bool:
    """Has every thread?"""
    try:
        return _state_of(pid) == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1
    except (FileNotFoundError, ProcessLookupError):
        return True


def main(path: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children leave no zombies
    Actor(path).obey()


if __name__ == "__main__":
    main(sys.argv[1])
