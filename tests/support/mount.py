"""A real mount for a test: start it, hold it, and prove at the end that it ended well."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from tests.support.actor import Actor
from tests.support.files import VFile
from tests.support.mountinfo import abort, connection_of, detach, is_mounted
from tests.support.waiting import PATIENCE, eventually
from tests.support.watchdog import Watchdog

ROOT = Path(__file__).parents[2]
DEFAULT_DEADLINE = 150.0
"""Less than PATIENCE: who waits for a mount that hangs sees it freed first."""
LONG_DEADLINE = 240.0
"""For a test that works all the time: less than pytest gives it."""
REST = 3600.0
"""Between two tests that share a mount: others may come between them, and take their time."""
MEMORY_LIMIT = 4 << 30
"""Bytes of address space of the daemon: a bug in it must not take the machine down."""
BAD_WORDS = re.compile(r"traceback|error|exception", re.IGNORECASE)


class MountError(AssertionError):
    """The mount did not start, work or end as every mount has to."""


def command(*arguments: object, module: str = "vfs_volatile") -> list[str]:
    """The command line of ``vfs-volatile`` with these arguments; ``module`` may stand for it."""
    return [sys.executable, "-X", "faulthandler", "-m", module, *map(str, arguments)]


def run(*arguments: object, seconds: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """Run one ``vfs-volatile`` command to its end."""
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
    )


class Mount:
    """A daemon in the foreground and its mount, with everything that a test opened there."""

    def __init__(
        self,
        work: Path,
        watchdog: Watchdog,
        probe: Path,
        deadline: float = DEFAULT_DEADLINE,
        module: str = "vfs_volatile",
        memory: int | None = MEMORY_LIMIT,
        **options: str,
    ) -> None:
        """Start it below ``work``; ``budget="1M"`` means ``--budget 1M``, "" a flag."""
        self.passthrough = options.get("access") == "zero" and not options.get("o")
        """Do its files take the direct path?"""
        self.path = work / "mnt"
        self.path.mkdir(parents=True)
        self.declared_stderr = False
        """True when the test provokes words on stderr that are a failure otherwise."""
        self._evidence = work / "evidence.txt"
        self._stderr = work / "stderr.txt"
        self._watchdog = watchdog
        self._probe = probe
        self._held = ExitStack()
        self._connection: int | None = None
        self._killed = False
        self._ended = False
        arguments = [
            part for name, value in options.items() for part in (_flag(name), value) if part
        ]
        with self._stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                command("mount", self.path, "-f", *arguments, module=module),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        if memory:
            resource.prlimit(self.process.pid, resource.RLIMIT_AS, (memory, memory))
        self.rearm(deadline)
        try:
            self._wait_until_ready()
        except BaseException:
            self._sweep()
            raise
        self._connection = connection_of(self.path)
        self.rearm(deadline)

    # What tests do with it.

    def open(self, name: str, flags: int = os.O_RDWR | os.O_CREAT) -> VFile:
        """Open ``name`` below the root; closed at the end of the test."""
        path = self.path / name
        file = VFile(path, os.open(path, flags, 0o644))
        self._held.callback(_close_quietly, file)
        return file

    def file(self, name: str, pages: int) -> VFile:
        """A new file of ``pages`` pages, each filled with its letter."""
        file = self.open(name)
        file.fill(pages)
        return file

    def actor(self, file: VFile | Path, access: Literal["r", "rw"] = "rw") -> Actor:
        """A probe process that opened ``file``; ended at the end of the test."""
        path = file.path if isinstance(file, VFile) else file
        return self._held.enter_context(Actor(self._probe, path, access))

    def number(self, name: str) -> int:
        """A root attribute that is a number of bytes: resident, volatile, purged, budget."""
        return int(os.getxattr(self.path, f"user.vfs_volatile.{name}"))

    def set_root(self, name: str, value: str) -> None:
        os.setxattr(self.path, f"user.vfs_volatile.{name}", value.encode())

    def stats(self) -> dict[str, object]:
        found = json.loads(os.getxattr(self.path, "user.vfs_volatile.stats"))
        assert isinstance(found, dict)
        return found

    @property
    def resident(self) -> int:
        """Bytes of file pages held in memory, by the mount's own account."""
        return self.number("resident")

    def within_budget(self) -> bool:
        """Wait until the purger has brought resident to the budget."""
        budget = self.number("budget")
        return eventually(lambda: self.resident <= budget)

    def busy_seconds(self) -> float:
        """How long the thread that answers requests has run on a processor (trio's, the first)."""
        nanoseconds = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/schedstat")
        return int(nanoseconds.read_text().split()[0]) / 1e9

    # The life of it.

    def rearm(self, deadline: float = DEFAULT_DEADLINE) -> None:
        """Give the mount ``deadline`` seconds from now before the watchdog frees it."""
        daemon, number = self.process.pid, self._connection
        self._watchdog.arm(self.path, daemon, deadline, self._evidence, number)

    def clear(self) -> None:
        """Close what the test opened and delete its files; raises if the mount is unwell."""
        self._held.close()
        if self.process.poll() is not None:
            self.end()
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self._raise_if([*self._watchdog_problems(), *self._stderr_problems()])
        self.rearm(REST)

    def kill(self) -> None:
        """Send SIGKILL; the mount stays, dead, until the test cleans up by ``umount``."""
        self._killed = True
        self.process.kill()
        self.process.wait(timeout=PATIENCE)

    def ended_by_test(self) -> None:
        """The test has ended the daemon itself, and has looked at how it ended."""
        assert self.process.poll() is not None
        self._killed = True

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, once; raises unless it ended well. Leaves nothing mounted in any case."""
        if self._ended:
            return
        self._ended = True
        problems = []
        self.rearm()
        try:
            self._held.close()
            if not self._killed and (problem := self._stop(how)):
                problems.append(problem)
            if is_mounted(self.path):
                problems.append("still mounted at the end")
        finally:
            self._sweep()
        self._raise_if([*problems, *self._watchdog_problems(), *self._stderr_problems()])

    def _stop(self, how: signal.Signals) -> str:
        """Send the signal and wait; returns what is wrong with the outcome, or nothing."""
        died = self.process.poll()
        if died is not None:
            return f"the daemon had ended before, with {died}"
        self.process.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
        code = self.process.returncode
        return "" if code == 0 else f"exit code {code} after {how.name}"

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    def _wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        text = b""
        while b"\n" not in text:
            ready, _, _ = select.select(
                [self.process.stdout], [], [], max(0.0, deadline - time.monotonic())
            )
            chunk = os.read(self.process.stdout.fileno(), 4096) if ready else b""
            if not chunk:
                why = "said nothing" if not ready else "ended"
                raise MountError(f"the daemon {why} instead of 'ready': {text!r} {self.stderr}")
            text += chunk
        if text.decode() != f"ready {self.path}\n":
            raise MountError(f"{text!r} is not 'ready {self.path}'")

    def _sweep(self) -> None:
        """Leave no process and no mount, whatever happened."""
        connection = self._connection or connection_of(self.path)
        if self.process.poll() is None:
            if connection is not None:
                abort(connection)
            self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=PATIENCE)
        detach(self.path)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._watchdog.disarm(self.path)

    def _watchdog_problems(self) -> list[str]:
        if not self._evidence.exists():
            return []
        return [f"the watchdog freed the mount, its time was up:\n{self._evidence.read_text()}"]

    def _stderr_problems(self) -> list[str]:
        text = self.stderr
        if self.declared_stderr or not BAD_WORDS.search(text):
            return []
        return [f"the daemon complained:\n{text}"]

    def _raise_if(self, problems: list[str]) -> None:
        if problems:
            raise MountError("\n".join(problems) + f"\nstderr of the daemon:\n{self.stderr}")


MountFactory = Callable[..., Mount]
"""The ``mount`` fixture: takes the options of Mount."""


def _flag(name: str) -> str:
    return f"-{name}" if len(name) == 1 else f"--{name}"


def _close_quietly(file: VFile) -> None:
    """Close it; a dead mount answers close(2) with an errno, which is no failure of the test."""
    with contextlib.suppress(OSError):
        file.close()
