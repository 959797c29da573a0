"""Python's garbage collector stops the daemon: it looks at few objects at a time."""

from __future__ import annotations

import subprocess
import sys

from tests.support.waiting import PATIENCE

PROGRAM = """
import gc
from vfs_volatile.daemon.server import _calm_collector

most = 0

def seen(phase, info):
    global most
    if phase == "start":
        met = sum(len(gc.get_objects(each)) for each in range(info["generation"] + 1))
        most = max(most, met)

_calm_collector()
gc.callbacks.append(seen)
kept = [[] for _ in range(1_200_000)]
print(most)
"""


def test_a_million_new_objects_are_not_looked_at_together() -> None:
    """As 100,000 new files make."""
    command = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert 20_000 <= int(result.stdout) <= 110_000
