"""The cached data path, side by side with tmpfs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tools.bench.figures import Figures
from tools.bench.mounts import tmpfs_mount, volatile_mount

_SOURCE = Path(__file__).with_name("touch.c")
_MIB = 1 << 20
_RUN_SECONDS = 60.0
_LIMIT_SECONDS = 240.0


def measure(work: Path, quick: bool, say: Callable[[str], None]) -> list[Figures]:
    """Repetitions on tmpfs and on ours in turn."""
    mib, files, repetitions = (16, 200, 5) if quick else (64, 1000, 7)
    figures = Figures(
        f"Data path: a file of {mib} MiB; {files} files",
        ["tmpfs", "vfs-volatile"],
        ratio="ratio",
        notes=[
            f"Median and quartiles of {repetitions} repetitions; the two take turns. Written in C.",
            "cold: nothing of the file is in the page cache (POSIX_FADV_DONTNEED, and mincore",
            "agrees); on tmpfs, where the cache is the file, a fresh mapping. Random faults are",
            "under MADV_RANDOM: no reading around.",
        ],
    )
    touch = work / "touch"
    subprocess.run(["gcc", "-O2", "-o", touch, _SOURCE], check=True, timeout=60)
    with (
        tmpfs_mount(work, 2 * mib * _MIB) as tmpfs,
        volatile_mount(work, _LIMIT_SECONDS) as volatile,
    ):
        directories = {"tmpfs": tmpfs, "vfs-volatile": volatile.path}
        for number in range(repetitions):
            say(f"data path: repetition {number + 1} of {repetitions}")
            for case, directory in directories.items():
                for operation, unit, value in _run(touch, directory, mib * _MIB, files):
                    figures.add(operation, unit, case, value)
    return [figures]


def _run(touch: Path, directory: Path, size: int, files: int) -> list[tuple[str, str, float]]:
    """The figures of one repetition: (operation, unit, value)."""
    done = subprocess.run(
        [touch, directory, str(size), str(files)],
        check=True,
        capture_output=True,
        text=True,
        timeout=_RUN_SECONDS,
    )
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return [(operation, unit, float(value)) for operation, unit, value in rows]
