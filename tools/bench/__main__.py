"""python -m tools.bench [--quick] [--json FILE]: measure, and print tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tools.bench import caching, core_cost, data_path, deciding, ioctl_cost, purging
from tools.bench.figures import Figures

Say = Callable[[str], None]

_LEAST_WIDTH = 110
"""Columns of the widest table."""


def main() -> None:
    """Exit 1 with a line that says why if the machine cannot run it; slowness is no failure."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute, on smaller scales")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("gcc") is None:
        sys.exit("bench: needs root (to mount a tmpfs) and gcc; try 'sudo make bench'")
    # A SIGTERM unwinds like Ctrl-C: everything is unmounted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine = _machine()
    console = Console(width=max(_LEAST_WIDTH, shutil.get_terminal_size().columns))
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False)
    started = time.monotonic()
    found = _measure_all(options.quick, _progress(started))
    for figures in found:
        figures.show(console)
    steep = [row.operation for figures in found for row in figures.rows.values() if row.too_steep]
    console.print(f"{time.monotonic() - started:.0f} s; rows too steep: {len(steep)}")
    if options.json:
        answer = {
            "machine": machine,
            "quick": options.quick,
            "tables": [figures.as_json() for figures in found],
        }
        options.json.write_text(json.dumps(answer, indent=1) + "\n")


def _measure_all(quick: bool, say: Say) -> list[Figures]:
    with tempfile.TemporaryDirectory(prefix="vfs-volatile-bench-") as name:
        work = Path(name)
        return [
            *core_cost.measure(quick, say),
            *ioctl_cost.measure(work, quick, say),
            *data_path.measure(work, quick, say),
            *purging.measure(work, quick, say),
            *deciding.measure(work, quick, say),
            *caching.measure(work, quick, say),
        ]


def _progress(started: float) -> Say:
    """Say on stderr what is being done, with the seconds since the start."""
    console = Console(stderr=True, highlight=False)
    return lambda text: console.print(f"[dim]{time.monotonic() - started:6.1f} s[/dim]  {text}")


def _machine() -> dict[str, str]:
    """What the figures depend on; a high load means that they are worth little."""
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


if __name__ == "__main__":
    main()
