"""Sessions of pytest with the plugin, in processes of their own, on real mounts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mount import ROOT
from tests.support.mountinfo import mounts_below
from tests.support.waiting import eventually

Run = Callable[..., pytest.RunResult]
SESSION_SECONDS = 60


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest on a module of tests, with this plugin and no other."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "vfs_volatile.pytest_plugin")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeini("[pytest]\naddopts = --strict-markers -p no:cacheprovider\n")

    def run(module: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(module)
        done = pytester.runpytest_subprocess(*arguments, timeout=SESSION_SECONDS)
        assert eventually(lambda: mounts_below(Path(pytester.path)) == {}, 1), "a mount is left"
        return done

    return run
