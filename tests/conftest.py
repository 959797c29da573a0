"""Fixtures of all tests: real mounts under a watchdog, and no skipping where it must not be."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support.actor import compile_probe
from tests.support.mount import DEFAULT_DEADLINE, MEMORY_LIMIT, Mount, MountFactory
from tests.support.sleeper import Sleeper, compile_sleeper
from tests.support.watchdog import Watchdog


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """On CI a skipped test has tested nothing, and nobody reads why: it counts as failed."""
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which counts as failed when CI is set: {report.longrepr}"


# Whoever started the tests may have had SIGINT ignored (a shell's background job has), and what
# the tests start would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A test is not wrong for being slow once, on a machine with much else to do.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled ``probe.c``."""
    return compile_probe(tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="session")
def sleeper_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled ``sleeper.c``."""
    return compile_sleeper(tmp_path_factory.mktemp("sleeper"))


@pytest.fixture
def sleepers(sleeper_program: Path) -> Iterator[Callable[[Path], Sleeper]]:
    """Starts processes that sleep between orders, each with a file; ended after the test."""
    with contextlib.ExitStack() as started:

        def start(file: Path) -> Sleeper:
            sleeper = Sleeper(sleeper_program, file)
            started.callback(sleeper.end)
            return sleeper

        yield start


@pytest.fixture(scope="session")
def watchdog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watchdog]:
    dog = Watchdog(tmp_path_factory.mktemp("watchdog") / "stacks.txt")
    yield dog
    dog.close()


@pytest.fixture
def mount(tmp_path: Path, probe: Path, watchdog: Watchdog) -> Iterator[MountFactory]:
    """Make mounts of the test's own: ``mount(budget="1M", access="zero", deadline=60)``."""
    made: list[Mount] = []
    numbers = count()

    def make(
        deadline: float = DEFAULT_DEADLINE,
        module: str = "vfs_volatile",
        memory: int | None = MEMORY_LIMIT,
        **options: str,
    ) -> Mount:
        work = tmp_path / f"mount{next(numbers)}"
        made.append(Mount(work, watchdog, probe, deadline, module, memory, **options))
        return made[-1]

    yield make
    _end_all(made)


def _end_all(mounts: list[Mount]) -> None:
    """Stop every mount, also when stopping one of them fails."""
    failures = []
    for mounted in mounts:
        try:
            mounted.end()
        except AssertionError as failure:
            failures.append(failure)
    if failures:
        raise failures[0]


class SharedMount:
    """One mount for many tests; a test that broke it is the last one to see it."""

    def __init__(self, make: Callable[[], Mount]) -> None:
        self._make = make
        self._mount: Mount | None = None

    def get(self) -> Mount:
        if self._mount is None:
            self._mount = self._make()
        return self._mount

    def check(self) -> None:
        """Empty the mount after a test; replace it if it is unwell, and say so by raising."""
        try:
            self.get().clear()
        except BaseException:
            with contextlib.suppress(AssertionError):
                self.end()
            raise

    def end(self) -> None:
        mounted, self._mount = self._mount, None
        if mounted is not None:
            mounted.end()


@pytest.fixture(scope="module")
def shared_mount(
    tmp_path_factory: pytest.TempPathFactory, probe: Path, watchdog: Watchdog
) -> Iterator[SharedMount]:
    shared = SharedMount(lambda: Mount(tmp_path_factory.mktemp("shared"), watchdog, probe))
    yield shared
    shared.end()


PATHS: dict[str, dict[str, str]] = {"passthrough": {}, "cached": {"o": "passthrough=off"}}
"""Ways to the data of files whose purged pages read as zeros, and the options that choose them."""


@pytest.fixture(scope="module", params=PATHS)
def shared_zero_mount(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    probe: Path,
    watchdog: Watchdog,
) -> Iterator[SharedMount]:
    options: dict[str, Any] = {"access": "zero", **PATHS[request.param]}
    shared = SharedMount(lambda: Mount(tmp_path_factory.mktemp("zero"), watchdog, probe, **options))
    yield shared
    shared.end()


@pytest.fixture(params=PATHS)
def zero_mount(request: pytest.FixtureRequest, mount: MountFactory) -> MountFactory:
    """As ``mount``, where purged pages read as zeros, on both data paths."""
    return partial(mount, access="zero", **PATHS[request.param])


@pytest.fixture
def zero_fs(shared_zero_mount: SharedMount) -> Iterator[Mount]:
    """As ``fs``, where purged pages read as zeros: a test of it runs on both data paths."""
    mounted = shared_zero_mount.get()
    mounted.rearm()
    yield mounted
    shared_zero_mount.check()


@pytest.fixture
def fs(shared_mount: SharedMount) -> Iterator[Mount]:
    """One mount with default options for a whole module, empty at the start of each test."""
    mounted = shared_mount.get()
    mounted.rearm()
    yield mounted
    shared_mount.check()
