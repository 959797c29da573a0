"""The patches' own measurement: chunks allocated, filled and freed under a limit of memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import vfs_volatile
from tools.bench.figures import Figures
from tools.bench.mounts import volatile_mount

_SOURCE = Path(__file__).with_name("chunks.c")
_PACKAGE = Path(vfs_volatile.__file__).parent
_MIB = 1 << 20
_THREADS = 4
_RUN_SECONDS = 60.0
_LIMIT_SECONDS = 240.0
_GROUP = Path("/sys/fs/cgroup/memory/vfs-volatile-bench")
_WAYS = {
    "free": "free (munmap)",
    "dontneed": "MADV_DONTNEED",
    "madv_free": "MADV_FREE",
    "mark": "our marks, one by one",
    "marks": "our marks, many at a time",
}
_OURS = ("mark", "marks")


def measure(work: Path, quick: bool, say: Callable[[str], None]) -> list[Figures]:
    """Each way in turn, with chunks that all fit in memory, and with twice as much."""
    limit = (64 if quick else 128) * _MIB
    repetitions, milliseconds = (3, 300) if quick else (3, 1000)
    cases = {"half the limit": limit // 2, "twice the limit": 2 * limit}
    program = work / "chunks"
    subprocess.run(
        [
            *("gcc", "-O2", f"-I{_PACKAGE}", _SOURCE, "-o", program, f"-L{_PACKAGE}"),
            *(f"-Wl,-rpath,{_PACKAGE}", "-lfvrange", "-pthread"),
        ],
        check=True,
        timeout=60,
    )
    tables = []
    with volatile_mount(work, _LIMIT_SECONDS, budget=str(limit)) as mount, _limited(limit) as known:
        group = "of a cgroup or our budget" if known else "of our budget only, without cgroups"
        for size in (64 << 10, _MIB):
            figures = Figures(
                f"Chunks of {size >> 10} KiB: allocate, fill, read, free; {_THREADS} threads",
                list(cases),
                notes=[
                    f"Limit: {limit // _MIB} MiB, {group}; all chunks are half or twice as much.",
                    "A free that gives pages back pays for them when they are filled again;",
                    "a mark does not, but each call asks the daemon, which is Python. The kernel",
                    "stops who is at a limit; our purger runs beside, and can be overrun a moment.",
                ],
            )
            for number in range(repetitions):
                say(f"chunks of {size >> 10} KiB: repetition {number + 1} of {repetitions}")
                for way, name in _WAYS.items():
                    for case, total in cases.items():
                        count = total // _THREADS // size
                        speed, most = _run(program, way, mount.path, size, count, milliseconds)
                        figures.add(name, "chunks/s", case, speed)
                        figures.add(f"{name}: most held", "MiB", case, most)
            tables.append(figures)
    return tables


def _run(
    program: Path, way: str, mount: Path, size: int, count: int, milliseconds: int
) -> tuple[float, float]:
    """Chunks per second of one run, and the most MiB it held; in the cgroup if it is not ours."""
    arguments = [way, mount, _THREADS, size, count, milliseconds]
    done = subprocess.run(
        [program, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
        timeout=_RUN_SECONDS,
        preexec_fn=_enter if way not in _OURS and _GROUP.exists() else None,
    )
    speed, most = map(float, done.stdout.split())
    return speed, most


def _enter() -> None:
    (_GROUP / "cgroup.procs").write_text(str(os.getpid()))


@contextlib.contextmanager
def _limited(limit: int) -> Iterator[bool]:
    """A cgroup (version 1) with so much memory. False where there is none."""
    try:
        _GROUP.mkdir()
        (_GROUP / "memory.limit_in_bytes").write_text(str(limit))
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        _GROUP.rmdir()
