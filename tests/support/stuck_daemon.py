"""The program with a fault: what its requests wait for never ends, until a file is removed.

    python -m tests.support.stuck_daemon mount DIR ...

As long as DIR.look exists no look at the processes ends, as long as DIR.notify exists the kernel
does not drop anything, and as long as DIR.busy exists the serving thread stays where it is once
it is asked for statistics. The processes whose pids are in DIR.hung cannot be looked at.
With IMPATIENT set the limits of the watchdog are a second and three.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vfs_volatile.cli import main
from vfs_volatile.daemon import watchdog
from vfs_volatile.fs import looks
from vfs_volatile.fs.attributes import ControlAttributes
from vfs_volatile.native import procmap, shim
from vfs_volatile.processes.mappings import MappingScanner


def held_by(switch: Path, call: Callable[..., Any]) -> Callable[..., Any]:
    """``call``, which returns only when ``switch`` is not there."""

    def wait(*arguments: Any) -> Any:
        while switch.exists():
            time.sleep(0.005)  # the pause of a poll
        return call(*arguments)

    return wait


def hung_in(switch: Path, query: Callable[..., Any]) -> Callable[..., Any]:
    """``query``, which does not return for the processes that ``switch`` names."""

    def wait(pid: int, *arguments: Any) -> Any:
        with contextlib.suppress(FileNotFoundError):
            while str(pid) in switch.read_text().split():
                time.sleep(0.005)  # the pause of a poll
        return query(pid, *arguments)

    return wait


if __name__ == "__main__":
    directory = sys.argv[2]
    scan, statistics = MappingScanner.scan, ControlAttributes.statistics
    MappingScanner.scan = held_by(Path(directory + ".look"), scan)  # type: ignore[method-assign]
    shim.invalidate = held_by(Path(directory + ".notify"), shim.invalidate)
    ControlAttributes.statistics = held_by(  # type: ignore[method-assign]
        Path(directory + ".busy"), statistics
    )
    procmap.query = hung_in(Path(directory + ".hung"), procmap.query)
    looks.HUNG_SECONDS = 1.0
    if "IMPATIENT" in os.environ:
        watchdog.LOG_SECONDS, watchdog.FAIL_SECONDS, watchdog.TICK_SECONDS = 1.0, 3.0, 0.1
    sys.exit(main(sys.argv[1:]))
