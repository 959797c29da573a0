"""Commands about a mount whose stdout is closed or full, or read by nobody any more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.fvrange import PAGE
from tests.support.mount import Mount, run
from tests.support.mountinfo import is_mounted
from tests.support.outputs import REFUSING, redirected, unread

PRINTING = [
    "status {}",
    "status {} --json",
    "status {}/file",
    "status {}/file --json",
    "budget {}",
    "purge {} --all",
    "purge {}/file",
    "unmark {}/file",
    "events {} --all",
    "top {} --interval 0.1",
]
SILENT = ["mark {}/file", "budget {} 64M"]


def prepare(fs: Mount, line: str) -> list[str]:
    """A file with something to print about; the words of ``line``."""
    file = fs.file("file", 2)
    file.mark()
    file.purge(0, PAGE)
    return line.format(fs.path).split()


@pytest.mark.parametrize("how", REFUSING)
@pytest.mark.parametrize("line", PRINTING)
def test_a_stdout_that_takes_nothing_is_told_in_one_line(fs: Mount, line: str, how: str) -> None:
    done = redirected(how, *prepare(fs, line))
    assert done.returncode == 1
    assert done.stderr.startswith("vfs-volatile: cannot write to stdout: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("line", PRINTING)
def test_a_reader_that_has_seen_enough_is_told_nothing(fs: Mount, line: str) -> None:
    done = unread(*prepare(fs, line))
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("how", REFUSING)
@pytest.mark.parametrize("line", SILENT)
def test_who_prints_nothing_needs_no_stdout(fs: Mount, line: str, how: str) -> None:
    done = redirected(how, *prepare(fs, line))
    assert (done.returncode, done.stderr) == (0, "")


def test_events_do_not_wait_for_one_if_nobody_could_be_told(fs: Mount) -> None:
    assert redirected(">&-", "events", fs.path).returncode == 1


@pytest.mark.parametrize("how", REFUSING)
def test_a_mount_that_cannot_say_that_it_is_ready_is_none(tmp_path: Path, how: str) -> None:
    done = redirected(how, "mount", tmp_path, "-f")
    assert done.returncode == 1
    assert done.stderr.startswith("vfs-volatile: cannot write to stdout: ")
    assert done.stderr.count("\n") == 1
    assert not is_mounted(tmp_path)


def test_mount_and_umount_need_no_streams(tmp_path: Path) -> None:
    assert redirected("<&- >&- 2>&-", "mount", tmp_path).returncode == 0
    try:
        (tmp_path / "file").write_text("content")
        assert os.listdir(tmp_path) == ["file"]
    finally:
        done = redirected("<&- >&- 2>&-", "umount", tmp_path)
    assert done.returncode == 0
    assert not is_mounted(tmp_path)


@pytest.mark.parametrize("line", ["demo --modules 10", "scenarios run anon-zero"])
def test_what_runs_on_a_mount_of_its_own_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = redirected(">/dev/full", *line.split())
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_a_long_path_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than the name of a socket may be, unix(7)."""
    long = tmp_path / ("d" * 100) / ("e" * 100)
    long.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(long))
    done = run("scenarios", "run", "exec-ends-votes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(long.iterdir()) == []
