"""Requests that follow each other at once keep nothing else in the daemon from running."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mount import LONG_DEADLINE, ROOT, Mount, MountFactory
from tests.support.waiting import PATIENCE, eventually

STREAM = """
import os, sys
from vfs_volatile import fvrange
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 4096)
print("begun", flush=True)
try:
    while True:
        fvrange(fd, 0, 4096, 1)
        fvrange(fd, 0, 4096, 0)
except OSError as error:
    print(error.errno)
"""


@contextmanager
def streams(mounted: Mount) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that do nothing but mark and unmark, while the body runs."""
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", STREAM, mounted.path / f"stream{number}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    try:
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "begun\n"
        yield clients
    finally:
        for client in clients:
            client.kill()
            client.communicate(timeout=PATIENCE)


def seconds_used(pid: int) -> float:
    """Of the processors, by all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_purger_runs_beside_them(mount: MountFactory) -> None:
    mounted = mount(budget="1M", deadline=LONG_DEADLINE)
    file = mounted.file("file", 64)
    file.mark()
    poll = select.poll()
    poll.register(file.fd, select.POLLPRI)
    assert poll.poll(0) == []
    with streams(mounted):
        mounted.set_root("budget", "0")
        assert poll.poll(PATIENCE * 1000) != [], "the budget is to be kept"
        assert eventually(lambda: mounted.number("resident") == 0)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_mount_under_them(mount: MountFactory, how: signal.Signals) -> None:
    mounted = mount(deadline=LONG_DEADLINE)
    with streams(mounted) as clients:
        mounted.process.send_signal(how)
        assert mounted.process.wait(timeout=PATIENCE) == 0
        said = [client.communicate(timeout=PATIENCE)[0] for client in clients]
    assert all(said), "each is told that the mount has gone"
    mounted.ended_by_test()


def test_umount_ends_the_daemon_under_them(mount: MountFactory) -> None:
    mounted = mount(deadline=LONG_DEADLINE)
    with streams(mounted):
        subprocess.run(["umount", "-l", mounted.path], check=True, timeout=PATIENCE)
    assert mounted.process.wait(timeout=PATIENCE) == 0
    mounted.ended_by_test()


def test_afterwards_the_daemon_rests(mount: MountFactory) -> None:
    """It waits for a next request in the kernel, a moment long, and uses no processor for that."""
    mounted = mount(deadline=LONG_DEADLINE)
    with streams(mounted) as clients:
        assert eventually(lambda: seconds_used(mounted.process.pid) > 0.5)
        assert [client.poll() for client in clients] == [None] * 3

    def rests_for_a_second() -> bool:
        """Not at once: it may have to take in that the clients have gone."""
        used = seconds_used(mounted.process.pid)
        with select.epoll() as nothing:
            nothing.poll(1.0)  # for which it has nothing to do
        return seconds_used(mounted.process.pid) - used < 0.3

    assert eventually(rests_for_a_second)
