"""Our mount and a real tmpfs, side by side."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.sides import Sides
from tests.support.mount import Mount
from tests.support.watchdog import Watchdog

SIZE = "256M"
"""Of both. Our budget is the same: nothing is volatile here, so nothing is ever purged."""

OURS = {"size": SIZE, "budget": SIZE, "allow-other": "-osuid,dev"}
"""A flag and its successor, given as name and value. libfuse mounts nosuid,nodev, tmpfs not."""


@pytest.fixture(scope="package")
def tmpfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("tmpfs")
    options = f"huge=never,mode=755,size={SIZE}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True, timeout=10)
    yield path
    subprocess.run(["umount", "-l", path], check=True, timeout=10)


@pytest.fixture(scope="module")
def ours(
    tmp_path_factory: pytest.TempPathFactory, probe: Path, watchdog: Watchdog
) -> Iterator[Mount]:
    mounted = Mount(tmp_path_factory.mktemp("parity"), watchdog, probe, **OURS)
    yield mounted
    mounted.end()


@pytest.fixture
def sides(ours: Mount, tmpfs: Path) -> Iterator[Sides]:
    """A new, empty directory on each."""
    ours.rearm()
    pair = Sides(ours.path / "scene", tmpfs / "scene")
    for directory in pair:
        directory.mkdir()
        os.chmod(directory, 0o755)
    yield pair
    shutil.rmtree(pair.tmpfs)
    ours.clear()
