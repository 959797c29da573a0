"""The data paths side by side: tmpfs, ours with and without passthrough, and any other mount."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tools.bench.figures import Figures
from tools.bench.mounts import VolatileMount, tmpfs_mount, volatile_mount

_SOURCE = Path(__file__).with_name("touch.c")
_HEADERS = Path(__file__).parents[2] / "vfs_volatile"
_MIB = 1 << 20
_GIB = 1 << 30
_RUN_SECONDS = 600.0
_LIMIT_SECONDS = 3600.0
_REST_SECONDS = 0.2
_MOST_RESTS = 100

TMPFS, ZERO, SIGBUS, CACHED, OTHER = (
    "tmpfs",
    "ours, zero",
    "ours, map_file",
    "ours, cached",
    "other",
)
_HELD = {TMPFS: 1, ZERO: 1, SIGBUS: 1, CACHED: 2, OTHER: 2}
"""How often a case may hold each byte in memory."""


class _Case(NamedTuple):
    directory: Path
    options: list[str]
    daemon: int | None
    """Its process."""


def measure(
    work: Path, quick: bool, say: Callable[[str], None], other: Path | None = None
) -> Iterator[Figures]:
    """A table for each size of file, as far as memory allows. ``other``: a directory on a mount."""
    sizes = [(16, 200, 5)] if quick else [(64, 1000, 7), (1024, 1000, 5), (16 * 1024, 1000, 5)]
    for mib, files, times in sizes:
        if _fits(mib * _MIB):
            yield _measure(work, mib, files, times, say, other)


def _measure(
    work: Path, mib: int, files: int, times: int, say: Callable[[str], None], other: Path | None
) -> Figures:
    """Repetitions on each case in turn."""
    size = mib * _MIB
    figures = Figures(
        f"Data paths: a file of {mib} MiB; {files} files",
        [TMPFS, ZERO, SIGBUS, CACHED, *([OTHER] if other else [])],
        notes=[
            f"Median and quartiles of {times} repetitions; the cases take turns. Written in C.",
            "zero: mount --access zero, by FUSE passthrough; map_file: the same, mapped with",
            "SIGBUS for purged pages (fvrange_map.h); cached: a mount with default options.",
            "cold: nothing of the file is in the page cache (POSIX_FADV_DONTNEED, and mincore",
            "agrees); on tmpfs, and with passthrough to one, a fresh mapping. Random faults are",
            "under MADV_RANDOM: no reading around. 4 KiB rows are of 64 MiB at most.",
            "purge: by PURGE of the whole file; on tmpfs a bare punch hole.",
            "memory held: growth of the page cache and of the daemon's own (PSS), by byte stored.",
        ],
    )
    touch = work / "touch"
    command: list[str | Path] = ["gcc", "-O2", "-pthread", f"-I{_HEADERS}", "-o", touch, _SOURCE]
    subprocess.run(command, check=True, timeout=60)
    with ExitStack() as held:
        cases = _cases(held, work, size, other)
        for number in range(times):
            say(f"data paths: {mib} MiB, repetition {number + 1} of {times}")
            for name, case in cases.items():
                if not _fits(_HELD[name] * size):
                    continue
                for operation, unit, value in _run(touch, case, size, files):
                    figures.add(operation, unit, name, value)
                figures.add("memory held", "x", name, _memory_held(case, size))
    return figures


def _cases(held: ExitStack, work: Path, size: int, other: Path | None) -> Mapping[str, _Case]:
    def ours(name: str, **options: str) -> VolatileMount:
        sizes = {"size": str(3 * size), "budget": str(3 * size)}
        made = volatile_mount(work, _LIMIT_SECONDS, name=name, **sizes, **options)
        return held.enter_context(made)

    zero, cached = ours("zero", access="zero"), ours("cached")
    cases = {
        TMPFS: _Case(held.enter_context(tmpfs_mount(work, 3 * size)), [], None),
        ZERO: _Case(zero.path, [], zero.pid),
        SIGBUS: _Case(zero.path, ["sigbus"], zero.pid),
        CACHED: _Case(cached.path, [], cached.pid),
    }
    if other is not None:
        cases[OTHER] = _Case(other, [], None)
    return cases


def _run(touch: Path, case: _Case, size: int, files: int) -> Iterator[tuple[str, str, float]]:
    """The figures of one repetition: (operation, unit, value)."""
    done = subprocess.run(
        [touch, case.directory, str(size), str(files), *case.options],
        check=True,
        capture_output=True,
        text=True,
        timeout=_RUN_SECONDS,
    )
    for line in done.stdout.splitlines():
        operation, unit, value = line.split("|")
        yield operation, unit, float(value)


def _memory_held(case: _Case, size: int) -> float:
    """Bytes of memory for each byte of a file that was written and read."""
    path = case.directory / "held"
    before = _at_rest(lambda: _held_now(case))
    block = b"h" * _MIB
    with open(path, "wb", buffering=0) as file:
        file.writelines(block for _ in range(size // _MIB))
    with open(path, "rb", buffering=0) as file:
        while file.read(_MIB):
            pass
    after = _held_now(case)
    path.unlink()
    return (after - before) / size


def _at_rest(count: Callable[[], int]) -> int:
    """The bytes that ``count`` finds once nothing that was deleted is being freed any more."""
    now = count()
    for _ in range(_MOST_RESTS):
        last = now
        time.sleep(_REST_SECONDS)
        now = count()
        if abs(now - last) < _MIB:
            break
    return now


def _held_now(case: _Case) -> int:
    """The page cache of the machine, and what the daemon has of its own."""
    own = 0
    if case.daemon is not None:
        own = _field(Path(f"/proc/{case.daemon}/smaps_rollup"), "Pss_Anon")
    return _field(Path("/proc/meminfo"), "Cached") + own


def _fits(size: int) -> bool:
    """May a table take so many bytes of memory, if not now then when what was deleted is free?"""
    return size <= _available() or size <= _at_rest(_available)


def _available() -> int:
    """Bytes of memory that a table may take: a tenth is left to others."""
    return _field(Path("/proc/meminfo"), "MemAvailable") * 9 // 10


def _field(path: Path, name: str) -> int:
    """Bytes; the files of /proc have lines such as ``Cached:   123 kB``."""
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"{path} has no {name}")
