"""``vfs-volatile status``: who keeps a file, or what of a mount, from being purged."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.files import VFile
from tests.support.fvrange import PAGE
from tests.support.mount import Mount, run


@pytest.fixture
def file(fs: Mount) -> VFile:
    """Four pages; all but the first are volatile."""
    file = fs.file("file", 4)
    file.mark(PAGE, 0)
    return file


def status(path: object) -> str:
    done = run("status", path)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def blockers(file: VFile) -> list[int]:
    found = json.loads(run("status", file.path, "--json").stdout)["blocked_by"]
    return [one["pid"] for one in found]


def test_of_a_file_it_tells_who_forbids_its_purge(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file, "r").map("private", "r", 2, 2)
    (line,) = re.findall("^not to be purged now: .*", status(file.path), re.MULTILINE)
    assert re.fullmatch(rf".*: 8K\+8K is mapped private by probe\[{actor.pid}\] at \w+-\w+", line)
    assert actor.pid in blockers(file)
    actor.unmap()
    assert "not to be purged" not in status(file.path)
    assert blockers(file) == []


def test_who_maps_what_is_not_volatile_or_gone_forbids_nothing(fs: Mount, file: VFile) -> None:
    file.purge(PAGE, PAGE)
    fs.actor(file, "r").map("private", "r", 0, 2)
    assert "not to be purged" not in status(file.path)
    assert blockers(file) == []


def test_of_a_mount_it_tells_what_could_not_be_purged(fs: Mount, file: VFile) -> None:
    actor = fs.actor(file, "r").map("private", "r", 2, 1)
    fs.set_root("purge", "all")
    (line,) = re.findall("^blocked: .*", status(fs.path), re.MULTILINE)
    assert line.startswith(f"blocked: file 4K+12K mapped private by probe[{actor.pid}] at ")
    (entry,) = json.loads(run("status", fs.path, "--json").stdout)["blocked"]
    assert (entry["path"], entry["cause"]) == ("file", "request")
    actor.unmap()
    fs.set_root("purge", "all")
    assert "blocked: " not in status(fs.path)
