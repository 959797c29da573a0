"""What mark, unmark and NEXT cost a program, through the ioctl on a real mount."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tools.bench.figures import Figures, short
from tools.bench.mounts import VolatileMount, volatile_mount
from tools.bench.population import resident_bytes
from vfs_volatile import VRANGE_NONVOLATILE, VRANGE_VOLATILE, fvrange
from vfs_volatile.client.calls import fvrange_next
from vfs_volatile.units import PAGE_SIZE

_ROUNDS = 30
_CALLS = 100
_OPEN_FILES = 400
"""Of the many: as many as an ordinary limit on descriptors leaves room for."""
_RANGES_PER_XATTR = 2500
"""Of up to 22 characters each: an attribute holds 64 KiB."""
_LIMIT_SECONDS = 600.0

Place = tuple[int, int]
"""Descriptor and page."""


class _Marked:
    """Volatile pages (even ones) of open files, the page behind each being free."""

    def __init__(self, name: str, ranges_per_file: int, fds: Sequence[int]) -> None:
        self.name = name
        self._ranges = ranges_per_file
        self._fds = fds
        self._random = random.Random(1)

    def batch(self, calls: int) -> dict[str, list[float]]:
        """Microseconds of each call, at random places; leaves everything as it was."""
        chosen = self._random.sample(range(self._ranges * len(self._fds)), calls)
        turns = [divmod(number, self._ranges) for number in chosen]
        taken = [(self._fds[file], 2 * turn) for file, turn in turns]
        free = [(fd, page + 1) for fd, page in taken]
        return {
            "mark": _costs(partial(_fvrange, place, VRANGE_VOLATILE) for place in free),
            "NEXT": _costs(partial(_next, place) for place in taken),
            "unmark": _costs(partial(_fvrange, place, VRANGE_NONVOLATILE) for place in free),
        }


def measure(work: Path, quick: bool, say: Callable[[str], None]) -> list[Figures]:
    """The round trips, at growing numbers of ranges."""
    sizes = [1_000, 10_000, 100_000] if quick else [1_000, 100_000, 1_000_000]
    files = 5_000 if quick else 100_000
    with volatile_mount(work, _LIMIT_SECONDS) as mount, ExitStack() as opened:
        memory = Figures("Mount: memory of the daemon, bytes", ["each"])
        populations = []
        for size in sizes:
            name = f"{short(size)} in 1 file"
            populations.append(_one_file(mount, size, name, opened, say))
        populations.append(_many_files(mount, files, memory, opened, say))
        expected = PAGE_SIZE * (sum(sizes) + files)
        if mount.number("volatile") != expected:
            raise RuntimeError(f"{mount.number('volatile')} bytes are volatile, not {expected}")
        return [*_take_turns(populations, say), memory]


def _take_turns(populations: Sequence[_Marked], say: Callable[[str], None]) -> list[Figures]:
    names = [population.name for population in populations]
    figures = Figures(
        "Mount: one ioctl with so many ranges of one page, us",
        names,
        ratio="growth",
        notes=[
            f"Median and quartiles of {_ROUNDS} means of {_CALLS} calls at random places, with",
            "the Python client; all populations are in one mount and take turns. Pages are holes.",
        ],
    )
    slow = Figures("Mount: the slowest call of each hundred, ms", names)
    say("mount: measuring")
    for _ in range(_ROUNDS):
        for population in populations:
            for operation, costs in population.batch(_CALLS).items():
                mean = sum(costs) / len(costs)
                figures.add(operation, "us", population.name, mean, limited=True)
                slow.add(operation, "ms", population.name, max(costs) / 1000)
    return [figures, slow]


def _one_file(
    mount: VolatileMount, ranges: int, name: str, opened: ExitStack, say: Callable[[str], None]
) -> _Marked:
    started = time.monotonic()
    fd = _open(mount.path / f"{ranges}", opened)
    os.ftruncate(fd, 2 * ranges * PAGE_SIZE)
    for first in range(0, ranges, _RANGES_PER_XATTR):
        last = min(ranges, first + _RANGES_PER_XATTR)
        spans = (f"{2 * number * PAGE_SIZE}+{PAGE_SIZE}" for number in range(first, last))
        os.setxattr(fd, "user.fvrange.volatile", ",".join(spans).encode())
    say(f"mount: {name}, marked in {time.monotonic() - started:.1f} s")
    return _Marked(name, ranges, [fd])


def _many_files(
    mount: VolatileMount,
    files: int,
    memory: Figures,
    opened: ExitStack,
    say: Callable[[str], None],
) -> _Marked:
    started = time.monotonic()
    before = resident_bytes(mount.pid)
    for number in range(files):
        fd = os.open(mount.path / f"f{number}", os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.ftruncate(fd, 2 * PAGE_SIZE)
        os.close(fd)
    empty = resident_bytes(mount.pid)
    made = time.monotonic()
    for number in range(files):
        os.setxattr(mount.path / f"f{number}", "user.fvrange.volatile", b"0+4096")
    memory.add("a file without ranges", "B", "each", (empty - before) / files)
    memory.add("its first range", "B", "each", (resident_bytes(mount.pid) - empty) / files)
    say(
        f"mount: {files:,} files, made in {made - started:.1f} s,"
        f" marked in {time.monotonic() - made:.1f} s"
    )
    chosen = random.Random(1).sample(range(files), _OPEN_FILES)
    fds = [_open(mount.path / f"f{number}", opened) for number in chosen]
    return _Marked(f"{short(files)} in {short(files)} files", 1, fds)


def _open(path: Path, opened: ExitStack) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    opened.callback(os.close, fd)
    return fd


def _fvrange(place: Place, mode: int) -> None:
    fd, page = place
    fvrange(fd, page * PAGE_SIZE, PAGE_SIZE, mode)


def _next(place: Place) -> None:
    fd, page = place
    next(fvrange_next(fd, page * PAGE_SIZE))


def _costs(calls: Iterable[Callable[[], object]]) -> list[float]:
    """Microseconds of each call, waiting included."""
    costs = []
    for call in list(calls):
        started = time.perf_counter_ns()
        call()
        costs.append((time.perf_counter_ns() - started) / 1000)
    return costs
