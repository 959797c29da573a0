"""VolatileCache beside diskcache and a dict behind a multiprocessing manager; pins; imports."""

from __future__ import annotations

import multiprocessing
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.managers import DictProxy
from pathlib import Path
from typing import Any

import diskcache  # type: ignore[import-untyped]  # it has none

from tools.bench.figures import Figures
from tools.bench.mounts import VolatileMount, tmpfs_mount, volatile_mount
from vfs_volatile import (
    VRANGE_NONVOLATILE,
    VRANGE_VOLATILE,
    VolatileCache,
    VolatileFile,
    fvrange,
)
from vfs_volatile.units import PAGE_SIZE

_KEYS = 1000
_SMALL = 1024
_LARGE = 64 * 1024
_LARGE_KEYS = 50
_MIB = 1 << 20
_LIMIT_SECONDS = 300.0
_CROWD = 4
_PINS = 100

Opener = Callable[[], Any]
"""Makes a client of one of the caches, in whatever process."""


def measure(work: Path, quick: bool, say: Callable[[str], None]) -> list[Figures]:
    """Everything in one run; what is compared takes turns."""
    repetitions, calls = (2, 1000) if quick else (7, 5000)
    with (
        volatile_mount(work, _LIMIT_SECONDS) as mount,
        tmpfs_mount(work, 256 * _MIB) as tmpfs,
        multiprocessing.get_context("spawn").Manager() as manager,
    ):
        openers: dict[str, Opener] = {
            "VolatileCache": partial(VolatileCache, mount.path / "cache"),
            "diskcache": partial(diskcache.Cache, str(tmpfs / "diskcache")),
            "manager's dict": partial(_itself, manager.dict()),
        }
        for opener in openers.values():
            _fill(opener())
        tables = [_compare(openers, crowd, repetitions, calls, say) for crowd in (1, _CROWD)]
        return [*tables, _pins(mount, repetitions, say), _imports(repetitions, say)]


def _itself(proxy: DictProxy[Any, Any]) -> DictProxy[Any, Any]:
    return proxy


def _fill(cache: Any) -> None:
    dice = random.Random(1)
    for number in range(_KEYS):
        cache[f"key {number}"] = dice.randbytes(_SMALL)
    for number in range(_LARGE_KEYS):
        cache[f"large {number}"] = dice.randbytes(_LARGE)


# ---- caches ----


def _compare(
    openers: dict[str, Opener],
    crowd: int,
    repetitions: int,
    calls: int,
    say: Callable[[str], None],
) -> Figures:
    many = "processes" if crowd > 1 else "process"
    figures = Figures(
        f"Caches: one call, us, in {crowd} {many} at once",
        list(openers),
        notes=[
            f"Median and quartiles of {repetitions} means of {calls} calls in each process, at",
            f"random among {_KEYS} keys; values of 1 KiB unless said otherwise. diskcache is on a",
            "tmpfs, with its defaults. Nothing is purged.",
        ],
    )
    for number in range(repetitions):
        say(f"caches, {crowd} {many}: repetition {number + 1} of {repetitions}")
        for case, opener in openers.items():
            for costs in _crowd_costs(opener, crowd, calls):
                for operation, cost in costs.items():
                    figures.add(operation, "us", case, cost)
    return figures


def _crowd_costs(opener: Opener, crowd: int, calls: int) -> list[dict[str, float]]:
    """What each of ``crowd`` processes found, all of them at it at the same time."""
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(crowd), context.SimpleQueue()
    processes = [
        context.Process(target=_work, args=(opener, seed, calls, start, answers))
        for seed in range(crowd)
    ]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def _work(opener: Opener, seed: int, calls: int, start: Any, answers: Any) -> None:
    cache = opener()
    dice = random.Random(seed)
    value = dice.randbytes(_SMALL)
    keys = [f"key {dice.randrange(_KEYS)}" for _ in range(calls)]
    missing = [f"no {key}" for key in keys]
    large = [f"large {dice.randrange(_LARGE_KEYS)}" for _ in range(calls // 10)]
    mine = [f"mine {seed} {key}" for key in keys[: calls // 10]]
    costs = {}
    for operation, call, chosen in (
        ("get, hit", cache.get, keys),
        ("get, hit, 64 KiB", cache.get, large),
        ("get, miss", cache.get, missing),
        ("set", lambda key: cache.__setitem__(key, value), mine),
    ):
        start.wait()
        costs[operation] = _mean_us(call, chosen)
    answers.put(costs)


def _mean_us(call: Callable[[str], object], keys: list[str]) -> float:
    started = time.perf_counter_ns()
    for key in keys:
        call(key)
    return (time.perf_counter_ns() - started) / len(keys) / 1000


# ---- pins ----


def _pins(mount: VolatileMount, repetitions: int, say: Callable[[str], None]) -> Figures:
    sizes = {"4 KiB": PAGE_SIZE, "1 MiB": _MIB, "64 MiB": 64 * _MIB}
    figures = Figures(
        "VolatileFile: pin a range that is volatile, and let it go again, us",
        list(sizes),
        notes=[
            f"Median and quartiles of {repetitions} means of {_PINS}. Nothing was purged. The",
            "calls alone are fvrange NONVOLATILE and VOLATILE; a pin asks how the range was",
            "marked, and maps it twice.",
        ],
    )
    say("pins")
    with VolatileFile(mount.path / "pinned", size=64 * _MIB) as file:
        for _ in range(repetitions):
            for case, size in sizes.items():
                file.unmark()
                file.mark(0, size)
                for operation, call in (("pinned()", _pin), ("the calls", _calls)):
                    started = time.perf_counter_ns()
                    for _ in range(_PINS):
                        call(file, size)
                    cost = (time.perf_counter_ns() - started) / _PINS / 1000
                    figures.add(operation, "us", case, cost)
    return figures


def _pin(file: VolatileFile, size: int) -> None:
    with file.pinned(0, size):
        pass


def _calls(file: VolatileFile, size: int) -> None:
    fvrange(file, 0, size, VRANGE_NONVOLATILE)
    fvrange(file, 0, size, VRANGE_VOLATILE)


# ---- imports ----


def _imports(repetitions: int, say: Callable[[str], None]) -> Figures:
    programs = {
        "interpreter": "pass",
        "vfs_volatile": "import vfs_volatile",
        "VolatileFile": "from vfs_volatile import VolatileFile",
        "VolatileCache": "from vfs_volatile import VolatileCache",
        "diskcache": "import diskcache",
    }
    figures = Figures(
        "Start of a program that imports it, ms",
        list(programs),
        notes=[f"Median and quartiles of {3 * repetitions} runs to the end; they take turns."],
    )
    say("imports")
    for _ in range(3 * repetitions):
        for case, program in programs.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
            figures.add("start to end", "ms", case, 1000 * (time.perf_counter() - started))
    return figures
