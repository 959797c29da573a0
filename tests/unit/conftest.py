"""Fixtures of tests of single units."""

from __future__ import annotations

import sys

import pytest
from sortedcontainers import SortedList

from tests.support.no_memory import NoMemory, compile_as


@pytest.fixture(scope="session")
def _compiled(tmp_path_factory: pytest.TempPathFactory) -> NoMemory:
    return NoMemory(compile_as(tmp_path_factory.mktemp("no_memory") / "no_memory.so"))


@pytest.fixture
def no_memory(_compiled: NoMemory, monkeypatch: pytest.MonkeyPatch) -> NoMemory:
    """Lets allocations fail, and the purge queue be split and joined as one of thousands is."""
    monkeypatch.setattr(SortedList, "DEFAULT_LOAD_FACTOR", 2)
    # A generator that is given up, and has no memory to end, is no news.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    return _compiled
