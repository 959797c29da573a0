"""python -m tools.bench [--quick] [--json FILE] [--other DIR]: measure, and print tables."""

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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rich.console import Console

from tools.bench import (
    caching,
    chunks,
    core_cost,
    data_path,
    deciding,
    ioctl_cost,
    purging,
    strangers,
)
from tools.bench.figures import Figures
from tools.bench.plot import plot

Say = Callable[[str], None]

_PARTS = ["core", "ioctl", "data", "purging", "deciding", "caching", "chunks", "strangers"]
_LEAST_WIDTH = 110
"""Columns of the widest table."""


def main() -> None:
    """Exit 1 with a line that says why if the machine cannot run it; slowness is no failure."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute, on smaller scales")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="also write the figures there, and plots beside it",
    )
    parser.add_argument(
        "--other", type=Path, metavar="DIR", help="a directory of another file system to compare"
    )
    parser.add_argument("--only", choices=_PARTS, help="one part of it")
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("gcc") is None:
        sys.exit("bench: needs root (to mount a tmpfs) and gcc; try 'sudo make bench'")
    # A SIGTERM unwinds like Ctrl-C: everything is unmounted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine = _machine()
    console = Console(width=max(_LEAST_WIDTH, shutil.get_terminal_size().columns))
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False)
    started = time.monotonic()
    found: list[Figures] = []
    for figures in _measure(options, _progress(started)):
        figures.show(console)  # now: who stops it in the middle has what was measured
        found.append(figures)
    steep = [row.operation for figures in found for row in figures.rows.values() if row.too_steep]
    console.print(f"{time.monotonic() - started:.0f} s; rows too steep: {len(steep)}")
    if options.json:
        answer = {
            "machine": machine,
            "quick": options.quick,
            "tables": [figures.as_json() for figures in found],
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(answer, indent=1) + "\n")
        _plot(found, options.json)
        console.print(f"written to {options.json}, with plots beside it", highlight=False)


def _measure(options: argparse.Namespace, say: Say) -> Iterator[Figures]:
    quick = options.quick
    with tempfile.TemporaryDirectory(prefix="vfs-volatile-bench-") as name:
        work = Path(name)
        parts: dict[str, Callable[[], Iterable[Figures]]] = {
            "core": lambda: core_cost.measure(quick, say),
            "ioctl": lambda: ioctl_cost.measure(work, quick, say),
            "data": lambda: data_path.measure(work, quick, say, options.other),
            "purging": lambda: purging.measure(work, quick, say),
            "deciding": lambda: deciding.measure(work, quick, say),
            "caching": lambda: caching.measure(work, quick, say),
            "chunks": lambda: chunks.measure(work, quick, say),
            "strangers": lambda: strangers.measure(work, quick, say),
        }
        wanted = [options.only] if options.only else _PARTS
        for part in wanted:
            yield from parts[part]()


def _plot(found: list[Figures], json_file: Path) -> None:
    """A plot of each table of data paths, named after the JSON file."""
    tables = [figures for figures in found if figures.cases[0] == data_path.TMPFS]
    for number, figures in enumerate(tables, 1):
        json_file.with_suffix(f".{number}.svg").write_text(plot(figures))


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
