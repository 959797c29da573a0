"""A process that frees a mount when its time is up, or when whoever uses it has died.

It must be a process: a fault in a mount that hangs stops every thread that needs the interpreter.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from vfs_volatile.trial.modules import run_module
from vfs_volatile.trial.mounting import TemporaryMount, free

_CANCELLED = b"."
_EXPIRED = b"expired\n"
_GRACE_SECONDS = 5.0
"""For a daemon whose parent has died: it has been told, and unmounts."""


class Deadline:
    """The deadline of a :class:`TemporaryMount`, for the time of a ``with``."""

    def __init__(self, mount: TemporaryMount, seconds: float) -> None:
        """``seconds`` from now all that waits for the mount is let go, and its daemon ended."""
        self.expired = False
        """Whether it came to that; known after the ``with``."""
        self._process = run_module(
            __name__,
            *(str(mount.directory), str(mount.pid), str(seconds)),
            stdin=subprocess.PIPE,
            stderr=None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        said, _ = self._process.communicate(_CANCELLED)
        self.expired = said == _EXPIRED


def _watch(directory: str, daemon: int, seconds: float) -> None:
    process = os.pidfd_open(daemon)
    if select.select([sys.stdin], [], [], seconds)[0]:
        if os.read(sys.stdin.fileno(), 1) == _CANCELLED:
            return
        if select.select([process], [], [], _GRACE_SECONDS)[0]:
            return
    else:
        os.write(sys.stdout.fileno(), _EXPIRED)
    signal.pidfd_send_signal(process, signal.SIGKILL)
    free(Path(directory))


if __name__ == "__main__":
    _watch(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
