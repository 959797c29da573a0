"""``vfs-volatile events``: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.parity.sides import as_user
from tests.support.fvrange import PAGE, PARTIAL
from tests.support.mount import ROOT, Mount, MountFactory, command, run
from tests.support.waiting import PATIENCE, eventually
from vfs_volatile.cli.feed import Feed
from vfs_volatile.errors import UserError

_SIZES = count(100)


class Stream:
    """A running ``vfs-volatile events``."""

    def __init__(self, mounted: Mount, *options: str) -> None:
        self.process = subprocess.Popen(
            command("events", mounted.path, *options),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self._text = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)

    def line(self) -> str:
        """The next line, without its time."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._text:
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self.process.stdout], [], [], left)
            chunk = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert chunk, f"no line after {self._text!r}"
            self._text += chunk
        line, _, self._text = self._text.partition(b"\n")
        return re.sub(r"^\d\d:\d\d:\d\d\.\d\d\d  ", "", os.fsdecode(line))

    def hang_up(self) -> None:
        """Close the pipe that it prints into."""
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.stdout = None

    def end(self) -> tuple[int, str]:
        """Exit code and stderr."""
        _, stderr = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, os.fsdecode(stderr)


@pytest.fixture
def stream(fs: Mount) -> Iterator[Stream]:
    """It has begun: what happens now is printed."""
    with Stream(fs, "--all") as stream:
        size = next(_SIZES)
        fs.set_root("budget", f"{size}M")
        while not stream.line().startswith(f"budget  is {size}.0 MiB"):
            pass
        yield stream


def test_each_kind_is_a_line(fs: Mount, stream: Stream) -> None:
    os.mkdir(fs.path / "below")
    file = fs.file("below/file", 4)
    me = rf"\S+\[{os.getpid()}\]"
    file.mark(PAGE, 0, PARTIAL)
    assert re.fullmatch(rf"mark    4K\+12K +below/file  partial by {me}", stream.line())
    actor = fs.actor(file, "r").map("private", "r", 3, 1)
    file.purge()
    assert re.fullmatch(
        rf"block   12K\+4K +below/file  mapped private by probe\[{actor.pid}\] at \w+-\w+"
        r" \(wanted for request\)",
        stream.line(),
    )
    assert re.fullmatch(r"purge   4K\+8K +below/file  8.0 KiB for request", stream.line())
    file.unmark(0, PAGE + 1)
    assert re.fullmatch(rf"unmark  0\+4097 +below/file  1 B lost by {me}", stream.line())
    fs.set_root("budget", "64M")
    assert re.fullmatch(rf"budget  is 64.0 MiB now by {me}", stream.line())


def test_names_cannot_break_a_line_or_steer_a_terminal(fs: Mount, stream: Stream) -> None:
    file = fs.file("a\nb\x1b[2J\udcff", 1)
    file.mark()
    assert r"  a\nb\x1b[2J" + "\udcff  " in stream.line()
    file.path.unlink()
    file.unmark()
    assert re.match(r"unmark  0\+4K +\?  intact", stream.line())


def test_json_is_one_object_a_line(fs: Mount) -> None:
    file = fs.file("file", 2)
    with Stream(fs, "--json", "--all") as stream:
        file.mark()
        while (event := json.loads(stream.line()))["path"] != "file":
            pass
    assert event.pop("time") == pytest.approx(time.time(), abs=PATIENCE)
    assert event.pop("number") >= 0
    assert event == {
        "event": "mark",
        "inode": os.stat(file.path).st_ino,
        "path": "file",
        "start": 0,
        "length": 2 * PAGE,
        "behavior": 0,
        "tid": os.getpid(),
    }


def test_without_all_the_past_is_left_out(mount: MountFactory) -> None:
    mounted = mount()
    old, new = mounted.file("old", 1), mounted.file("new", 1)
    old.mark()
    with Stream(mounted) as stream:
        assert eventually(lambda: new.mark() or new.unmark() or _has_line(stream), PATIENCE)
        assert "  new  " in stream.line()


def _has_line(stream: Stream) -> bool:
    assert stream.process.stdout is not None
    return bool(select.select([stream.process.stdout], [], [], 0.02)[0])


def test_a_slow_reader_is_told_what_it_missed(mount: MountFactory) -> None:
    mounted = mount()
    file = mounted.file("file", 1)
    with Stream(mounted, "--json", "--all") as stream:
        for _ in range(9_500):
            file.mark()
        seen = missed = 0
        while seen + missed < 9_500:
            event = json.loads(stream.line())
            if event["event"] == "missed":
                missed += event["count"]
            else:
                assert event["number"] == seen + missed, "in order, and nothing twice"
                seen += 1
        assert missed > 0
        assert seen >= 8192


def test_it_ends_when_the_mount_goes_away(mount: MountFactory) -> None:
    mounted = mount()
    mounted.file("file", 1).mark()
    with Stream(mounted, "--all") as stream:
        stream.line()
        mounted.end()
        assert stream.end() == (0, "")


def test_a_daemon_that_has_died_is_told(mount: MountFactory) -> None:
    mounted = mount()
    mounted.file("file", 1).mark()
    with Stream(mounted, "--all") as stream:
        stream.line()
        mounted.kill()
        code, said = stream.end()
    told = (
        f"vfs-volatile: {mounted.path} is a dead mount (its daemon has gone);"
        f" clean up with: vfs-volatile umount {mounted.path}\n"
    )
    assert (code, said) == (1, told)
    for looking in ("events", "top", "status", "budget"):
        done = run(looking, mounted.path)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", told)
    assert run("umount", mounted.path).returncode == 0


def test_it_does_not_keep_the_mount_busy(mount: MountFactory) -> None:
    mounted = mount()
    mounted.file("file", 1).mark()
    with Stream(mounted, "--all") as stream:
        stream.line()
        mounted.clear()
        done = run("umount", mounted.path)
        assert (done.returncode, done.stderr) == (0, "")
        assert stream.end() == (0, "")
    mounted.ended_by_test()


def test_ctrl_c_ends_it_quietly(stream: Stream) -> None:
    stream.process.send_signal(signal.SIGINT)
    assert stream.end() == (130, "")


def test_it_ends_quietly_when_nobody_reads_it_any_more(stream: Stream) -> None:
    """Also if nothing happens: it does not wait for something to print."""
    stream.hang_up()
    assert stream.end() == (1, "")


def test_only_a_mount_has_events(fs: Mount) -> None:
    file = fs.file("file", 1)
    done = run("events", file.path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert str(fs.path) in done.stderr


def test_only_the_owner_of_a_mount_may_watch_it(mount: MountFactory) -> None:
    mounted = mount(**{"allow-other": "-onosuid"})
    (said,) = as_user(_watch, mounted.path)
    assert "run as the user who mounted it" in said


def _watch(here: Path) -> list[str]:
    try:
        Feed(str(here)).read()
    except UserError as error:
        return [str(error)]
    return []
