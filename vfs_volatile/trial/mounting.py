"""A mount for the time of a ``with``: made, watched and unmounted from outside.

Nothing here touches a file of the mount, so nothing here can hang in it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from vfs_volatile.errors import UserError
from vfs_volatile.mountinfo import find_mount
from vfs_volatile.trial.leash import end_with_parent
from vfs_volatile.trial.modules import how_it_ended, run_module

_START_SECONDS = 60.0
_END_SECONDS = 10.0
_READY = b"ready "
_ERROR = "vfs-volatile: "


class TemporaryMount:
    """``vfs-volatile mount DIR -f`` as a child process that ends with us.

    It starts when it is made, and serves when :meth:`wait_until_ready` returns.
    """

    def __init__(self, directory: Path, log: Path, options: Sequence[str]) -> None:
        """Mount at the empty ``directory``; ``log`` gets the daemon's stderr."""
        self.directory = directory
        self._log = log
        with log.open("wb") as stderr:
            self._daemon = run_module(
                "vfs_volatile",
                *("mount", str(directory), "-f", *options),
                stderr=stderr,
                preexec_fn=lambda: end_with_parent(signal.SIGTERM),  # it unmounts then
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    @property
    def pid(self) -> int:
        """The daemon's."""
        return self._daemon.pid

    def abort(self) -> None:
        """End all that waits for an answer of the mount."""
        _abort(self.directory)

    def kill(self) -> None:
        """Kill the daemon: all that waits for an answer gets an error."""
        self._daemon.kill()
        self._daemon.wait()

    def check(self, grace: float = 0.0) -> None:
        """Raise UserError if the daemon has ended, or does within ``grace`` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._daemon.wait(grace)
            raise UserError(
                f"the daemon of the mount {how_it_ended(code)}"
                f" ({self.last_words() or 'it gave no reason'});"
                " run it again, and report it if it happens again"
            )

    def last_words(self) -> str:
        """The daemon's own one line that says why it ended, or the last of whatever it said."""
        lines = self._log.read_text(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        own = [line.removeprefix(_ERROR) for line in said if line.startswith(_ERROR)]
        return (own or said or [""])[-1]

    def wait_until_ready(self) -> None:
        """Return when the mount serves. Raises UserError with the daemon's own words."""
        output = self._daemon.stdout
        assert output is not None
        deadline = time.monotonic() + _START_SECONDS
        said = b""
        while not (said.startswith(_READY) and said.endswith(b"\n")):
            left = max(0.0, deadline - time.monotonic())
            if not select.select([output], [], [], left)[0]:
                raise UserError(
                    f"the mount was not ready within {_START_SECONDS:.0f} s; is the machine busy?"
                )
            chunk = os.read(output.fileno(), 4096)
            if not chunk:
                raise UserError(self.last_words() or "the daemon ended without a word")
            said += chunk

    def _end(self) -> None:
        """Have the daemon unmount and end; free the mount by force if it does not."""
        self._daemon.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._daemon.wait(_END_SECONDS)
        mountpoint = str(self.directory)
        if self._daemon.returncode is None or find_mount(mountpoint):
            self.abort()
            self.kill()
            free(self.directory)
        if self._daemon.stdout is not None:
            self._daemon.stdout.close()
        if find_mount(mountpoint):
            raise UserError(f"{mountpoint} could not be unmounted; try: umount -l {mountpoint}")


def free(directory: Path) -> None:
    """Let go all that waits for the mount at ``directory``, and take it out, whoever uses it."""
    _abort(directory)
    if find_mount(str(directory)):
        _unmount_lazily(str(directory))


def _abort(directory: Path) -> None:
    """Let no request of a mount wait any more (linux/Documentation/filesystems/fuse)."""
    mount = find_mount(str(directory))
    if mount is not None:
        with contextlib.suppress(OSError):
            Path(f"/sys/fs/fuse/connections/{mount.device[1]}/abort").write_text("1")


def _unmount_lazily(mountpoint: str) -> None:
    command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [*command, mountpoint], capture_output=True, check=False, timeout=_END_SECONDS
        )
