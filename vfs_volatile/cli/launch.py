"""Start the daemon in the background and wait until its mount answers, within limits of time."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import vfs_volatile
from vfs_volatile.errors import UserError
from vfs_volatile.mountinfo import FSTYPE, find_mount

T = TypeVar("T")

START_LIMIT = 60.0
"""Seconds for the daemon to say that it is ready."""
ANSWER_LIMIT = 10.0
"""Seconds for a mount to answer one call."""

READY = "ready "
"""How the daemon's line on stdout begins once it serves."""

ERROR = "vfs-volatile: "
"""How the one line begins that says why a command failed."""


def start_daemon(arguments: list[str], mountpoint: str) -> None:
    """Run ``vfs-volatile ARGUMENTS`` detached; return once the mount answers.

    Raises UserError with the daemon's own words if it fails; it is ended then.
    """
    reader, writer = os.pipe()
    try:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "vfs_volatile", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            cwd="/",  # keeps no directory busy, and no module there is taken for one of ours
            env=_environment(),
            start_new_session=True,  # Ctrl-C and the end of the terminal are not meant for it
        )
        os.close(writer)
        try:
            _wait_until_ready(reader)
            _check_answers(mountpoint)
        except BaseException:
            _end(daemon)
            raise
    finally:
        os.close(reader)


def within(seconds: float, call: Callable[[], T]) -> T:
    """The result of ``call``, which may hang in the kernel. Raises its OSError, or TimeoutError."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except OSError as error:
            answer.set_exception(error)

    # A daemon thread: a call that hangs must not keep the interpreter from ending.
    threading.Thread(target=run, daemon=True).start()
    return answer.result(seconds)


def detach_output() -> None:
    """In the daemon: let go of the pipe to the command that started it."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(null, stream.fileno())
    os.close(null)


def _environment() -> dict[str, str]:
    """Ours, with this package importable from any directory: it may be run from its source tree."""
    paths = [str(Path(vfs_volatile.__file__).parents[1])]
    if inherited := os.environ.get("PYTHONPATH"):
        paths.append(inherited)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _end(daemon: subprocess.Popen[bytes]) -> None:
    """Have the daemon unmount and end, or end it."""
    daemon.terminate()
    try:
        daemon.wait(ANSWER_LIMIT)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _wait_until_ready(output: int) -> None:
    """Read the daemon's output until its ready line. Raises UserError."""
    deadline = time.monotonic() + START_LIMIT
    text = b""
    while not any(line.startswith(READY.encode()) for line in text.split(b"\n")[:-1]):
        readable, _, _ = select.select([output], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            raise UserError(
                f"the daemon was not ready within {START_LIMIT:.0f} s; run with -f to see why"
            )
        chunk = os.read(output, 65536)
        if not chunk:
            raise UserError(_last_words(os.fsdecode(text)))
        text += chunk


def _last_words(output: str) -> str:
    """Why the daemon ended, on one line: its own error, and what else it said (libfuse, Python)."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    others = [line for line in lines if not line.startswith(ERROR)]
    error = errors[-1] if errors else "the daemon ended before it was ready; run with -f to see why"
    cause, _, mend = error.partition("; ")
    return f"{cause} ({others[-1]}); {mend}" if others else error


def _check_answers(mountpoint: str) -> None:
    """Raise UserError unless the mount is there and answers."""
    mount = find_mount(mountpoint)
    if mount is None or mount.fstype != FSTYPE:
        raise UserError(f"{mountpoint} is not mounted although the daemon runs; try again")
    try:
        within(ANSWER_LIMIT, lambda: os.statvfs(mountpoint))
    except OSError as error:  # TimeoutError included
        raise UserError(
            f"the mount does not answer ({error.strerror or 'timeout'}); run with -f to see why"
        ) from None
