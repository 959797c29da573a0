"""What a watcher sees of anonymous memory: status, events, the largest, metrics."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.anonymous import Family, Process, compile_client
from tests.support.fvrange import PAGE
from tests.support.mount import Mount, MountFactory, run
from tests.support.waiting import eventually
from vfs_volatile.cli.wording import event_line


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_client(tmp_path_factory.mktemp("client"))


@pytest.fixture
def family(client: Path, tmp_path: Path) -> Iterator[Family]:
    made = Family(client, tmp_path)
    yield made
    made.end()


@pytest.fixture
def mounted(mount: MountFactory) -> Mount:
    return mount()


@pytest.fixture
def process(family: Family, mounted: Mount) -> Process:
    process = family.first().start(mounted.path, 8)
    process.fill(0, 8, "a")
    process.mark(0, 4)
    return process


def processes(mount: Mount) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(os.getxattr(mount.path, "user.vfs_volatile.anonymous"))
    return found


def events(mount: Mount) -> list[str]:
    """What `vfs-volatile events` prints for each."""
    found = json.loads(os.getxattr(mount.path, "user.vfs_volatile.events.0"))
    return [event_line(event) for event in found["events"]]


def test_a_process_is_listed_with_what_it_has(process: Process, mounted: Mount) -> None:
    mounted.set_root("purge", str(PAGE))
    assert processes(mounted) == [
        {
            "pid": process.pid,
            "command": "anonymous-plain",
            "resident": 7 * PAGE,
            "volatile": 4 * PAGE,
            "purged": PAGE,
            "kept": 0,
            "by": [],
        }
    ]
    stats = mounted.stats()
    assert stats["anonymous_processes"] == 1
    assert stats["anonymous_resident"] == 7 * PAGE


def test_it_is_told_why_memory_is_kept(process: Process, family: Family, mounted: Mount) -> None:
    child = family.fork(process)
    child.unmark(0, 3)
    mounted.set_root("purge", "all")
    of_parent = next(found for found in processes(mounted) if found["pid"] == process.pid)
    assert of_parent["kept"] == 3 * PAGE
    assert of_parent["by"] == [
        {"rule": "shared", "pid": child.pid, "command": "anonymous-plain", "bytes": 3 * PAGE}
    ]
    shown = run("status", mounted.path).stdout
    line = next(text for text in shown.splitlines() if f"[{process.pid}]" in text)
    assert "12.0 KiB kept: shared with anonymous-plain" in line
    assert f"[{child.pid}], who has not marked it" in line


def test_one_that_does_not_answer_is_named(process: Process, mounted: Mount) -> None:
    process.signal(signal.SIGSTOP)
    mounted.set_root("purge", "all")
    (found,) = processes(mounted)
    assert found["by"] == [{"rule": "silent", "pid": process.pid, "command": "anonymous-plain"}]
    assert "who does not answer" in run("status", mounted.path).stdout
    (block,) = [line for line in events(mounted) if " block " in line]
    assert f"held by anonymous-plain[{process.pid}], who does not answer" in block
    process.signal(signal.SIGCONT)


def test_events_tell_of_marks_and_purges(process: Process, mounted: Mount) -> None:
    mounted.set_root("purge", "all")
    process.unmark(0, 4)
    shown = events(mounted)
    words = [line.split()[1] for line in shown]
    assert words == ["mark", "purge", "unmark"]
    assert all(f"memory of anonymous-plain[{process.pid}]" in line for line in shown)
    assert "16.0 KiB for request" in shown[1]
    assert "16.0 KiB lost" in shown[2]


def test_it_stands_among_the_largest_files(process: Process, mounted: Mount) -> None:
    mounted.file("file", 2).mark()

    def order() -> list[object]:
        files = json.loads(os.getxattr(mounted.path, "user.vfs_volatile.files.volatile"))
        return [file.get("process", {}).get("pid") for file in files]

    mounted.set_root("purge", str(PAGE))  # so that the process tells what it holds
    assert eventually(lambda: order() == [process.pid, None])
