"""Rows of ``docs/limits.md`` that do not hold on the passthrough path: there all is as on tmpfs."""

from __future__ import annotations

import pytest

from tests.parity import test_limits, test_limits_fuse, test_limits_times  # noqa: F401  # fill it
from tests.parity.limits import SCENES
from tests.parity.sides import Sides


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
