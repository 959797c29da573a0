"""How a mount begins and ends, well and badly: it leaves nothing behind and nobody hanging."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.errnos import errno_of
from tests.support.fvrange import PAGE
from tests.support.mount import LONG_DEADLINE, ROOT, MountFactory, command, run
from tests.support.mountinfo import detach, is_mounted
from tests.support.waiting import PATIENCE, eventually
from tests.support.watchdog import Watchdog


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts_and_exits_with_0(mount: MountFactory, how: signal.Signals) -> None:
    mounted = mount()
    mounted.file("file", 4)
    mounted.end(how)
    assert not is_mounted(mounted.path)
    assert list(mounted.path.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_in_the_moment_of_mounting_leaves_no_mount(
    tmp_path: Path, how: signal.Signals
) -> None:
    for number in range(4):  # one alone may come a moment later than it matters
        path = tmp_path / str(number)
        path.mkdir()
        daemon = subprocess.Popen(command("mount", path, "-f"), cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            while not is_mounted(path):
                assert daemon.poll() is None
            daemon.send_signal(how)
            assert daemon.wait(timeout=PATIENCE) == 0
            assert not is_mounted(path)
        finally:
            daemon.kill()
            daemon.wait()
            detach(path)


def test_a_signal_ends_a_mount_in_use(mount: MountFactory) -> None:
    """Open files and mappings do not hold it; their processes get errors and do not hang."""
    mounted = mount()
    file = mounted.file("file", 4)
    file.mark()
    actor = mounted.actor(file).map("shared")
    file.cool()
    mounted.process.send_signal(signal.SIGTERM)
    assert mounted.process.wait(timeout=PATIENCE) == 0
    assert not is_mounted(mounted.path)
    assert errno_of(os.pread, file.fd, PAGE, 0) == "ENOTCONN"
    assert actor.load(2 * PAGE).startswith("SIGBUS BUS_ADRERR")
    mounted.ended_by_test()


def test_a_signal_ends_a_mount_that_writes_and_purges(mount: MountFactory) -> None:
    mounted = mount(budget="1M")
    file = mounted.open("file")
    os.ftruncate(file.fd, 4 << 20)
    writers = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.support.worker",
                "filler",
                file.path,
                "0",
                "1024",
                "1",
                str(LONG_DEADLINE),
            ],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    assert eventually(lambda: mounted.number("purged") > 0)
    mounted.process.send_signal(signal.SIGTERM)
    assert mounted.process.wait(timeout=PATIENCE) == 0
    assert not is_mounted(mounted.path)
    assert [writer.wait(timeout=PATIENCE) != 0 for writer in writers] == [True, True]
    mounted.ended_by_test()


def test_umount_ends_the_daemon_with_0(mount: MountFactory) -> None:
    mounted = mount()
    finished = run("umount", mounted.path)
    assert finished.returncode == 0, finished.stderr
    assert mounted.process.wait(timeout=PATIENCE) == 0
    assert not is_mounted(mounted.path)
    mounted.ended_by_test()


def test_a_new_mount_is_empty(mount: MountFactory) -> None:
    mounted = mount()
    assert list(mounted.path.iterdir()) == []
    assert mounted.resident == 0


@pytest.fixture
def background(tmp_path: Path, watchdog: Watchdog) -> Iterator[Path]:
    """A directory to mount on without ``-f``; unmounted at the end."""
    directory = tmp_path / "background"
    directory.mkdir()
    watchdog.arm(directory, None, LONG_DEADLINE, tmp_path / "evidence.txt")
    yield directory
    if is_mounted(directory):
        subprocess.run(["umount", "-l", directory], check=False, timeout=PATIENCE)
    watchdog.disarm(directory)


def test_mount_in_the_background_returns_when_the_mount_answers(background: Path) -> None:
    finished = run("mount", background, "--budget", "1M")
    assert finished.returncode == 0, finished.stderr
    assert is_mounted(background)
    assert os.getxattr(background, "user.vfs_volatile.budget") == b"1048576"
    (background / "file").write_bytes(b"x")
    assert run("umount", background).returncode == 0
    assert eventually(lambda: not is_mounted(background))
    assert list(background.iterdir()) == []


def complaint(*arguments: object) -> tuple[int, str]:
    """Exit code and stderr of a command that fails; stderr has to be one line."""
    finished = run(*arguments)
    assert finished.stderr.count("\n") == 1, finished.stderr
    assert "Traceback" not in finished.stderr
    return finished.returncode, finished.stderr


@pytest.mark.parametrize("flags", [[], ["-f"]], ids=["background", "foreground"])
class TestBadMountPoint:
    """One line on stderr that names the directory, and exit code 1."""

    def test_missing(self, tmp_path: Path, flags: list[str]) -> None:
        code, line = complaint("mount", tmp_path / "missing", *flags)
        assert code == 1
        assert str(tmp_path / "missing") in line

    def test_a_file(self, tmp_path: Path, flags: list[str]) -> None:
        (tmp_path / "file").touch()
        code, line = complaint("mount", tmp_path / "file", *flags)
        assert code == 1
        assert str(tmp_path / "file") in line

    def test_not_empty(self, tmp_path: Path, flags: list[str]) -> None:
        (tmp_path / "entry").touch()
        code, line = complaint("mount", tmp_path, *flags)
        assert code == 1
        assert str(tmp_path) in line
        assert not is_mounted(tmp_path)

    def test_already_a_mount(self, mount: MountFactory, flags: list[str]) -> None:
        mounted = mount()
        code, line = complaint("mount", mounted.path, *flags)
        assert code == 1
        assert str(mounted.path) in line
        assert mounted.file("file", 1).reads() == "a", "the mount that was there is unhurt"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--budget", "much"], id="budget"),
        pytest.param(["--size", "-1"], id="size"),
        pytest.param(["--access", "maybe"], id="access"),
        pytest.param(["--private", "x"], id="private"),
        pytest.param(["--no-such-option"], id="unknown-option"),
    ],
)
def test_usage_errors_exit_with_2(tmp_path: Path, arguments: list[str]) -> None:
    finished = run("mount", tmp_path, "-f", *arguments)
    assert finished.returncode == 2
    assert arguments[0] in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not is_mounted(tmp_path)


def test_umount_of_what_is_no_mount_says_so(tmp_path: Path) -> None:
    code, line = complaint("umount", tmp_path)
    assert code == 1
    assert str(tmp_path) in line


def test_killing_the_daemon_leaves_nobody_hanging(mount: MountFactory) -> None:
    mounted = mount()
    file = mounted.file("file", 4)
    file.mark()
    shared, private = mounted.actor(file).map("shared"), mounted.actor(file).map("private")
    assert private.stores("z", [0]) == "w"
    file.cool()
    mounted.kill()
    assert errno_of(os.pread, file.fd, PAGE, 0) == "ENOTCONN"
    assert errno_of(os.pwrite, file.fd, b"x" * PAGE, 0) == "ENOTCONN"
    assert errno_of(file.unmark) == "ENOTCONN"
    assert errno_of(os.listdir, mounted.path) == "ENOTCONN"
    assert shared.load(2 * PAGE).startswith("SIGBUS BUS_ADRERR")
    assert private.load(3 * PAGE).startswith("SIGBUS BUS_ADRERR")
    assert private.load(0) == "z", "its own copy is in its own memory"
    finished = run("umount", mounted.path)
    assert finished.returncode == 0, finished.stderr
    assert not is_mounted(mounted.path)
    assert list(mounted.path.iterdir()) == []


def test_a_process_that_waits_for_a_killed_daemon_is_let_go(mount: MountFactory) -> None:
    """Its request is on its way and unanswered when the daemon dies."""
    mounted = mount()
    file = mounted.file("file", 4)
    file.close()
    mounted.process.send_signal(signal.SIGSTOP)
    reader = subprocess.Popen(
        ["cat", file.path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    stack = Path(f"/proc/{reader.pid}/stack")
    waiting = eventually(lambda: "fuse" in stack.read_text())
    mounted.kill()
    assert reader.wait(timeout=PATIENCE) != 0
    assert waiting, "it has to be in the middle of a request"
    assert run("umount", mounted.path).returncode == 0


def test_the_same_directory_can_be_mounted_again_after_a_kill(mount: MountFactory) -> None:
    mounted = mount()
    mounted.kill()
    assert run("umount", mounted.path).returncode == 0
    assert run("mount", mounted.path).returncode == 0
    assert list(mounted.path.iterdir()) == []
    assert run("umount", mounted.path).returncode == 0


def test_a_second_daemon_does_not_disturb_the_first(mount: MountFactory) -> None:
    first, second = mount(budget="1M"), mount(budget="2M")
    file, other = first.file("file", 2), second.file("file", 2)
    file.mark()
    other.mark()
    first.set_root("purge", "all")
    assert (file.reads(), other.reads()) == ("XX", "ab")
    second.end()
    assert file.reads() == "XX"


def test_nothing_is_printed_but_ready(mount: MountFactory) -> None:
    """``-f`` says ``ready DIR`` and no more, on both streams, through a whole small life."""
    mounted = mount()
    file = mounted.file("file", 4)
    file.mark()
    file.purge()
    file.unmark()
    mounted.process.send_signal(signal.SIGTERM)
    mounted.process.wait(timeout=PATIENCE)
    assert mounted.process.stdout is not None
    assert mounted.process.stdout.read() == b""
    assert mounted.stderr == ""
    mounted.ended_by_test()


def test_the_package_runs_from_anywhere(mount: MountFactory, tmp_path: Path) -> None:
    """A relative directory is meant from where the command runs."""
    (tmp_path / "here").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for verb in ("mount", "umount"):
        subprocess.run(
            command(verb, "here"), cwd=tmp_path, env=environment, check=True, timeout=PATIENCE
        )
        assert is_mounted(tmp_path / "here") == (verb == "mount")
