"""``vfs-volatile top`` on a terminal, and where there is none."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fvrange import PAGE
from tests.support.mount import ROOT, Mount, MountFactory, command, run
from tests.support.terminal import Terminal
from tests.support.waiting import PATIENCE


def top(mounted: Mount, **env: str) -> Terminal:
    return Terminal(command("top", mounted.path, "--interval", "0.2"), env)


@pytest.fixture
def terminal(fs: Mount) -> Iterator[Terminal]:
    """It has drawn something."""
    with top(fs) as terminal:
        assert terminal.shows(" quit ")
        yield terminal


def test_it_shows_files_purges_and_who_blocks(fs: Mount, terminal: Terminal) -> None:
    file = fs.file("tiles", 8)
    file.mark()
    assert terminal.shows("tiles")
    file.purge(0, PAGE)
    assert terminal.shows("LAST PURGES")
    actor = fs.actor(file, "r").map("private", "r")
    file.purge()
    assert terminal.shows(f"mapped private by probe[{actor.pid}]")


def test_keys(fs: Mount, terminal: Terminal) -> None:
    terminal.type("s")
    assert terminal.shows("files by resident")
    terminal.type("p")
    assert terminal.shows("PAUSED")
    fs.file("meanwhile", 1).mark()
    terminal.type("x")
    assert terminal.shows("PAUSED")
    assert "meanwhile" not in terminal.text
    terminal.type("p")
    assert terminal.shows("meanwhile")
    terminal.type("q")
    assert terminal.end() == 0


def test_a_new_size_is_drawn_at_once_also_in_a_pause(terminal: Terminal) -> None:
    terminal.type("p")
    assert terminal.shows("PAUSED")
    terminal.resize(50, 12)
    assert terminal.draws(lambda lines: list(map(len, lines)) == [50] * 12)


ENDS: dict[str, Callable[[Terminal], None]] = {
    "q": lambda terminal: terminal.type("q"),
    "ctrl-c": lambda terminal: terminal.type("\x03"),
    "term": lambda terminal: terminal.process.send_signal(signal.SIGTERM),
    "hup": lambda terminal: terminal.process.send_signal(signal.SIGHUP),
}
CODES = {"q": 0, "ctrl-c": 130, "term": 128 + signal.SIGTERM, "hup": 128 + signal.SIGHUP}


@pytest.mark.parametrize("how", ENDS)
def test_however_it_ends_the_terminal_is_as_before(terminal: Terminal, how: str) -> None:
    assert not terminal.is_as_before()
    ENDS[how](terminal)
    assert terminal.end() == CODES[how]
    assert terminal.is_as_before()
    assert "Traceback" not in terminal.text


def test_when_the_mount_goes_away_it_says_so(mount: MountFactory) -> None:
    mounted = mount()
    with top(mounted) as terminal:
        assert terminal.shows(" quit ")
        mounted.end()
        assert terminal.end() == 0
        assert terminal.is_as_before()
        assert terminal.text.endswith(f"{mounted.path} is not mounted any more\r\n")


def test_when_the_daemon_dies_it_says_so(mount: MountFactory) -> None:
    mounted = mount()
    with top(mounted) as terminal:
        assert terminal.shows(" quit ")
        mounted.kill()
        assert terminal.end() == 1
        assert terminal.is_as_before()
    assert f"vfs-volatile: {mounted.path} is a dead mount" in terminal.text
    assert run("umount", mounted.path).returncode == 0


def test_while_it_is_stopped_the_terminal_is_as_before(terminal: Terminal) -> None:
    terminal.type("\x1a")
    assert terminal.stopped()
    assert terminal.is_as_before()
    terminal.process.send_signal(signal.SIGCONT)
    assert terminal.shows(" quit ")
    assert not terminal.is_as_before()


def test_no_color_where_none_is_wanted(fs: Mount) -> None:
    fs.file("file", 4).mark()
    color = re.compile(rb"\x1b\[(\d+;)*3\dm")
    with top(fs) as terminal:
        assert terminal.shows("file")
        assert color.search(terminal.output)
    with top(fs, NO_COLOR="1") as terminal:
        assert terminal.shows("file")
        assert not color.search(terminal.output)


def test_on_a_dumb_terminal_lines_are_printed(fs: Mount) -> None:
    with top(fs, TERM="dumb") as terminal:
        assert terminal.shows("marks/s")
        assert b"\x1b" not in terminal.output


@pytest.fixture
def piped(fs: Mount) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command("top", fs.path, "--interval", "0.2"),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        yield process
        process.kill()


def test_into_a_pipe_lines_are_printed(fs: Mount, piped: subprocess.Popen[str]) -> None:
    assert piped.stdout is not None
    assert re.match(r"\d\d:\d\d:\d\d\.\d+  resident .* files blocked\n", piped.stdout.readline())
    file = fs.file("file", 4)
    file.mark()
    actor = fs.actor(file, "r").map("private", "r")
    file.purge()
    while "block " not in (text := piped.stdout.readline()):
        assert "resident" in text
    assert f"probe[{actor.pid}]" in text


def test_it_ends_when_nobody_reads_it_any_more(piped: subprocess.Popen[str]) -> None:
    assert piped.stdout is not None
    piped.stdout.readline()
    piped.stdout.close()
    piped.stdout = None
    assert piped.wait(PATIENCE) == 1
    assert piped.stderr is not None
    assert piped.stderr.read() == ""


def test_only_a_mount_can_be_watched(tmp_path: Path) -> None:
    done = run("top", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
