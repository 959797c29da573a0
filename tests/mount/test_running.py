"""How a machine runs it: mount(8) and fstab, a service manager, and where the daemon's words go."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vfs_volatile
from tests.support.mount import ROOT, command, run
from tests.support.mountinfo import is_mounted
from tests.support.waiting import PATIENCE, eventually

SHARE = Path(vfs_volatile.__file__).parent / "share"
F_SETPIPE_SZ = 1031


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory to mount at, free again afterwards."""
    made = tmp_path / "mnt"
    made.mkdir()
    yield made
    if is_mounted(made):
        run("umount", made)


# ---- mount(8) ----


def mount8(root: Path, fstab: str, then: str) -> subprocess.CompletedProcess[str]:
    """``mount DIR`` by a line of fstab and ``then``, in a namespace where it finds our command."""
    table, program = root.parent / "fstab", root.parent / "vfs-volatile"
    table.write_text(f"cache {root} fuse.vfs-volatile {fstab} 0 0\n")
    program.write_text(f'#!/bin/sh\nexec env PYTHONPATH={ROOT} {shlex.join(command())} "$@"\n')
    program.chmod(0o755)
    script = (
        f"mount -t tmpfs none /usr/local/sbin && ln -s {program} /usr/local/sbin &&"
        f" mount -T {table} {root} && {{ trap 'umount -l {root}' EXIT; {then}; }}"
    )
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_fstab_mounts_and_umount_unmounts(root: Path) -> None:
    options = "budget=1M,size=2M,mode=1777,uid=12,gid=34,noexec,nofail,noauto,user,_netdev,x-a.b=c"
    done = mount8(
        root,
        options,
        f"findmnt -n -o SOURCE,FSTYPE {root} && stat -c '%a %u %g' {root} &&"
        f" echo text >{root}/file && cat {root}/file && getfattr --absolute-names --only-values"
        f" -n user.vfs_volatile.budget {root} &&"
        f" trap - EXIT && umount {root}",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "cache  fuse.vfs-volatile\n1777 12 34\ntext\n1048576"


def test_what_mount_is_told_wrong_is_said_in_one_line(root: Path) -> None:
    done = mount8(root, "bugdet=1M", "true")
    assert done.returncode != 0
    assert done.stderr.startswith("vfs-volatile: -o: unknown option 'bugdet=1M'; known are")
    assert done.stderr.count("\n") == 1


# ---- a service manager ----


@contextlib.contextmanager
def manager(path: str) -> Iterator[socket.socket]:
    """The socket that a service manager gives to a unit of Type=notify."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.settimeout(PATIENCE)
        made.bind(path)
        yield made


@pytest.mark.parametrize("hidden", [False, True], ids=["file", "abstract"])
def test_the_unit_tells_its_manager_how_far_it_is(root: Path, hidden: bool) -> None:
    unit = (SHARE / "vfs-volatile@.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    program, *words = shlex.split(line.partition("=")[2].replace("%f", str(root)))
    assert Path(program).name == "vfs-volatile"
    assert "Type=notify\n" in unit
    address = f"\0{root}" if hidden else str(root.parent / "notify")
    with manager(address) as told:
        daemon = subprocess.Popen(
            command(*[word for word in words if word != "$OPTIONS"]),
            cwd=ROOT,
            env={**os.environ, "NOTIFY_SOCKET": address.replace("\0", "@")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            assert told.recv(100) == b"READY=1"
            assert is_mounted(root)
            daemon.send_signal(signal.SIGTERM)
            assert told.recv(100) == b"STOPPING=1"
            assert daemon.wait(PATIENCE) == 0
            assert not is_mounted(root)
        finally:
            daemon.kill()
            daemon.communicate()


def test_after_a_kill_the_unit_leaves_no_dead_mount(root: Path) -> None:
    """The line of ExecStopPost=, run as it stands, on a mount whose daemon is gone."""
    unit = (SHARE / "vfs-volatile@.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStopPost=-")]
    stop = shlex.split(line.partition("=-")[2].replace("%f", str(root)).replace("$$", "$"))
    subprocess.run(stop, check=True, timeout=PATIENCE)
    daemon = subprocess.Popen(
        command("mount", root, "-f"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert daemon.stdout is not None
    assert daemon.stdout.readline() == f"ready {root}\n".encode()
    daemon.kill()
    daemon.communicate()
    assert is_mounted(root)
    subprocess.run(stop, check=True, timeout=PATIENCE)
    assert not is_mounted(root)


# ---- what the daemon says ----


def test_in_the_foreground_json_goes_to_stderr(root: Path) -> None:
    daemon = subprocess.Popen(
        command("mount", root, "-f", "--log-format", "json"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert daemon.stdout is not None
    assert daemon.stdout.readline() == f"ready {root}\n".encode()
    daemon.terminate()
    _, said = daemon.communicate(timeout=PATIENCE)
    first, last = (json.loads(line) for line in said.splitlines())
    assert first.keys() == {"time", "level", "logger", "message"}
    assert (first["level"], first["message"]) == ("info", f"mounted {root}")
    assert last["message"] == f"unmounted {root}"
    assert first["time"].endswith("+00:00")
    assert first["time"] <= last["time"]


def test_detached_it_goes_to_the_system_s_log(root: Path, tmp_path: Path) -> None:
    with manager(str(tmp_path / "log")) as log:
        with system_log(tmp_path / "log") as namespace:
            both = f"{shlex.join(command('mount', root))} && {shlex.join(command('umount', root))}"
            done = subprocess.run(
                [*namespace, "sh", "-c", both],
                cwd=ROOT,
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        first, last = log.recv(500), log.recv(500)
    # 30: facility daemon (3), severity info (6), as syslog(3) puts them together.
    assert first.startswith(b"<30>vfs-volatile[")
    assert first.rstrip(b"\0").endswith(f": mounted {root}".encode())
    assert last.rstrip(b"\0").endswith(f": unmounted {root}".encode())


@contextlib.contextmanager
def system_log(path: Path) -> Iterator[list[str]]:
    """A prefix for a command that sees the socket ``path`` as /dev/log."""
    place = Path("/dev/log")
    there = place.exists()
    if not there:
        place.touch()
    try:
        bind = f'mount --bind {path} /dev/log && exec "$@"'
        yield ["unshare", "--mount", "sh", "-c", bind, "sh"]
    finally:
        if not there:
            place.unlink()


def test_a_log_that_nobody_reads_does_not_stop_the_mount(root: Path) -> None:
    reader, writer = os.pipe()
    size = fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * size)
    daemon = subprocess.Popen(
        command("mount", root, "-f", "--log-format", "json"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=writer,
    )
    os.close(writer)
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == f"ready {root}\n".encode()
        done = subprocess.run(
            [sys.executable, "-c", "import os, sys; os.listdir(sys.argv[1])", root],
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0
        daemon.terminate()
        assert eventually(lambda: not is_mounted(root))
    finally:
        os.close(reader)
        assert daemon.wait(PATIENCE) == 0
        daemon.communicate()
