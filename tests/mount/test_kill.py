"""SIGKILL for the daemon at the worst moments: everybody gets an error, nobody waits for ever."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.errnos import errno_of
from tests.support.mount import ROOT, Mount, MountFactory, run
from tests.support.mountinfo import connection_of, is_mounted
from tests.support.waiting import PATIENCE, eventually

MIB = 1 << 20
DIRTY = 64 * MIB
"""Enough to be caught while it is written back."""
WITHIN_SECONDS = 60.0
"""Without the guardian it were never (until the watchdog); at rest it is half a second."""

CLIENT = """
import mmap, os, sys
from tests.support import fvrange
fd = os.open(sys.argv[1], os.O_RDWR)
memory = mmap.mmap(fd, 0)
while True:
    fvrange.unmark(fd)  # what the last step purged
    fvrange.mark(fd)
    for at in range(0, len(memory), 4096):
        memory[at] = 1
    print("dirty", flush=True)
    sys.stdin.readline()
    {step}
    print("done", flush=True)
"""
STEPS = {
    "purge": "fvrange.purge(fd)",
    "write-back": "fvrange.unmark(fd); memory.flush()",
    "seek": "os.lseek(fd, 0, os.SEEK_DATA)",
}


LINGERING = """
import ctypes, os, pathlib, sys, threading
from vfs_volatile.daemon.guardian import start_guardian
start_guardian(int(sys.argv[1]))
threading.Thread(target=ctypes.CDLL(None).pause).start()
print(pathlib.Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text(), flush=True)
sys.stdin.readline()
ctypes.PyDLL(None).syscall({"x86_64": 60}.get(os.uname().machine, 93), 0)  # exit of a thread
"""
"""The main thread of this process ends, and the process does not."""


def client(mounted: Mount, step: str) -> subprocess.Popen[str]:
    """A process that dirties a mapping, and after each line it is sent takes the step."""
    file = mounted.open("file")
    os.ftruncate(file.fd, DIRTY)
    file.close()
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT.format(step=STEPS[step]), file.path],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def in_write_back(*pids: int) -> bool:
    """Is a thread of these processes waiting in the kernel for a page to be written?"""
    with contextlib.suppress(OSError):  # a thread has ended
        for pid in pids:
            for task in Path(f"/proc/{pid}/task").iterdir():
                if "wait_writeback" in (task / "stack").read_text():
                    return True
    return False


def caught(mounted: Mount, process: subprocess.Popen[str]) -> bool:
    """Stop the daemon while a step of the client waits for write-backs; False if it was over."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "dirty\n"
    print(file=process.stdin, flush=True)
    eventually(lambda: in_write_back(mounted.process.pid, process.pid), 0.5)
    mounted.process.send_signal(signal.SIGSTOP)
    if in_write_back(mounted.process.pid, process.pid):
        return True
    mounted.process.send_signal(signal.SIGCONT)
    assert process.stdout.readline() == "done\n"
    return False


@pytest.mark.parametrize("step", STEPS)
def test_in_the_middle_of_write_backs(mount: MountFactory, step: str) -> None:
    """A thread of the daemon, or of its user, is in a sleep that no signal ends."""
    mounted = mount()
    process = client(mounted, step)
    assert eventually(lambda: caught(mounted, process)), "never in the middle of it"
    begun = time.monotonic()
    mounted.process.kill()
    process.communicate(timeout=PATIENCE)
    mounted.kill()  # waits
    assert time.monotonic() - begun < WITHIN_SECONDS
    assert process.returncode != 0
    assert errno_of(os.listdir, mounted.path) == "ENOTCONN"
    assert run("umount", mounted.path).returncode == 0
    assert not is_mounted(mounted.path)


def test_in_the_middle_of_marks(mount: MountFactory) -> None:
    mounted = mount()
    file = mounted.open("file")
    os.ftruncate(file.fd, MIB)
    orders = ("owner", file.path, 0, 256, 1, PATIENCE)
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.support.worker", *map(str, orders)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert eventually(lambda: mounted.number("volatile"))
    begun = time.monotonic()
    mounted.kill()
    _, complaint = worker.communicate(timeout=PATIENCE)
    assert time.monotonic() - begun < WITHIN_SECONDS
    assert worker.returncode in (1, -signal.SIGBUS), complaint
    assert "LieError" not in complaint
    assert run("umount", mounted.path).returncode == 0


def test_the_guardian_ends_with_a_daemon_that_is_told_to(mount: MountFactory) -> None:
    mounted = mount()
    children = Path(f"/proc/{mounted.process.pid}/task/{mounted.process.pid}/children")
    (guardian,) = map(int, children.read_text().split())
    mounted.end()
    assert eventually(lambda: not Path(f"/proc/{guardian}").exists())


def test_the_guardian_holds_nothing_of_the_daemon(mount: MountFactory) -> None:
    """Its copy of /dev/fuse would keep the mount of a dead daemon from failing."""
    mounted = mount()
    pid = mounted.process.pid
    guardian = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
    files = Path(f"/proc/{guardian}/fd")
    assert eventually(
        lambda: [os.readlink(entry) for entry in files.iterdir()] == ["anon_inode:[pidfd]"]
    )


def test_the_guardian_leaves_a_mount_alone_that_has_the_number_now(mount: MountFactory) -> None:
    """A daemon that has let go of its own and takes long to end is no reason to abort another's."""
    mounted = mount()
    connection = connection_of(mounted.path)
    with subprocess.Popen(
        [sys.executable, "-c", LINGERING, str(connection)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as lingering:  # fmt: skip
        try:
            assert lingering.stdout is not None
            assert lingering.stdin is not None
            guardian = Path(f"/proc/{lingering.stdout.readline().strip()}")
            assert eventually(lambda: "sigtimedwait" in (guardian / "wchan").read_text())
            print(file=lingering.stdin, flush=True)
            ended = guardian / "status"
            assert eventually(lambda: "zombie" in ended.read_text()), "nobody waits for it"
        finally:
            lingering.kill()
    assert os.listdir(mounted.path) == []
