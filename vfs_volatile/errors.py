"""The exceptions of this package.

::

    VolatileError               never raised itself
    +-- SyscallError            a request the kernel must answer with an errno
    +-- PurgedError             data were asked for that the mount has dropped (an OSError, too)
    +-- CacheFormatError        a file that is no VolatileCache, or not one of ours (a ValueError)
    +-- UserError               a command that cannot be done; its text is one line: cause; mend
        +-- UsageError          a command that makes no sense as given
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Sequence
from errno import EAGAIN, EIO, EMFILE, ENFILE, ENODATA, ENOMEM, ENOSPC
from typing import Self


class VolatileError(Exception):
    """Base class of everything raised here on purpose."""


class SyscallError(VolatileError):
    """A file system request fails with ``errno``; nothing was changed."""

    def __init__(self, errno: int) -> None:
        super().__init__(os.strerror(errno))
        self.errno = errno


class PurgedError(VolatileError, OSError):
    """Data that were asked for have been purged; ``errno`` is ENODATA."""

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        lost = sum(length for _, length in ranges)
        OSError.__init__(self, ENODATA, f"{lost} bytes in {len(ranges)} ranges were purged")
        self.ranges = list(ranges)
        """(start, length) in bytes of the file."""

    def __reduce__(self) -> tuple[type[Self], tuple[list[tuple[int, int]]]]:
        return type(self), (self.ranges,)


class CacheFormatError(VolatileError, ValueError):
    """The file is not, or no longer, one that this version of VolatileCache can use."""


class UserError(VolatileError):
    """A command fails for a reason its user can mend; the text says how."""

    exit_code = 1


class UsageError(UserError):
    """The command line itself is wrong."""

    exit_code = 2


REFUSALS = (OSError, MemoryError)
"""What calls raise when the system refuses something."""


MENDS = {
    EAGAIN: "raise ulimit -u, or TasksMax of the unit",
    EMFILE: "raise ulimit -n, or LimitNOFILE of the unit",
    ENFILE: "raise the sysctl fs.file-max",
    ENOMEM: "raise ulimit -v, or MemoryMax of the unit, or give the machine more",
}
"""What helps when the system refuses something with such an errno."""


def refusal(error: BaseException) -> int | None:
    """What to tell a caller for whom the system refused the daemon something; None for a bug.

    ENOSPC and ENOMEM are told as they are. Descriptors and threads that run out are the daemon's,
    so to a caller they are memory too; all else is EIO.
    """
    if isinstance(error, MemoryError):
        return ENOMEM
    if not isinstance(error, OSError) or not error.errno:
        return None
    if error.errno in (ENOMEM, EMFILE, ENFILE, EAGAIN):
        return ENOMEM
    return ENOSPC if error.errno == ENOSPC else EIO


def refusal_text(error: BaseException) -> str:
    """The same in a line for the log: what was refused, where it was asked for, and the mend."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    number = error.errno if isinstance(error, OSError) else ENOMEM
    mend = f"; {MENDS[number]}" if number in MENDS else ""
    return f"the system refused: {refusal_reason(error)}{at}{mend}"


def log_failure(log: logging.Logger, what: str, error: Exception) -> None:
    """Say that ``what`` failed, which nobody waits for: a refusal in a line, a bug in full."""
    if refusal(error) is None:
        log.error("%s failed", what, exc_info=error)
    else:
        log.warning("%s failed: %s", what, refusal_text(error))


class Seldom:
    """What clients can cause as often as they like is said every ten seconds at most."""

    _SECONDS = 10.0

    def __init__(self) -> None:
        self._said: dict[str, float] = {}
        """Reason -> when it was said last (time.monotonic)."""

    def is_due(self, reason: str) -> bool:
        """Is something to be said for this reason now? Then it has been."""
        now = time.monotonic()
        if now - self._said.get(reason, -self._SECONDS) < self._SECONDS:
            return False
        self._said[reason] = now
        return True


def refusal_reason(error: BaseException) -> str:
    """The words of its errno."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return os.strerror(ENOMEM)
