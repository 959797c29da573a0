"""Our mount and a real tmpfs, side by side."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.parity.sides import Sides
from tests.support.mount import Mount
from tests.support.waiting import PATIENCE
from tests.support.watchdog import Watchdog

SIZE = "256M"
"""Of both. Our budget is the same: nothing is volatile here, so nothing is ever purged."""

OURS: dict[str, Any] = {"size": SIZE, "budget": SIZE, "allow-other": "-osuid,dev"}
"""A flag and its successor, given as name and value. libfuse mounts nosuid,nodev, tmpfs not."""

LINUX = (6, 18)
"""The tmpfs that we are compared with. Older ones lack user attributes, O_DIRECT and more."""


@pytest.fixture(scope="package", autouse=True)
def comparable() -> None:
    release = os.uname().release
    if tuple(int(part) for part in release.split(".")[:2]) < LINUX:
        pytest.skip(f"compares with tmpfs of Linux {LINUX[0]}.{LINUX[1]}, and this is {release}")
    if os.getuid() != 0:
        pytest.skip("mounts a tmpfs and plays other users: run it as root")


@pytest.fixture(scope="package")
def tmpfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Detached at once and reached through a descriptor: however pytest ends, it goes along."""
    path = tmp_path_factory.mktemp("tmpfs")
    options = f"huge=never,mode=755,size={SIZE}"
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True, timeout=PATIENCE
    )
    root = os.open(path, os.O_RDONLY)
    subprocess.run(["umount", "-l", path], check=True, timeout=PATIENCE)
    yield Path(f"/proc/{os.getpid()}/fd/{root}")
    os.close(root)


PATHS = {"cached": {}, "passthrough": {"access": "zero"}}
"""Ways to the data of files, and the options that choose them."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Play on both paths what has to do with data, or the attributes that change with them."""
    kind = metafunc.module.__name__.rpartition("test_")[2]
    if "ours" in metafunc.fixturenames and kind in (
        "acls",
        "data",
        "mappings",
        "permissions",
        "random",
        "random_files",
        "space",
        "times",
        "limits_passthrough",
    ):
        paths = ["passthrough"] if kind.startswith("limits") else list(PATHS)
        metafunc.parametrize("ours", paths, indirect=True, scope="module")


@pytest.fixture(scope="module")
def ours(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    probe: Path,
    watchdog: Watchdog,
) -> Iterator[Mount]:
    options = {**OURS, **PATHS[getattr(request, "param", "cached")]}
    mounted = Mount(tmp_path_factory.mktemp("parity"), watchdog, probe, **options)
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
