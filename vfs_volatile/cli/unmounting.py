"""Unmount a live or dead mount and see its daemon gone, within limits of time."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import subprocess
import time

from vfs_volatile.abi import xattrs
from vfs_volatile.cli.launch import ANSWER_LIMIT, within
from vfs_volatile.errors import UserError
from vfs_volatile.mountinfo import FSTYPE, find_mount

_BUSY_LIMIT = 0.5
"""Seconds for those to finish who are only looking at the mount, as whoever watches it does."""
END_LIMIT = 10.0
"""Seconds for the daemon to end after its mount has gone."""


def unmount(directory: str) -> None:
    """Unmount ``directory`` and wait for its daemon. Raises UserError."""
    mountpoint = os.path.realpath(directory)
    mount = find_mount(mountpoint)
    if mount is None or mount.fstype != FSTYPE:
        raise UserError(
            f"{directory} is not a vfs-volatile mount; see those there are with:"
            f" findmnt -t {FSTYPE}"
        )
    daemon = _open_daemon(mountpoint)
    _run_umount(directory, mountpoint, dead=daemon is None and _is_dead(mountpoint))
    if daemon is None:
        return
    try:
        if not select.select([daemon], [], [], END_LIMIT)[0]:
            raise UserError(
                f"{directory} is unmounted, but its daemon still runs after {END_LIMIT:.0f} s;"
                " a process may hold a file in it open, end that first"
            )
    finally:
        os.close(daemon)


def end_in_unmounting(mountpoint: str) -> None:
    """Take out a dead mount, as the last thing this process does: it may not start another."""
    program = "fusermount3"
    with contextlib.suppress(OSError):
        os.execvp(program, [program, "-u", "-z", "-q", "--", mountpoint])


def _open_daemon(mountpoint: str) -> int | None:
    """A pidfd of the process that serves the mount; readable once it has ended. None: no such."""
    try:
        stats = within(ANSWER_LIMIT, lambda: os.getxattr(mountpoint, xattrs.STATS))
        return os.pidfd_open(json.loads(stats)["pid"])
    except OSError:  # dead, hung (TimeoutError), or in another pid namespace
        return None


def _is_dead(mountpoint: str) -> bool:
    """Has the daemon of the mount gone?"""
    try:
        within(ANSWER_LIMIT, lambda: os.statvfs(mountpoint))
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def _run_umount(directory: str, mountpoint: str, *, dead: bool) -> None:
    """Have the mount taken out by the program that may do so. Raises UserError.

    A dead one goes even if files in it are open: nothing can be done with them but close them.
    """
    command = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    if dead:
        command.append("-l" if command[0] == "umount" else "-z")
    deadline = time.monotonic() + _BUSY_LIMIT
    done = _run([*command, mountpoint])
    while "busy" in done.stderr and time.monotonic() < deadline:
        time.sleep(_BUSY_LIMIT / 10)
        done = _run([*command, mountpoint])
    if done.returncode == 0:
        return
    if "busy" in done.stderr:
        raise UserError(
            f"{directory} is busy: files in it are open or a shell stands in it; close them"
            f" (fuser -vm {directory} lists the processes)"
        )
    said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
    raise UserError(f"{directory}: {said}; unmount it as the user who mounted it, or as root")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """What became of ``umount`` or ``fusermount3``, and what it said. Raises UserError."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},  # its words are read
            check=False,
        )
    except FileNotFoundError:
        package = "util-linux" if command[0] == "umount" else "fuse3"
        raise UserError(
            f"{command[0]} is missing; install it with: apt install {package}"
        ) from None
