"""The daemon at limits of the system: descriptors and threads."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from tests.parity.sides import attempt, in_child
from tests.support import fvrange as calls
from tests.support.errnos import errno_of
from tests.support.fvrange import PAGE
from tests.support.mount import ROOT, MountFactory, command
from tests.support.mountinfo import is_mounted
from tests.support.ordinary_user import become_nobody, mount_of_a_user
from tests.support.voter import Stage
from tests.support.waiting import PATIENCE, eventually
from vfs_volatile import VRANGE_NONVOLATILE, VRANGE_VOLATILE, fvrange

DESCRIPTORS = 64
FILES = 3 * DESCRIPTORS
GIB = 1 << 30
FEW_SECONDS = 30


@pytest.mark.parametrize("options", [{}, {"access": "zero"}], ids=["cached", "passthrough"])
def test_few_descriptors(mount: MountFactory, options: dict[str, str]) -> None:
    """Many more files are held open than it may have descriptors: what needs one is refused or done
    without, is told in the log, and works when there are some again.
    """
    mounted = mount(**options)
    mounted.declared_stderr = True
    hard = resource.prlimit(mounted.process.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(mounted.process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    refused = 0
    files = []
    for number in range(FILES):
        try:
            files.append(mounted.file(f"file{number}", 1))
        except OSError as error:
            assert error.errno == errno.ENOMEM
            refused += 1
    assert len(files) + refused == FILES
    for file in files:
        fvrange(file.fd, 0, 0, VRANGE_VOLATILE)
    resource.prlimit(mounted.process.pid, resource.RLIMIT_NOFILE, (3, hard))
    assert errno_of(mounted.set_root, "purge", "all") == "ENOMEM"
    said = r"the system refused: Too many open files \(.*\); raise ulimit -n, or LimitNOFILE"
    assert eventually(lambda: re.search(said, mounted.stderr))
    resource.prlimit(mounted.process.pid, resource.RLIMIT_NOFILE, (hard, hard))
    assert all(file.reads() == "a" for file in files)
    mounted.set_root("purge", "all")
    assert {fvrange(file.fd, 0, 0, VRANGE_NONVOLATILE) for file in files} == {PAGE}
    mounted.file("again", 2)


def test_voters_without_descriptors(mount: MountFactory) -> None:
    """They fork, run other programs and end while nobody can be looked at: no vote is counted
    then, nothing is purged, and later all is known.
    """
    mounted = mount(semantics="kim")
    mounted.declared_stderr = True
    file = mounted.file("file", 2)
    stage = Stage(mounted.path.parent)
    try:
        parent, gone = (stage.voter().map(file) for _ in range(2))
        parent.hold(0, 1)
        gone.hold(1, 1)
        hard = resource.prlimit(mounted.process.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(mounted.process.pid, resource.RLIMIT_NOFILE, (3, hard))
        child = parent.fork()
        gone.exec()
        parent.exit()
        assert errno_of(child.agree) == "ENOMEM"
        assert errno_of(file.purge) == "ENOMEM"
        assert eventually(lambda: "following processes failed" in mounted.stderr)
        resource.prlimit(mounted.process.pid, resource.RLIMIT_NOFILE, (hard, hard))
        child.unmap()
        file.mark()
        assert file.purge() == PAGE, "the child holds what its parent held"
        assert file.reads() == "aX"
        child.exit()
        assert file.purge() == 2 * PAGE
    finally:
        stage.close()


def no_threads() -> None:
    """The stack of a thread would be larger than all that the process may have."""
    resource.setrlimit(resource.RLIMIT_STACK, (64 * GIB, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_AS, (4 * GIB, 4 * GIB))


@pytest.mark.parametrize("foreground", [[], ["-f"]])
def test_without_threads_there_is_no_mount(tmp_path: Path, foreground: list[str]) -> None:
    done = subprocess.run(
        command("mount", tmp_path, *foreground), cwd=ROOT, capture_output=True, text=True,
        timeout=PATIENCE, check=False, preexec_fn=no_threads,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("vfs-volatile: no thread can be started; see the limits")
    assert done.stderr.count("\n") == 1
    assert not is_mounted(tmp_path)


def made(path: Path) -> int:
    """Four pages, all volatile."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"x" * 4 * PAGE, 0)
    calls.mark(fd)
    return fd


def use_without_threads(here: Path, daemon: int) -> list[object]:
    """All that purges, each of a file of its own."""
    become_nobody()
    resource.prlimit(daemon, resource.RLIMIT_NPROC, (1, 1))  # less than it has already
    signal.alarm(FEW_SECONDS)  # the end of who waits without end
    seen: list[object] = []
    for held in (False, True):
        for way in ("alone", "all", "budget"):
            path = here / f"{way} {held}"
            fd = made(path)
            if not held:
                os.close(fd)
            if way == "alone":
                os.setxattr(path, "user.fvrange.purge", b"all")
            elif way == "all":
                os.setxattr(here, "user.vfs_volatile.purge", b"all")
            else:
                os.setxattr(here, "user.vfs_volatile.budget", b"0")
                assert eventually(lambda: os.getxattr(here, "user.vfs_volatile.resident") == b"0")
                os.setxattr(here, "user.vfs_volatile.budget", b"64M")
            if not held:
                fd = os.open(path, os.O_RDWR)
            seen.append((attempt(os.pread, fd, 1, 0), calls.unmark(fd), os.pread(fd, 1, 0)))
    return seen


def test_a_purge_needs_no_new_thread(tmp_path: Path) -> None:
    """Of a user who may have no more."""
    with mount_of_a_user() as (directory, daemon):
        seen = in_child(lambda: use_without_threads(directory, daemon))
    assert seen == [("ENODATA", 4 * PAGE, b"\0")] * 6
