"""One who works on very many ranges does not keep the others waiting, nor is it costly to ask."""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from tests.support.errnos import errno_of
from tests.support.files import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, VFile, fallocate
from tests.support.fvrange import PAGE
from tests.support.mount import LONG_DEADLINE, ROOT, Mount, MountFactory
from tests.support.waiting import eventually
from vfs_volatile import VRANGE_NONVOLATILE, mvrange
from vfs_volatile.abi.ioctls import FVRANGE_IOC_VEC, VEC_MAX, VRANGE_VOLATILE, FvrangeVec

RANGES = 40 * VEC_MAX
SIZE = 2 * RANGES * PAGE
ATTEMPTS = 3
"""Who measures may itself be kept from a processor, between an answer and a look at the clock: not
each time, while a daemon that keeps others waiting does so each time.
"""
ACTS: dict[str, Callable[[VFile], object]] = {
    "mark what is between": lambda file: file.mark(),
    "purge": lambda file: file.purge(),
    "purge by 16 thousand equal ranges": lambda file: file.set_attribute(
        "purge", ",".join(["0+0"] * 16000)
    ),
    "unmark": lambda file: file.unmark(),
    "punch": lambda file: fallocate(file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SIZE),
    "truncate": lambda file: os.ftruncate(file.fd, 0),
}

VOTER = """
import mmap, os, sys
from vfs_volatile import VRANGE_VOLATILE, mvrange
fd = os.open(sys.argv[1], os.O_RDWR)
memory = mmap.mmap(fd, 0)
sys.stdin.readline()
mvrange(memory, len(memory), VRANGE_VOLATILE, fd=fd)
print("voted", flush=True)
sys.stdin.read()
"""


def vec(file: VFile, spans: list[tuple[int, int]]) -> None:
    call = FvrangeVec.of(VRANGE_VOLATILE, 0, spans)
    fcntl.ioctl(file.fd, FVRANGE_IOC_VEC, bytearray(call.pack()), True)


@pytest.fixture
def crowded(mount: MountFactory) -> tuple[Mount, VFile]:
    return crowd(mount(budget="1G", deadline=LONG_DEADLINE))


def crowd(mounted: Mount) -> tuple[Mount, VFile]:
    """A file in which every second page holds data and is a range of its own."""
    file = mounted.open("file")
    for at in range(0, SIZE, 1 << 20):
        os.pwrite(file.fd, bytes([1]) * min(1 << 20, SIZE - at), at)
    for first in range(0, 2 * RANGES, 2 * VEC_MAX):
        vec(file, [(page * PAGE, PAGE) for page in range(first, first + 2 * VEC_MAX, 2)])
    return mounted, file


def worst_wait(mounted: Mount, act: Callable[[], object]) -> tuple[float, float]:
    """How long ``act`` took, and how long somebody else waited at most meanwhile.

    In seconds that the daemon ran, so it makes no difference what else the machine does.
    """
    over = threading.Event()
    waits = [0.0]

    def ask() -> None:
        while not over.is_set():
            begun = mounted.busy_seconds()
            os.statvfs(mounted.path)
            waits.append(mounted.busy_seconds() - begun)

    other = threading.Thread(target=ask)
    other.start()
    begun = mounted.busy_seconds()
    act()
    took = mounted.busy_seconds() - begun
    over.set()
    other.join()
    return took, max(waits)


@pytest.mark.parametrize("act", ACTS)
def test_others_are_served_meanwhile(mount: MountFactory, act: str) -> None:
    """Each of these is one short call; none of it may be quadratic."""

    def is_served() -> bool:
        mounted, file = crowd(mount(budget="1G", deadline=LONG_DEADLINE))
        took, waited = worst_wait(mounted, lambda: ACTS[act](file))
        assert took < 10
        file.close()
        return waited < max(0.15, took / 4)

    assert any(is_served() for _ in range(ATTEMPTS))


def test_votes_keep_nobody_waiting(mount: MountFactory) -> None:
    """By a process that agrees to the other half of the pages, one that holds, and by its end."""
    assert any(votes_keep_nobody_waiting(mount) for _ in range(ATTEMPTS))


def votes_keep_nobody_waiting(mount: MountFactory) -> bool:
    mounted, file = crowd(mount(budget="1G", semantics="kim", deadline=LONG_DEADLINE))
    marked, all_pages = RANGES * PAGE, SIZE
    memory = mmap.mmap(file.fd, SIZE)
    with subprocess.Popen(
        [sys.executable, "-c", VOTER, file.path],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as voter:  # fmt: skip

        def votes() -> None:
            assert voter.stdout is not None
            print(file=voter.stdin, flush=True)
            assert voter.stdout.readline() == "voted\n"

        def ends() -> None:
            voter.kill()
            assert eventually(lambda: mounted.number("volatile") == marked)

        acts: list[tuple[Callable[[], object], int]] = [
            (votes, all_pages),
            (ends, marked),
            (lambda: mvrange(memory, SIZE, VRANGE_VOLATILE, fd=file.fd), all_pages),
            (lambda: mvrange(memory, SIZE, VRANGE_NONVOLATILE, fd=file.fd), marked),
            (lambda: mvrange(memory, SIZE, VRANGE_VOLATILE, fd=file.fd), all_pages),
            (file.mark, all_pages),
        ]
        served = True
        for act, volatile in acts:
            took, waited = worst_wait(mounted, act)
            served = served and waited < max(0.15, took / 4)
            assert mounted.number("volatile") == volatile
    memory.close()
    return served


def test_what_is_volatile_already_costs_little(crowded: tuple[Mount, VFile]) -> None:
    mounted, file = crowded
    file.mark()
    begun = mounted.busy_seconds()
    vec(file, [(0, 0)] * VEC_MAX)
    assert mounted.busy_seconds() - begun < 1


def test_deleting_it_keeps_nobody_waiting(mount: MountFactory) -> None:
    def keeps_nobody_waiting() -> bool:
        mounted, file = crowd(mount(budget="1G", deadline=LONG_DEADLINE))
        os.unlink(file.path)

        def close() -> None:
            file.close()
            assert eventually(lambda: mounted.number("volatile") == 0)

        took, waited = worst_wait(mounted, close)
        assert mounted.resident == 0
        return waited < max(0.15, took / 4)

    assert any(keeps_nobody_waiting() for _ in range(ATTEMPTS))


def test_what_an_attribute_cannot_hold_is_said_at_once(crowded: tuple[Mount, VFile]) -> None:
    _, file = crowded
    assert errno_of(file.attribute, "volatile") == "E2BIG"
    file.unmark()
    assert file.attribute("volatile") == ""
