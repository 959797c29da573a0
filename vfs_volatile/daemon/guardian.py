"""A process beside the daemon that frees everybody when the daemon is killed and cannot end.

A thread of the daemon that makes the kernel drop pages waits there for write-backs, in a sleep that
no signal ends. Killed in that moment, the daemon never answers them, the thread never leaves, and
as long as it is inside, the kernel keeps the connection (linux/fs/fuse/dev.c: it is aborted when
the last user of its file has gone): everybody who waits for the mount would wait for ever. So
somebody else has to abort it. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
from pathlib import Path

_SYSFS = Path("/sys")
_CONNECTIONS = _SYSFS / "fs/fuse/connections"
"""fusectl (Documentation/filesystems/fuse/fuse.rst); the user who mounted may write there."""

_END_SECONDS = 0.25
"""What a killed daemon needs to be gone at most, unless it is stuck."""

_PARENT_ENDED = signal.SIGUSR1
_PR_SET_PDEATHSIG = 1


def start_guardian(connection: int) -> None:
    """Start it, for the connection of that number (the minor number of the mount's device).

    Call this on the main thread: the guardian wakes when that thread ends.
    """
    daemon = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {_PARENT_ENDED})
    try:
        if os.fork() == 0:
            try:
                _guard(daemon, connection)
            finally:
                os._exit(0)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {_PARENT_ENDED})


def _guard(daemon: int, connection: int) -> None:
    # First of all: a copy of the connection's file would keep it open itself.
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))
    # Ctrl-C and the like are meant for the daemon.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    process = os.pidfd_open(daemon)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _PARENT_ENDED)
    if os.getppid() == daemon:
        signal.sigwait({_PARENT_ENDED})
    # One that only takes long to end has let go: the number may be another mount's by now.
    if not select.select([process], [], [], _END_SECONDS)[0] and _holds_device(daemon):
        abort(connection)


def _holds_device(pid: int) -> bool:
    """Does a thread of process ``pid``, which is ending, still have /dev/fuse open?"""
    found = False
    with contextlib.suppress(OSError):  # it ends meanwhile
        for thread in os.listdir(f"/proc/{pid}/task"):
            files = f"/proc/{pid}/task/{thread}/fd"
            with contextlib.suppress(OSError):
                links = [os.readlink(f"{files}/{name}") for name in os.listdir(files)]
                found = found or any(link.endswith("/fuse") for link in links)
    return found


def abort(connection: int) -> None:
    """Fail all requests of a connection, now and ever.

    Where fusectl is not mounted, root mounts it for this one write, in a namespace of its own.
    """
    switch = _CONNECTIONS / str(connection) / "abort"
    with contextlib.suppress(OSError):  # also: it has ended meanwhile
        if switch.exists():
            switch.write_text("1")
        elif os.geteuid() == 0:
            # Not all is made private: in a chroot the root need not be a mount point.
            steps = (
                f"mount --make-private {_SYSFS}",
                f"mount -t fusectl fusectl {_CONNECTIONS}",
                f"echo 1 >{switch}",
            )
            subprocess.run(
                ["unshare", "--mount", "--propagation=unchanged", "sh", "-c", " && ".join(steps)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=10,
                check=False,
            )
