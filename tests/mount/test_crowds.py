"""Ten thousand open files, and clients that do all at once to them until they are killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.fvrange import PAGE
from tests.support.holdings import holdings, rss
from tests.support.mount import LONG_DEADLINE, ROOT, Mount, MountFactory
from tests.support.waiting import PATIENCE, eventually

CLIENTS = 4
FILES = 2500
"""Each has them all open."""
CALLS = 200
CROWDS = 4
"""After the first, which fills what has a bound: the journal, and what libc keeps for the next."""
LEFT_BYTES = 600 * FILES * CROWDS
"""More than after the first crowd: half of what a deleted file would leave if it were kept."""


@contextlib.contextmanager
def clients(mounted: Mount, seed: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Killed at the end, whatever they are doing."""
    orders = (str(mounted.path), str(FILES))
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.hostile", *orders, str(number), str(CALLS)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        for number in range(seed, seed + CLIENTS)
    ]
    try:
        yield running
    finally:
        for client in running:
            client.kill()
        for client in running:
            client.communicate(timeout=PATIENCE)


def play(mounted: Mount, seed: int) -> None:
    with clients(mounted, seed) as running:
        for client in running:
            assert client.stdout is not None
            assert client.stdout.readline() == b"done\n"
        file = mounted.open("own")
        file.fill(3)
        file.mark()
        assert file.unmark() in range(0, 3 * PAGE + 1, PAGE), "others are served"
    file.close()
    for number in range(FILES):
        os.unlink(mounted.path / f"f{number}")
    file.path.unlink()


@pytest.mark.parametrize("access", ["sigbus", "zero"])
def test_hostile_clients_leave_nothing_behind(mount: MountFactory, access: str) -> None:
    """No descriptor, no task, no page, and hardly memory."""
    mounted = mount(deadline=LONG_DEADLINE, budget="8M", access=access)
    file = mounted.file("first", 4)
    file.mark()
    file.purge()
    file.close()
    before = holdings(mounted)
    file.path.unlink()
    play(mounted, 0)
    assert is_empty(mounted)
    memory = rss(mounted)
    for crowd in range(1, 1 + CROWDS):
        play(mounted, crowd * CLIENTS)
        assert is_empty(mounted)
    assert eventually(lambda: rss(mounted) < memory + LEFT_BYTES)
    # One more: a pipe of libfuse, for large answers.
    assert eventually(lambda: holdings(mounted)["fd"] <= before["fd"] + 1)
    assert eventually(lambda: holdings(mounted)["task"] <= before["task"])


def is_empty(mounted: Mount) -> bool:
    """What was deleted, or whose process was killed, goes a moment later."""
    numbers = ("resident", "volatile", "purged")
    return eventually(lambda: not any(map(mounted.number, numbers))) and eventually(
        lambda: (found := os.statvfs(mounted.path)).f_files - found.f_ffree == 1
    )
