"""Unmarking run by run, against a model of a daemon that purges whenever it likes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vfs_volatile.abi.ioctls import STATE_PURGED, STATE_VOLATILE, FvrangeInfo
from vfs_volatile.client import unmark
from vfs_volatile.client.unmark import Span, unmark_runs
from vfs_volatile.units import PAGE_SIZE, pages_for

TAIL = 100
"""Bytes in the last page of the file."""


class Daemon:
    """One file, page by page: ``k`` kept, ``v`` volatile, ``p`` volatile and purged."""

    def __init__(self, pages: str, fd: int, races: Iterator[int]) -> None:
        self.pages = list(pages)
        self.found: set[int] = set()
        """Pages that were purged when their volatility ended."""
        self._races = races
        self.size = (len(pages) - 1) * PAGE_SIZE + TAIL
        os.ftruncate(fd, self.size)

    def next(self, _fd: int, start: int) -> Iterator[FvrangeInfo]:
        for first in range(pages_for(start + 1) - 1, len(self.pages)):
            if first * PAGE_SIZE < start and start >= self.size:
                return
            if (state := self.pages[first]) != "k":
                end = first
                while end < len(self.pages) and self.pages[end] == state:
                    end += 1
                begin = first * PAGE_SIZE
                length = min(end * PAGE_SIZE, self.size) - begin
                yield FvrangeInfo(
                    begin, length, 0, STATE_PURGED if state == "p" else STATE_VOLATILE
                )
                return

    def fvrange(self, _fd: int, start: int, length: int, _mode: int) -> int:
        raced = next(self._races, None)  # a page that is (marked and) purged just before this call
        if raced is not None and raced < len(self.pages):
            self.pages[raced] = "p"
        end = min(start + length, self.size) if length else self.size
        purged = 0
        for page in range(start // PAGE_SIZE, pages_for(end)):
            if self.pages[page] == "p":
                self.found.add(page)
                purged += min(end, (page + 1) * PAGE_SIZE) - max(start, page * PAGE_SIZE)
            self.pages[page] = "k"
        return purged


def unmarked(daemon: Daemon, fd: int, start: int, length: int) -> list[Span]:
    with (
        mock.patch.object(unmark, "fvrange", daemon.fvrange),
        mock.patch.object(unmark, "fvrange_next", daemon.next),
    ):
        return list(unmark_runs(fd, start, length))


def pages_of(spans: list[Span]) -> set[int]:
    return {
        page
        for start, length in spans
        for page in range(start // PAGE_SIZE, pages_for(start + length))
    }


@pytest.fixture(scope="module")
def fd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    path: Path = tmp_path_factory.mktemp("unmark") / "file"
    number = os.open(path, os.O_RDWR | os.O_CREAT)
    yield number
    os.close(number)


@settings(deadline=None)
@example(pages="kp", races=[0], start=0, length=0)  # marked and purged behind our back
@example(pages="pvp", races=[], start=100, length=PAGE_SIZE)
@given(
    pages=st.text("kvp", min_size=1, max_size=12),
    races=st.lists(st.integers(0, 11), max_size=12),
    start=st.integers(0, 12 * PAGE_SIZE),
    length=st.integers(0, 12 * PAGE_SIZE),
)
def test_what_was_purged_is_always_told(
    fd: int, pages: str, races: list[int], start: int, length: int
) -> None:
    daemon = Daemon(pages, fd, iter(races))
    spans = unmarked(daemon, fd, start, length)
    assert daemon.found <= pages_of(spans)
    if start < daemon.size:
        end = min(start + length, daemon.size) if length else daemon.size
        assert set(daemon.pages[start // PAGE_SIZE : pages_for(end)]) <= {"k"}
    if not races:
        assert daemon.found == pages_of(spans), "told of pages that were intact"
        for span in spans:
            assert span.start % PAGE_SIZE == 0
            assert sum(span) % PAGE_SIZE == 0 or sum(span) == daemon.size


def test_runs_are_told_in_order_and_cut_at_the_end_of_file(fd: int) -> None:
    daemon = Daemon("ppvkp", fd, iter(()))
    assert unmarked(daemon, fd, 0, 0) == [(0, 2 * PAGE_SIZE), (4 * PAGE_SIZE, TAIL)]


def test_a_race_in_a_long_run_leaves_only_one_step_in_doubt(fd: int) -> None:
    pages = 100_000
    daemon = Daemon("v" * pages, fd, iter([10]))
    spans = unmarked(daemon, fd, 0, 0)
    assert 10 in pages_of(spans)
    assert len(pages_of(spans)) <= pages // 64
