"""Fixtures of all tests: real mounts under a watchdog, and no skipping where it must not be."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.support.actor import compile_probe
from tests.support.mount import DEFAULT_DEADLINE, Mount, MountFactory
from tests.support.watchdog import Watchdog


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """On CI a skipped test has tested nothing, and nobody reads why: it counts as failed."""
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which counts as failed when CI is set: {report.longrepr}"


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
def watchdog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watchdog]:
    dog = Watchdog(tmp_path_factory.mktemp("watchdog") / "stacks.txt")
    yield dog
    dog.close()


@pytest.fixture
def mount(tmp_path: Path, probe: Path, watchdog: Watchdog) -> Iterator[MountFactory]:
    """Make mounts of the test's own: ``mount(budget="1M", access="zero", deadline=60)``."""
    made: list[Mount] = []
    numbers = count()

    def make(deadline: float = DEFAULT_DEADLINE, **options: str) -> Mount:
        work = tmp_path / f"mount{next(numbers)}"
        made.append(Mount(work, watchdog, probe, deadline, **options))
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


@pytest.fixture(scope="module")
def shared_mount(
    tmp_path_factory: pytest.TempPathFactory, probe: Path, watchdog: Watchdog
) -> Iterator[Mount]:
    mounted = Mount(tmp_path_factory.mktemp("shared"), watchdog, probe)
    yield mounted
    mounted.end()


@pytest.fixture
def fs(shared_mount: Mount) -> Iterator[Mount]:
    """One mount with default options for a whole module, empty at the start of each test."""
    shared_mount.rearm()
    yield shared_mount
    shared_mount.release(empty=True)
