"""A mount of an ordinary user, who has no privilege: made through fusermount3."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.mount import ROOT
from tests.support.mountinfo import is_mounted
from tests.support.waiting import PATIENCE

PR_SET_DUMPABLE = 4
NOBODY = pwd.getpwnam("nobody").pw_uid
"""fusermount3 wants to know the name of who mounts."""
MOUNT = """
import sys
from tests.support.ordinary_user import become_nobody
from vfs_volatile.cli import launch, main, unmounting
from vfs_volatile.daemon import logs, server
options = ["--foreground", "--budget=64M", "--size=64M", "--semantics=kim"]
main(["mount", "no such directory", *options])
become_nobody()
sys.exit(main(["mount", sys.argv[1], *options]))
"""
"""Loads all before it becomes a user: the interpreter may lie in a directory of root's."""


def become_nobody() -> None:
    """As a program that an ordinary user has started: /proc shows it to its user."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1)


@contextlib.contextmanager
def mount_of_a_user() -> Iterator[tuple[Path, int]]:
    """Where it is, and its daemon. /dev/fuse is open to all meanwhile, as on most machines."""
    device = Path("/dev/fuse")
    before = stat.S_IMODE(device.stat().st_mode)
    directory = Path("/tmp") / f"vfs-volatile-of-a-user-{os.getpid()}"
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    device.chmod(0o666)
    daemon = subprocess.Popen(
        [sys.executable, "-c", MOUNT, directory],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == f"ready {directory}\n"
        yield directory, daemon.pid
        daemon.terminate()
        assert daemon.wait(timeout=PATIENCE) == 0
        assert not is_mounted(directory)
    finally:
        device.chmod(before)
        if daemon.stdout is not None:
            daemon.stdout.close()
        if daemon.poll() is None:
            daemon.kill()
            daemon.wait(timeout=PATIENCE)
        if is_mounted(directory):
            subprocess.run(["umount", "-l", directory], check=False, timeout=PATIENCE)
        directory.rmdir()
