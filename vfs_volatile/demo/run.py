"""The run: mount, build, look up, settle, verify, unmount, report."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from vfs_volatile.demo.crew import Crew, Worker
from vfs_volatile.demo.display import stage
from vfs_volatile.demo.plan import Plan, choose_held, default_budget, find_sources
from vfs_volatile.demo.records import Records
from vfs_volatile.demo.report import Figures, collect, judge, make_table
from vfs_volatile.mountinfo import find_mount
from vfs_volatile.trial.mounting import TemporaryMount
from vfs_volatile.trial.work import make_work_directory
from vfs_volatile.units import format_size

LIMIT_SECONDS = 120.0
"""The run is stopped after so long."""
_BUILD_SECONDS = 20.0
_LOOKUP_SECONDS = 10.0
_SETTLE_SECONDS = 15.0
"""For the purger to reach the budget when everything is volatile."""

_WORKERS = min(4, max(2, os.cpu_count() or 2))
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(modules: int | None, budget: int | None, seed: int) -> None:
    """Run the demo; ``budget`` in bytes. Raises UserError unless all of it held."""
    console = Console(highlight=False)
    with _interruptible(), _work_directory() as work:
        sources = find_sources(seed, modules)
        sizes = [os.path.getsize(source) for source in sources]
        budget = default_budget(sizes) if budget is None else budget
        plan = Plan(
            mountpoint=str(work / "mnt"),
            records=str(work / "records"),
            sources=sources,
            held=choose_held(sizes, budget),
            workers=_WORKERS,
            build_seconds=_BUILD_SECONDS if modules is None else LIMIT_SECONDS,
            lookup_seconds=_LOOKUP_SECONDS,
            seed=seed,
        )
        console.print(
            f"Compiling {len(sources):,} modules of the standard library into a cache of volatile"
            f" files,\non a mount with a budget of {format_size(budget)}; then {_WORKERS} readers"
            f" look them up (seed {seed})."
        )
        figures = _measure(plan, work, budget, console)
    console.print(make_table(figures))
    judge(figures)
    console.print("All of it held: every content was intact, or reported purged and rebuilt.")


def _measure(plan: Plan, work: Path, budget: int, console: Console) -> Figures:
    """Do it all, and hand back what came of it, with everything unmounted again."""
    begun = time.monotonic()
    Records.create(plan.records, len(plan.sources))
    plan.save(work / "plan.json")
    (work / "mnt").mkdir()
    options = ["--budget", str(budget)]
    with (
        TemporaryMount(work / "mnt", work / "daemon.log", options) as mount,
        Crew(work / "plan.json", mount, LIMIT_SECONDS) as crew,
        Records(plan.records) as records,
    ):
        mount.wait_until_ready()
        (sampler,) = crew.start("sample")
        (holder,) = crew.start("hold")
        _build(crew, plan, console)
        _look_up(crew, plan, len(records.recorded()), console)
        settled = _settle(crew, budget)
        _verify(crew, holder, len(records.recorded()), console)
        sampler.dismiss()
        crew.wait_for_end([sampler])
        _ignore_signals()  # cleaning up is all that is left
        return collect(crew.tally, plan, records.lengths(), settled, time.monotonic() - begun)


def _build(crew: Crew, plan: Plan, console: Console) -> None:
    """Fill the cache: first the holder its entries, so that they are the oldest, then the rest."""
    counts = crew.tally.counts
    with stage(console, "Building", len(plan.sources)) as shown:

        def show() -> None:
            shown.show(counts["built"] + counts["skipped"], crew.tally)

        crew.wait_until(lambda: "held" in counts, show)
        crew.wait_for_end(crew.start("build", plan.workers), show)


def _look_up(crew: Crew, plan: Plan, entries: int, console: Console) -> None:
    """Readers that pin, and an optimist."""
    with stage(console, "Looking up", plan.workers * entries) as shown:
        crew.wait_for_end(
            crew.start("read", plan.workers) + crew.start("touch"),
            lambda: shown.show(crew.tally.counts["looked_up"], crew.tally),
        )


def _settle(crew: Crew, budget: int) -> int:
    """Wait until the purger has reached the budget, or should have; the resident bytes then."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    crew.tally.sample = {}
    crew.wait_until(
        lambda: (
            crew.tally.sample.get("resident", budget + 1) <= budget or time.monotonic() > deadline
        )
    )
    return int(crew.tally.sample["resident"])


def _verify(crew: Crew, holder: Worker, entries: int, console: Console) -> None:
    """The private mappings first, then what else is left."""
    with stage(console, "Verifying", entries) as shown:
        holder.dismiss()
        crew.wait_for_end([holder])
        crew.wait_for_end(
            crew.start("sweep"), lambda: shown.show(crew.tally.counts["swept"], crew.tally)
        )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have the first SIGINT, SIGTERM or SIGHUP end the run, through every ``with``."""
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _ignore_signals()  # a second Ctrl-C must not end the cleaning up
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in _SIGNALS:  # not SIG_IGN: Python complains if such a signal is on its way already
        signal.signal(number, lambda number, frame: None)


@contextmanager
def _work_directory() -> Iterator[Path]:
    """A temporary directory, which is left where it is only if something is still mounted in it."""
    work = make_work_directory("demo")
    try:
        yield work
    finally:
        if find_mount(str(work / "mnt")) is None:
            shutil.rmtree(work)
