"""How far two users who may write to files of their own can slow down another one."""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.bench.figures import Figures
from tools.bench.mounts import volatile_mount
from vfs_volatile import VRANGE_NONVOLATILE, VRANGE_VOLATILE, fvrange, fvrange_many
from vfs_volatile.client.calls import fvrange_purge
from vfs_volatile.units import PAGE_SIZE

_STRANGER = 65534
"""nobody."""
_STRANGERS = 2
_RANGES = 50_000
_MAPPINGS = 60_000
"""vm.max_map_count is 65,530."""
_VEC = 512
_MIB = 1 << 20
_LIMIT_SECONDS = 240.0
_START_SECONDS = 60.0

Attack = Callable[[int, Callable[[], None]], None]
"""``attack(fd, begin)``: what somebody does with a file of his own until he is ended. He calls
``begin`` when he begins.
"""


def measure(work: Path, quick: bool, say: Callable[[str], None]) -> list[Figures]:
    """Latencies of one user's calls, alone and beside each attack."""
    seconds = 1.0 if quick else 4.0
    figures = Figures(
        f"One user's calls, while {_STRANGERS} others do their worst",
        ["stat", "write 4 KiB", "mark", "unmark", "purge"],
        notes=[
            "Medians and quartiles. The others never rest: they take their share of the processors",
            "too. 'purge' looks at the mappings of all processes, theirs as well.",
        ],
    )
    options = {"allow-other": "", "size": "4G"}
    with volatile_mount(work, _LIMIT_SECONDS, **options) as mount:
        mount.path.chmod(0o1777)
        work.chmod(0o755)
        for name, attack in {"nothing": None, **_ATTACKS}.items():
            say(f"strangers: {name}")
            with _strangers(mount.path, attack):
                for call, taken in _latencies(mount.path / "mine", seconds).items():
                    figures.add(name, "ms", call, *(1000 * each for each in taken))
    return [figures]


def _latencies(path: Path, seconds: float) -> dict[str, list[float]]:
    """Seconds that each call of :func:`measure` took, over and over."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    page = b"p" * PAGE_SIZE
    calls: dict[str, Callable[[], object]] = {
        "stat": lambda: os.statvfs(path.parent),
        "write 4 KiB": lambda: os.pwrite(fd, page, 0),
        "mark": lambda: fvrange(fd, 0, PAGE_SIZE, VRANGE_VOLATILE),
        "purge": lambda: fvrange_purge(fd),
        "unmark": lambda: fvrange(fd, 0, PAGE_SIZE, VRANGE_NONVOLATILE),
    }
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - started)
    os.close(fd)
    return taken


# ---- strangers ----


@contextmanager
def _strangers(mount: Path, attack: Attack | None) -> Iterator[None]:
    """Other users who do that meanwhile."""
    context = multiprocessing.get_context("fork")  # what they need may be out of their reach
    begun = context.Semaphore(0)
    started = []
    try:
        for number in range(_STRANGERS if attack else 0):
            arguments = (mount / f"of-{number}", attack, begun.release)
            process = context.Process(target=_be_stranger, args=arguments, daemon=True)
            process.start()
            started.append(process)
        for _ in started:
            if not begun.acquire(timeout=_START_SECONDS):
                raise RuntimeError("a stranger has not begun; see the lines above")
        yield
    finally:
        for process in started:
            process.kill()
            process.join()
        for path in mount.glob("of-*"):
            shutil.rmtree(path)


def _be_stranger(directory: Path, attack: Attack, begin: Callable[[], None]) -> None:
    os.setgroups([])
    os.setgid(_STRANGER)
    os.setuid(_STRANGER)
    directory.mkdir()
    os.chdir(directory)
    attack(os.open("file", os.O_RDWR | os.O_CREAT), begin)


def _on_every_other_page(fd: int, mode: int) -> None:
    for first in range(0, _RANGES - _VEC, _VEC):
        pages = range(2 * first, 2 * (first + _VEC), 2)
        fvrange_many(fd, [(page * PAGE_SIZE, PAGE_SIZE) for page in pages], mode)


def _make_ranges(fd: int) -> None:
    os.ftruncate(fd, 2 * _RANGES * PAGE_SIZE)
    _on_every_other_page(fd, VRANGE_VOLATILE)


def _mark_ranges(fd: int, begin: Callable[[], None]) -> None:
    """Marks and unmarks ranges, 512 at a time."""
    begin()
    while True:
        _make_ranges(fd)
        _on_every_other_page(fd, VRANGE_NONVOLATILE)


def _name_the_whole(fd: int, begin: Callable[[], None]) -> None:
    """Marks all of a file with many ranges, 512 times in a call."""
    _make_ranges(fd)
    begin()
    while True:
        fvrange_many(fd, [(0, 0)] * _VEC, VRANGE_VOLATILE)


def _read_attributes(fd: int, begin: Callable[[], None]) -> None:
    """Asks for more ranges than an attribute holds."""
    _make_ranges(fd)
    begin()
    while True:
        try:
            os.getxattr(fd, "user.fvrange.volatile")
        except OSError:  # E2BIG
            continue


def _purge(fd: int, begin: Callable[[], None]) -> None:
    """Purges its own pages."""
    begin()
    while True:
        os.pwrite(fd, bytes(_MIB), 0)
        fvrange(fd, 0, 0, VRANGE_VOLATILE)
        fvrange_purge(fd)


def _allocate(fd: int, begin: Callable[[], None]) -> None:
    """Allocates 64 MiB, and cuts it off."""
    begin()
    while True:
        os.posix_fallocate(fd, 0, 64 * _MIB)
        os.ftruncate(fd, 0)


def _make_names(_fd: int, begin: Callable[[], None]) -> None:
    """Makes files, and removes them."""
    begin()
    while True:
        os.close(os.open("name", os.O_RDWR | os.O_CREAT))
        os.unlink("name")


def _map(fd: int, begin: Callable[[], None]) -> None:
    """Has as many mappings as it may, and never sleeps for long."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    os.ftruncate(fd, 2 * _MAPPINGS * PAGE_SIZE)
    for page in range(0, 2 * _MAPPINGS, 2):
        libc.mmap(None, PAGE_SIZE, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, page * PAGE_SIZE)
    begin()
    while True:
        time.sleep(0.002)  # awake at each look, and else no load


def _fork(_fd: int, begin: Callable[[], None]) -> None:
    """Makes children that end at once."""
    begin()
    while True:
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)


_ATTACKS: dict[str, Attack] = {
    "files come and go": _make_names,
    "64 MiB come and go": _allocate,
    "marks, 512 at a time": _mark_ranges,
    "marks of a whole file": _name_the_whole,
    "long attributes": _read_attributes,
    "purges": _purge,
    "60,000 mappings each": _map,
    "forks": _fork,
}
