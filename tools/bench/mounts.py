"""Mounts to measure: ours, started as a user starts it, and a tmpfs. Always unmounted."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vfs_volatile.mountinfo import find_mount

_START_SECONDS = 20.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.001


class VolatileMount:
    """A running mount of ours."""

    def __init__(self, path: Path, pid: int) -> None:
        self.path = path
        self.pid = pid
        """Of the daemon."""

    def number(self, name: str) -> int:
        """An attribute of the root that is a number of bytes."""
        return int(os.getxattr(self.path, f"user.vfs_volatile.{name}"))

    def set_budget(self, size_bytes: int) -> None:
        os.setxattr(self.path, "user.vfs_volatile.budget", str(size_bytes).encode())

    def highest_resident(self) -> int:
        """Bytes, since the mount was made."""
        return self._statistic("highest_resident")

    def milliseconds_looking(self) -> int:
        """What all looks at the processes have taken so far."""
        return int(
            json.loads(os.getxattr(self.path, "user.vfs_volatile.stats"))["looks_milliseconds"]
        )

    def wait_resident(self, at_most: int, seconds: float) -> float:
        """Poll until no more bytes are resident; the longest of the answers, in seconds."""
        deadline = time.monotonic() + seconds
        longest = 0.0
        while True:
            asked = time.perf_counter()
            resident = self.number("resident")
            longest = max(longest, time.perf_counter() - asked)
            if resident <= at_most:
                return longest
            if time.monotonic() > deadline:
                raise TimeoutError(f"{resident} bytes are resident after {seconds} s")
            time.sleep(_POLL_SECONDS)  # the pause of a poll

    def _statistic(self, name: str) -> int:
        return int(json.loads(os.getxattr(self.path, "user.vfs_volatile.stats"))[name])


@contextmanager
def volatile_mount(
    work: Path, seconds: float, name: str = "volatile", **options: str
) -> Iterator[VolatileMount]:
    """Mount below ``work`` with ``--name value`` for each option (a flag has the value ""); freed
    after ``seconds``.

    Freed means that whoever is stuck in the mount gets ENOTCONN and goes on.
    """
    path = work / name
    path.mkdir()
    arguments = [part for key, value in options.items() for part in (f"--{key}", value) if part]
    daemon = subprocess.Popen(
        [sys.executable, "-m", "vfs_volatile", "mount", str(path), "-f", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    limit = threading.Timer(seconds, _free, (path, daemon))
    limit.daemon = True
    limit.start()
    try:
        _wait_until_ready(daemon)
        yield VolatileMount(path, daemon.pid)
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(_STOP_SECONDS)
    finally:
        limit.cancel()
        _free(path, daemon)
        path.rmdir()


@contextmanager
def tmpfs_mount(work: Path, size_bytes: int) -> Iterator[Path]:
    """A tmpfs of that size below ``work``."""
    path = work / "tmpfs"
    path.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path))
    try:
        yield path
    finally:
        _run("umount", "-l", str(path))
        path.rmdir()


def _wait_until_ready(daemon: subprocess.Popen[bytes]) -> None:
    assert daemon.stdout is not None
    ready, _, _ = select.select([daemon.stdout], [], [], _START_SECONDS)
    if not ready or not daemon.stdout.readline().startswith(b"ready "):
        raise RuntimeError("the mount did not start; see the lines above")


def _free(path: Path, daemon: subprocess.Popen[bytes]) -> None:
    """Leave neither daemon nor mount. The mount itself is not touched: it may hang."""
    mount = find_mount(os.path.realpath(path))
    if mount is not None:
        with contextlib.suppress(OSError):
            Path(f"/sys/fs/fuse/connections/{mount.device[1]}/abort").write_text("1")
        _run("umount", "-l", str(path))
    daemon.kill()
    daemon.wait(_STOP_SECONDS)
    if daemon.stdout is not None:
        daemon.stdout.close()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=30)
