"""Many processes at once, each with its own record of the truth: no false all-clear, no loss."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.files import VFile
from tests.support.fvrange import PAGE
from tests.support.mount import LONG_DEADLINE, ROOT, Mount, MountFactory
from tests.support.waiting import PATIENCE

MIB = 1 << 20
SECONDS = 4.0

Worker = subprocess.Popen[str]


def start(role: str, path: Path, first: int, count: int, seed: int) -> Worker:
    orders = (role, path, first, count, seed, SECONDS)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.worker", *map(str, orders)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(workers: list[Worker]) -> dict[str, int]:
    """Wait for all, fail on the first lie; returns the sums of their counts."""
    sums: dict[str, int] = {}
    complaints = []
    for worker in workers:
        try:
            output, complaint = worker.communicate(timeout=SECONDS + PATIENCE)
        except subprocess.TimeoutExpired:
            worker.kill()
            output, complaint = worker.communicate(timeout=PATIENCE)
        if worker.returncode != 0:
            complaints.append(f"exit code {worker.returncode}: {complaint}")
            continue
        for name, value in json.loads(output).items():
            sums[name] = sums.get(name, 0) + value
    assert not complaints, "\n".join(complaints)
    return sums


def sparse(mounted: Mount, name: str, pages: int) -> Path:
    file = mounted.open(name)
    os.ftruncate(file.fd, pages * PAGE)
    return file.path


@pytest.mark.parametrize("seed", [11, 12])
def test_owners_of_one_file_against_forced_purges(mount: MountFactory, seed: int) -> None:
    """Four owners with 16 pages each, two purgers on all of them: few pages, many meetings."""
    mounted = mount(deadline=LONG_DEADLINE)
    path = sparse(mounted, "file", 64)
    workers = [start("owner", path, i * 16, 16, seed * 100 + i) for i in range(4)]
    workers += [start("purger", path, 0, 64, seed * 100 + 50 + i) for i in range(2)]
    counts = finish(workers)
    assert counts["purged"] > 0, counts
    assert counts["intact"] > 0, counts


def test_owners_of_many_files_against_the_budget(mount: MountFactory) -> None:
    """The purger of the budget, driven by fillers and by a budget that moves all the time."""
    mounted = mount(budget="2M", deadline=LONG_DEADLINE)
    owned = [sparse(mounted, f"owned{i}", 64) for i in range(3)]
    filled = [sparse(mounted, f"filled{i}", 2048) for i in range(2)]
    workers = [start("owner", path, 0, 64, 300 + i) for i, path in enumerate(owned)]
    workers += [start("filler", path, 0, 2048, 400 + i) for i, path in enumerate(filled)]
    step = 0
    while any(worker.poll() is None for worker in workers):
        mounted.set_root("budget", str((step * 7 % 32) * 65536))
        step += 1
        time.sleep(0.02)  # the pace of the changes, not a synchronisation
    counts = finish(workers)
    assert step > 10
    assert counts["purged"] > 0, counts
    assert counts["intact"] > 0, counts


def test_writers_of_parts_do_not_wait_for_themselves(mount: MountFactory) -> None:
    """Far over the budget every write makes room, in the very pages that the writers hold locked.

    A daemon that waits for the kernel to drop these before it answers the write never answers.
    """
    mounted = mount(budget="64K")
    os.pwrite(mounted.open("kept").fd, bytes(16 * MIB), 0)
    path = sparse(mounted, "scribbled", 16)
    counts = finish([start("scribbler", path, 0, 16, 600 + i) for i in range(3)])
    assert counts["scribbled"] > 0, counts
    assert mounted.number("purged") > 0


def test_writers_racing_the_purger_keep_resident_bounded(mount: MountFactory) -> None:
    """Two writers of volatile files 16 times the budget, beside data that must survive."""
    budget = 8 * MIB
    mounted = mount(budget=str(budget), deadline=LONG_DEADLINE)
    kept, data = mounted.open("kept"), os.urandom(MIB)
    os.pwrite(kept.fd, data, 0)
    pages = 8 * budget // PAGE
    filled = [sparse(mounted, f"filled{i}", pages) for i in range(2)]
    workers = [start("filler", path, 0, pages, i) for i, path in enumerate(filled)]
    highest = 0
    while any(worker.poll() is None for worker in workers):
        highest = max(highest, mounted.resident)
        time.sleep(0.002)  # the pace of the samples, not a synchronisation
    counts = finish(workers)
    assert counts["written"] * PAGE > 4 * budget, "they have to press on the budget"
    assert mounted.within_budget()
    assert budget / 2 < highest <= 2 * budget, f"highest resident: {highest / MIB} MiB"
    kept.cool()
    assert hashlib.sha256(kept.path.read_bytes()).digest() == hashlib.sha256(data).digest()


def test_a_big_purge_does_not_stall_readers_of_other_files(mount: MountFactory) -> None:
    """Every second page of 64 MiB is a range of its own; a reader goes on reading meanwhile."""
    mounted = mount(budget="256M", deadline=LONG_DEADLINE)
    other = mounted.file("other", 16)
    reads = 0
    while reads <= 1:  # else the purge was over before it was measured
        reads, worst = read_during_a_purge(mounted, other)
        mounted.set_root("budget", "256M")
    assert worst < 2.0


def read_during_a_purge(mounted: Mount, other: VFile) -> tuple[int, float]:
    """How often ``other`` could be read meanwhile; the seconds that the worst read took."""
    big = mounted.open("big", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for at in range(0, 64 * MIB, MIB):
        os.pwrite(big.fd, b"x" * MIB, at)
    spans = [f"{at}+{PAGE}" for at in range(0, 64 * MIB, 2 * PAGE)]
    for index in range(0, len(spans), 1024):
        big.set_attribute("volatile", ",".join(spans[index : index + 1024]))
    expected = mounted.resident - 32 * MIB
    mounted.set_root("budget", str(expected))
    worst, reads, deadline = 0.0, 0, time.monotonic() + PATIENCE
    while mounted.resident > expected and time.monotonic() < deadline:
        os.posix_fadvise(other.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        begun = mounted.busy_seconds()
        assert os.pread(other.fd, PAGE, (reads % 16) * PAGE) != b""
        worst = max(worst, mounted.busy_seconds() - begun)
        reads += 1
    assert mounted.resident == expected
    return reads, worst
