"""The kernel's word on shortages of memory: PSI triggers (linux/Documentation/accounting/psi.rst).

A trigger is an open file: poll(2) says POLLPRI on it, once in a window at most, while tasks stall
for want of memory.
"""

from __future__ import annotations

import errno
import logging
import os
import select
from pathlib import Path

from vfs_volatile.cgroups import unified_cgroup
from vfs_volatile.core.history import Cause
from vfs_volatile.core.relief import is_short
from vfs_volatile.errors import UserError

log = logging.getLogger(__name__)

SYSTEM = Path("/proc/pressure/memory")

_TRIGGER = b"some 150000 2000000\0"
"""Some task stalled for 150 ms within 2 s. Without CAP_SYS_RESOURCE a window must be a multiple of
2 s (linux/kernel/sched/psi.c, psi_trigger_create)."""

_MENDS = {
    errno.ENOENT: "the kernel must have CONFIG_PSI, and psi=1 on its command line if it is off",
    errno.EOPNOTSUPP: "boot with psi=1 on the kernel's command line",
    errno.EPERM: "older kernels allow triggers to root alone",
    errno.EACCES: "run as root, or in a cgroup that you may write to",
    errno.EROFS: "mount it writable, or mount here without --pressure",
}


class Triggers:
    """The triggers of the machine, and of the daemon's cgroup if it is in one.

    They are open until the process ends: a thread may be waiting in them.
    """

    def __init__(self) -> None:
        """Raises UserError if there is no PSI to be had."""
        self._sources: dict[int, Cause] = {}
        """Descriptor -> what its events tell."""
        self._poll = select.poll()
        failed = []
        for cause, path in _places():
            try:
                self._add(cause, path)
            except OSError as error:
                mend = _MENDS.get(error.errno or 0, "mount without --pressure")
                failed.append(f"--pressure: {path}: {error.strerror}; {mend}")
                log.info(failed[-1])
        if not self._sources:
            raise UserError(failed[0])

    @property
    def watched(self) -> list[str]:
        """Whose shortages are told: the system's, the cgroup's."""
        return [cause.removeprefix("pressure-") for cause in self._sources.values()]

    def wait(self) -> set[Cause]:
        """Block until memory runs short; where. Empty if a source has gone with its cgroup."""
        short = set()
        for fd, events in self._poll.poll():
            if events & (select.POLLERR | select.POLLNVAL):
                self._poll.unregister(fd)
                del self._sources[fd]
                os.close(fd)
            else:
                short.add(self._sources[fd])
        return short

    def _add(self, cause: Cause, path: Path) -> None:
        """Raises OSError."""
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(fd, _TRIGGER)
        except OSError:
            os.close(fd)
            raise
        self._sources[fd] = cause
        self._poll.register(fd, select.POLLPRI)


def memory_is_short() -> bool:
    """Is the machine itself short of memory, by /proc/meminfo? Raises OSError."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    sizes = {words[0]: int(words[1]) for words in lines}
    return is_short(sizes["MemFree:"], sizes["MemTotal:"])


def _places() -> list[tuple[Cause, Path]]:
    """Where the kernel tells of shortages that concern us."""
    cgroup = unified_cgroup()
    places = [(Cause.SYSTEM, SYSTEM)]
    if cgroup is not None:
        places.append((Cause.CGROUP, cgroup / "memory.pressure"))
    return places
