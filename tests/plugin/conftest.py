"""Sessions of pytest with the plugin, in processes of their own, on real mounts."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mount import ROOT
from tests.support.mountinfo import abort, detach, mounts_below
from tests.support.waiting import PATIENCE, eventually

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def work(pytester: pytest.Pytester) -> Iterator[Path]:
    """Where sessions run; what is left mounted there is a failure, and is freed."""
    yield pytester.path
    left = mounts_below(pytester.path)
    for mountpoint, connection in left.items():
        abort(connection)
        detach(mountpoint)
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(mountpoint).encode() in process.read_bytes().split(b"\0"):
                    os.kill(int(process.parent.name), signal.SIGKILL)  # it may be stopped
    assert not left


@pytest.fixture
def run(pytester: pytest.Pytester, work: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest on a module of tests, with this plugin and no other."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "vfs_volatile.pytest_plugin")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeini("[pytest]\naddopts = --strict-markers -p no:cacheprovider\n")

    def run(module: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(module)
        done = pytester.runpytest_subprocess(*arguments, timeout=PATIENCE)
        assert eventually(lambda: mounts_below(work) == {}), "a mount is left"
        return done

    return run
