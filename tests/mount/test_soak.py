"""Everything at once, for long: nothing is lost, nothing lies, nothing is left behind.

``make soak`` runs it for half an hour (SOAK_SECONDS).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.holdings import holdings, memfd_blocks
from tests.support.mount import ROOT, Mount, MountFactory
from tests.support.waiting import PATIENCE, eventually

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
SOAKERS = 6
MIB = 1 << 20
BUDGETS = range(MIB // 4, 8 * MIB, 64 << 10)
BOUND = 4 * MIB + 2 * MIB
"""Resident beyond the budget: the slack of writers, and what the kernel writes back meanwhile."""
LAG_SECONDS = 40.0
"""How long the purger may take after the budget went down, on a machine with much else to do."""

Process = subprocess.Popen[str]


def start(module: str, *orders: object) -> Process:
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, orders)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Pressure:
    """Two processes that press on the budget, and are killed and started again all the time."""

    def __init__(self, mounted: Mount, dice: random.Random) -> None:
        self._dice = dice
        self._paths = [mounted.path / f"pressure{i}" for i in range(2)]
        self._running: list[Process] = []
        self.killed = 0
        for path in self._paths:
            with path.open("wb") as file:
                file.truncate(4 * MIB)
            self._start(path)

    def _start(self, path: Path) -> None:
        role = self._dice.choice(("filler", "scribbler", "purger"))
        orders = (role, path, 0, 1024, self._dice.randrange(1000), SECONDS + 60)
        self._running.append(start("tests.support.worker", *orders))

    def kill_one(self) -> None:
        victim = self._running.pop(0)
        victim.kill()
        victim.communicate(timeout=PATIENCE)
        self.killed += 1
        self._start(self._dice.choice(self._paths))

    def end(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate(timeout=PATIENCE)
        for path in self._paths:
            path.unlink()


def answer_once(mounted: Mount) -> None:
    """Let the daemon answer a large READ: libfuse then opens one pipe, and keeps it."""
    file = mounted.open("large")
    os.pwrite(file.fd, bytes(MIB), 0)
    file.cool()
    assert os.pread(file.fd, MIB, 0) == bytes(MIB)
    file.close()
    file.path.unlink()


class Bound:
    """Watches that resident stays near the budget for as long as something may be purged."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def check(self, mounted: Mount) -> None:
        stats = mounted.stats()
        resident, budget, volatile, purged = (
            int(str(stats[name])) for name in ("resident", "budget", "volatile", "purged")
        )
        if resident <= budget + BOUND or volatile == purged:
            self._since = time.monotonic()
        assert time.monotonic() - self._since < LAG_SECONDS, f"{resident} resident of {budget}"


@pytest.mark.timeout(SECONDS + 300)
def test_soak(mount: MountFactory) -> None:
    mounted = mount(budget="4M", deadline=SECONDS + 200)
    answer_once(mounted)
    before = holdings(mounted)
    dice = random.Random(1)
    soakers = [
        start("tests.support.soaker", mounted.path, seed, SECONDS) for seed in range(SOAKERS)
    ]
    pressure, bound = Pressure(mounted, dice), Bound()
    while any(soaker.poll() is None for soaker in soakers):
        mounted.set_root("budget", str(dice.choice(BUDGETS)))
        bound.check(mounted)
        if dice.random() < 0.1:
            pressure.kill_one()
        if dice.random() < 0.05:
            mounted.set_root("purge", dice.choice(["all", "64K", "1M"]))
        time.sleep(0.05)  # the pace of the changes, not a synchronisation
        if any(soaker.poll() for soaker in soakers):
            break
    counts: dict[str, int] = {}
    complaints = []
    for soaker in soakers:
        output, complaint = soaker.communicate(timeout=PATIENCE)
        if soaker.returncode != 0:
            complaints.append(f"exit code {soaker.returncode}: {complaint}")
        else:
            for name, value in json.loads(output).items():
                counts[name] = counts.get(name, 0) + value
    pressure.end()
    assert not complaints, "\n".join(complaints)
    print(counts, f"{pressure.killed} killed")
    assert min(counts.values()) > 0, counts
    assert pressure.killed > 0
    check_nothing_is_left(mounted, before)


def check_nothing_is_left(mounted: Mount, before: dict[str, int]) -> None:
    assert list(mounted.path.iterdir()) == []
    numbers = ("resident", "volatile", "purged")
    assert eventually(lambda: not any(map(mounted.number, numbers)))
    assert eventually(lambda: memfd_blocks(mounted) == 0)
    # Idle threads of trio end after ten seconds.
    assert eventually(lambda: holdings(mounted)["thread"] <= before["thread"] + 1)
    assert eventually(lambda: holdings(mounted)["task"] <= before["task"])
    assert eventually(lambda: holdings(mounted)["fd"] <= before["fd"])
