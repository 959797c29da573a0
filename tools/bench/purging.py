"""How fast memory comes back, by force and by budget, and how far a fast writer gets ahead."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tools.bench.figures import Figures
from tools.bench.mounts import VolatileMount, volatile_mount
from vfs_volatile import VRANGE_VOLATILE, fvrange
from vfs_volatile.client.calls import fvrange_purge

_KIB = 1 << 10
_MIB = 1 << 20
_GIB = 1 << 30
_SMALL = 64 * _KIB
"""Bytes of a small range."""
_FILE = 4 * _MIB
"""Bytes of each file of the fast writer."""
_WRITER_BUDGET = 64 * _MIB
_LIMIT_SECONDS = 120.0
_WAIT_SECONDS = 60.0
_SIZE = "4G"


class _Scale(NamedTuple):
    mib: int
    repetitions: int


def measure(work: Path, quick: bool, say: Callable[[str], None]) -> list[Figures]:
    """All figures of purging."""
    scale = _Scale(64, 2) if quick else _Scale(256, 5)
    return [_speed(work, scale, say), _overshoot(work, scale, say)]


def _speed(work: Path, scale: _Scale, say: Callable[[str], None]) -> Figures:
    cases = {"no look at mappings": "keep", "looks at mappings": "block"}
    figures = Figures(
        f"Purging: an open file of {scale.mib} MiB, all in the page cache too",
        list(cases),
        notes=[
            f"Median of {scale.repetitions}. No look: --private=keep. Looks: --private=block,",
            "one for a forced purge, one for each batch by budget.",
            "'wait': the longest that another request took meanwhile.",
        ],
    )
    for case, private in cases.items():
        with volatile_mount(work, _LIMIT_SECONDS, private=private, size=_SIZE) as mount:
            for kind, length in {"one range": 0, "ranges of 64 KiB": _SMALL}.items():
                say(f"purging: {kind}, {case}")
                for _ in range(scale.repetitions):
                    _measure_once(mount, scale.mib * _MIB, length, kind, case, figures)
    return figures


def _measure_once(
    mount: VolatileMount, size: int, length: int, kind: str, case: str, figures: Figures
) -> None:
    """Purge a file of ``size`` bytes in ranges of ``length`` by force, another by budget."""
    per_gib = _GIB / size
    with _volatile_file(mount, size, length) as fd:
        started = time.perf_counter()
        purged = fvrange_purge(fd)
        figures.add(f"by force, {kind}", "s/GiB", case, per_gib * (time.perf_counter() - started))
        if purged != size:
            raise RuntimeError(f"{purged} of {size} bytes were purged")
    with _volatile_file(mount, size, length):
        budget = mount.number("budget")
        started = time.perf_counter()
        mount.set_budget(0)
        longest = mount.wait_resident(0, _WAIT_SECONDS)
        figures.add(f"by budget, {kind}", "s/GiB", case, per_gib * (time.perf_counter() - started))
        figures.add(f"wait, {kind}", "ms", case, longest * 1000)
        mount.set_budget(budget)


def _overshoot(work: Path, scale: _Scale, say: Callable[[str], None]) -> Figures:
    figures = Figures(
        f"Purging: a writer of {4 * scale.mib} MiB of volatile files, budget"
        f" {_WRITER_BUDGET // _MIB} MiB",
        ["each"],
        notes=[
            f"Median of {scale.repetitions} mounts. Files of {_FILE // _MIB} MiB, marked, then",
            "written in blocks of 1 MiB. Overshoot: highest resident minus budget.",
        ],
    )
    for number in range(scale.repetitions):
        say(f"purging: fast writer, {number + 1} of {scale.repetitions}")
        budget = str(_WRITER_BUDGET)
        with volatile_mount(work, _LIMIT_SECONDS, budget=budget, size=_SIZE) as mount:
            started = time.perf_counter()
            _write_files(mount.path, 4 * scale.mib * _MIB)
            seconds = time.perf_counter() - started
            figures.add("writer", "MB/s", "each", 4 * scale.mib * _MIB / 1e6 / seconds)
            ahead = max(0, mount.highest_resident() - _WRITER_BUDGET)
            figures.add("overshoot", "MiB", "each", ahead / _MIB)
    return figures


def _write_files(directory: Path, size: int) -> None:
    """Write volatile files of ``size`` bytes in all, as fast as it goes."""
    block = bytes(_MIB)
    for number in range(size // _FILE):
        fd = os.open(directory / f"{number}", os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            os.ftruncate(fd, _FILE)
            fvrange(fd, 0, 0, VRANGE_VOLATILE)
            for offset in range(0, _FILE, _MIB):
                os.pwrite(fd, block, offset)
        finally:
            os.close(fd)


@contextmanager
def _volatile_file(mount: VolatileMount, size: int, length: int) -> Iterator[int]:
    """An open file full of data, volatile in ranges of ``length`` bytes (0: in one); then gone."""
    path = mount.path / "data"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        os.unlink(path)
        block = b"d" * _MIB
        for offset in range(0, size, _MIB):
            os.pwrite(fd, block, offset)
        for start in range(0, size, length or size):
            fvrange(fd, start, length, VRANGE_VOLATILE)
        yield fd
    finally:
        os.close(fd)
