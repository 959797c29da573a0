"""Rows of ``docs/limits.md`` that do not hold on the passthrough path: there all is as on tmpfs."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import pytest

from tests.parity import test_limits, test_limits_fuse, test_limits_times  # noqa: F401  # fill it
from tests.parity.calls import cachestat, mincore
from tests.parity.limits import SCENES
from tests.parity.sides import Sides, made, opened


@pytest.mark.parametrize(
    "row",
    [
        "loading a hole through a mapping",
        "userfaultfd",
        "truncating and the page cache",
        "atime of cached reads",
        "atime of `mmap`",
        "times and blocks after a store",
        "a store beyond the end of file",
        "a store when the mount is full",
    ],
)
def test_as_on_tmpfs(sides: Sides, row: str) -> None:
    scene = SCENES[row]
    assert scene(sides.ours) == scene(sides.tmpfs)


def test_pages_in_the_cache(sides: Sides) -> None:
    """The one call that looks for them in the wrong file (docs/data-paths.md)."""

    def seen(here: Path) -> tuple[int, int]:
        with opened(made(here / "file", b"x" * 4096)) as fd, mmap.mmap(fd, 4096) as shared:
            return cachestat(fd), mincore(ctypes.addressof(ctypes.c_char.from_buffer(shared)), 1)[0]

    assert seen(sides.ours) == (0, 1)
    assert seen(sides.tmpfs) == (1, 1)
