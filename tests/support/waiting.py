"""Waiting for a condition, with a deadline, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 170.0
"""Seconds after which what a test waits for counts as never coming, on a busy machine too."""
POLL_SECONDS = 0.005


def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """True as soon as ``condition()`` holds, False when it did not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)  # the pause of a poll, not a synchronisation
    return True
