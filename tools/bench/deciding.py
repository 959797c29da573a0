"""What a purge costs because other processes are there: who maps the file, and dropping theirs."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from tools.bench.crowds import Crowd, compile_crowd, running
from tools.bench.figures import Figures
from tools.bench.mounts import VolatileMount, tmpfs_mount, volatile_mount
from vfs_volatile import VRANGE_NONVOLATILE, VRANGE_VOLATILE, fvrange
from vfs_volatile.client.calls import fvrange_purge
from vfs_volatile.native import kcmp, procmap
from vfs_volatile.processes.kernel import Kernel
from vfs_volatile.processes.mappings import MappingScanner
from vfs_volatile.processes.maps import OwnMount, Query, query_text
from vfs_volatile.processes.openers import Openers
from vfs_volatile.units import PAGE_SIZE

_TEXT = "text of maps"
_ASKED, _SLEPT = "asking all", "asking who ran"
_LOOKS_TO_LEARN = 2
"""A process that sleeps is asked so often (vfs_volatile/processes/sleepers.py)."""
_MIB = 1 << 20
_SIZE = "4G"
_TMPFS = "tmpfs: truncate"
_BATCH = 32 * _MIB
"""Bytes of a range: what one look serves at least by budget (vfs_volatile/fs/purges.py)."""
_LIMIT_SECONDS = 240.0
_WAIT_SECONDS = 60.0

Say = Callable[[str], None]


class _Scale(NamedTuple):
    others: int
    mappers: int
    mappings: int
    """Of other files, in each process that has any."""
    rounds: int
    mib: int


def measure(work: Path, quick: bool, say: Say) -> list[Figures]:
    """All figures of deciding."""
    scale = _Scale(200, 20, 200, 10, 128) if quick else _Scale(1000, 100, 200, 15, 1024)
    program = compile_crowd(work)
    with volatile_mount(work, _LIMIT_SECONDS, private="block", size=_SIZE) as mount:
        return [_looks(mount, program, scale, say), _purges(mount, work, program, scale, say)]


# ---- deciding ----


def _looks(mount: VolatileMount, program: Path, scale: _Scale, say: Say) -> Figures:
    plain = Crowd("no other files", scale.others, scale.mappers)
    full = Crowd(f"{scale.mappings} other files", scale.others, scale.mappers, scale.mappings)
    # Last, so that the ratio is the growth with mappings of other files.
    crowds = [plain, full, Crowd("few processes", 0, 1)]
    figures = Figures(
        f"Deciding a purge: {scale.others:,} other processes and {scale.mappers} that map the file",
        [crowd.name for crowd in crowds],
        ratio="growth",
        notes=[
            f"Median and quartiles of {scale.rounds}; the ways take turns. Other files: so many",
            "are mapped by each process. A look: Python, in a process like the daemon; the first",
            f"{_LOOKS_TO_LEARN} ask all, later ones only who has run since. A forced purge: the",
            "ioctl, with its look, of one page that all mappers have loaded; the worst are the",
            f"first {_LOOKS_TO_LEARN}. Few processes: the machine's own and one mapper.",
        ],
    )
    for crowd in crowds:
        say(f"deciding: {crowd.processes} processes more, {crowd.name}")
        _look_among(mount, program, crowd, scale.rounds, figures)
    _add_worst(figures)
    figures.notes += [
        _growth_note(figures, name, plain, full)
        for name in (_row(way, how) for way in _ways() for how in (_ASKED, _SLEPT))
        if name in figures.rows
    ]
    return figures


def _look_among(
    mount: VolatileMount, program: Path, crowd: Crowd, rounds: int, figures: Figures
) -> None:
    with (
        _volatile_file(mount, rounds * PAGE_SIZE) as (fd, path),
        running(program, crowd, path),
        _scanners(mount) as scanners,
    ):
        for _ in range(_LOOKS_TO_LEARN):
            for scanner in scanners.values():
                _look(scanner, fd)
        for page in range(rounds):
            for name, scanner in scanners.items():
                seconds = _look(scanner, fd)
                figures.add(name, "ms", crowd.name, 1000 * seconds, limited=_SLEPT in name)
            seconds = _forced(fd, page * PAGE_SIZE, PAGE_SIZE)
            limited = any(_SLEPT in name for name in scanners)
            figures.add("forced purge, one page", "ms", crowd.name, 1000 * seconds, limited=limited)


def _add_worst(figures: Figures) -> None:
    for row in list(figures.rows.values()):
        for case, cell in row.cells.items():
            figures.add(f"{row.operation}, worst", row.unit, case, cell.worst)


def _growth_note(figures: Figures, way: str, plain: Crowd, full: Crowd) -> str:
    """What one process more and one mapping more cost."""
    cells = figures.rows[way].cells
    least, most, few = (cells[name].median for name in figures.cases)
    process = 1e3 * (least - few) / (plain.processes - 1)  # the few have one too
    mapping = 1e6 * (most - least) / (full.processes * full.mappings)
    return (
        f"{way}: {process:.0f} us for each process, and {mapping:.0f} ns for each mapping of"
        " another file that it steps over."
    )


# ---- purging ----


def _purges(mount: VolatileMount, work: Path, program: Path, scale: _Scale, say: Say) -> Figures:
    crowds = [
        Crowd("1 process", 0, 1),
        Crowd(f"{scale.mappers} processes", 0, scale.mappers),
        Crowd(f"1 among {scale.others:,} others", scale.others, 1, scale.mappings),
    ]
    size = scale.mib * _MIB
    figures = Figures(
        f"Purging: {scale.mib} MiB that processes map shared and have loaded",
        [crowd.name for crowd in crowds],
        notes=[
            "Once each, until the kernel has dropped the last page. By force: one look at the",
            "processes; by budget one for each batch, and a batch grows with what a look takes.",
            "Looking: as the mount counts it. tmpfs: the same file and processes, without us.",
            f"The others map {scale.mappings} other files each.",
        ],
    )
    kinds: dict[str, Callable[[int], float]] = {
        "by force": lambda fd: _forced(fd, 0, size),
        "by budget": lambda fd: _by_budget(mount, fd),
    }
    for crowd in crowds:
        for kind, purge in kinds.items():
            say(f"deciding: {scale.mib} MiB mapped by {crowd.name}, {kind}")
            with _volatile_file(mount, size) as (fd, path), running(program, crowd, path):
                before = mount.milliseconds_looking()
                seconds = purge(fd)
                looking = (mount.milliseconds_looking() - before) / 1000
            figures.add(kind, "s", crowd.name, seconds)
            figures.add(f"{kind}, share of looking", "%", crowd.name, 100 * looking / seconds)
    for crowd in crowds:
        say(f"deciding: {scale.mib} MiB of a tmpfs mapped by {crowd.name}")
        figures.add(_TMPFS, "s", crowd.name, _truncate(work, size, program, crowd))
    figures.notes.append(_share_note(figures, crowds))
    return figures


def _share_note(figures: Figures, crowds: Sequence[Crowd]) -> str:
    """What the time goes to."""
    one, many, _ = (figures.rows["by force"].cells[crowd.name].median for crowd in crowds)
    each = 1e3 * (many - one) / (crowds[1].mappers - crowds[0].mappers)
    share = figures.rows["by budget, share of looking"].cells[crowds[2].name].median
    return (
        f"Each process that has loaded the file costs {each:.0f} ms: the kernel takes every page"
        f" from it. {crowds[2].others:,} that have not cost looks: {share:.0f} % of it by budget."
    )


def _truncate(work: Path, size: int, program: Path, crowd: Crowd) -> float:
    """Seconds that the kernel takes to drop ``size`` bytes of a tmpfs' file."""
    with tmpfs_mount(work, size + _BATCH) as mounted:
        path = mounted / "data"
        with path.open("wb") as file:
            for _ in range(size // _MIB):
                file.write(b"d" * _MIB)
        with running(program, crowd, path):
            started = time.perf_counter()
            os.truncate(path, 0)
            return time.perf_counter() - started


def _by_budget(mount: VolatileMount, fd: int) -> float:
    """Seconds until nothing is resident and the kernel has dropped its copy."""
    budget = mount.number("budget")
    started = time.perf_counter()
    mount.set_budget(0)
    mount.wait_resident(0, _WAIT_SECONDS)
    fvrange(fd, 0, 0, VRANGE_NONVOLATILE)  # waits for purges under way
    seconds = time.perf_counter() - started
    mount.set_budget(budget)
    return seconds


# ---- helpers ----


def _ways() -> dict[str, Query]:
    """The ways to ask that this kernel has; the daemon takes the first."""
    text: dict[str, Query] = {_TEXT: query_text}
    return {"PROCMAP_QUERY": procmap.query, **text} if procmap.available() else text


def _row(way: str, how: str) -> str:
    return f"look {how}, {way}"


@contextmanager
def _scanners(mount: VolatileMount) -> Iterator[dict[str, MappingScanner]]:
    """Scanners like that of the daemon, by the names of their rows."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
    own = OwnMount(str(mount.path))
    _ = own.numbers  # found once for all looks
    with ExitStack() as stack:
        made = {}
        for way, query in _ways().items():
            asking = Kernel(query, kcmp.compare_memory)
            made[_row(way, _ASKED)] = MappingScanner(own, asking, only_uid=None)
            if asking.tells_who_slept():
                learning = MappingScanner(own, asking, only_uid=None, most_files=files)
                made[_row(way, _SLEPT)] = stack.enter_context(closing(learning))
        yield made


def _look(scanner: MappingScanner, fd: int) -> float:
    """Look once for those who map ``fd``; the seconds that it took."""
    ino = os.fstat(fd).st_ino
    started = time.perf_counter()
    found = scanner.scan({ino: Openers()})
    seconds = time.perf_counter() - started
    if not found.of(ino) or found.unreadable:
        raise RuntimeError("the look did not find those who map the file")
    return seconds


def _forced(fd: int, start: int, length: int) -> float:
    """Seconds to purge all of the range."""
    started = time.perf_counter()
    purged = fvrange_purge(fd, start, length)
    seconds = time.perf_counter() - started
    if purged != length:
        raise RuntimeError(f"{purged} of {length} bytes were purged")
    return seconds


@contextmanager
def _volatile_file(mount: VolatileMount, size: int) -> Iterator[tuple[int, Path]]:
    """A file full of data, volatile in ranges of _BATCH: its descriptor and path. Then gone."""
    path = mount.path / "data"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        block = b"d" * _MIB
        for offset in range(0, size, _MIB):
            os.pwrite(fd, block[: size - offset], offset)
        for start in range(0, size, _BATCH):
            fvrange(fd, start, min(_BATCH, size - start), VRANGE_VOLATILE)
        yield fd, path
    finally:
        os.close(fd)
        path.unlink()
