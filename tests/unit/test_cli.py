"""The command line without a mount: what users can get wrong, said in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE, eventually
from vfs_volatile.cli import launch, main, mount, mount_checks
from vfs_volatile.cli.mount_options import parse_mount_options
from vfs_volatile.core.semantics import PRESETS, Semantics
from vfs_volatile.daemon.config import Address, MountConfig, parse_address
from vfs_volatile.errors import UsageError, UserError
from vfs_volatile.mountinfo import Mount, find_mount, parse_mount, read_mounts
from vfs_volatile.units import parse_size

ROOT = Path(__file__).parents[2]
COMMANDS = [
    "mount",
    "umount",
    "mark",
    "unmark",
    "purge",
    "status",
    "budget",
    "events",
    "top",
    "demo",
]

Fails = Callable[..., str]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run a command that must fail with ``code``; its one line on stderr, without the prefix."""

    def run(code: int, *arguments: object) -> str:
        found = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert (found, out) == (code, ""), err
        assert err.startswith("vfs-volatile: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1, "more than one line"
        cause, separator, mend = err.removeprefix("vfs-volatile: ").partition("; ")
        assert cause
        assert (separator and mend.strip()) or err.endswith("?\n"), "no mend"
        return err.removeprefix("vfs-volatile: ").rstrip("\n")

    return run


# ---- usage errors ----


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("", "no command"),
        ("nonsense", "nonsense"),
        ("mrk", "Did you mean 'mark'"),
        ("--nonsense", "--nonsense"),
        *((command, "Missing argument") for command in COMMANDS if command != "demo"),
        *((f"{command} x --nonsense", "--nonsense") for command in COMMANDS),
        ("mark f 0", "LENGTH"),
        ("unmark f 4K", "LENGTH"),
        ("purge f 4K", "LENGTH"),
        ("mark f 0 1 2", "2"),
        ("mark f x 1", "START"),
        ("mark f 0 1X", "LENGTH"),
        ("mark f 0 1.5K", "LENGTH"),
        ("mark f 0 25%", "share of memory"),
        ("mark f -1 4096", "-1"),
        ("mark f 18446744073709551615 1", "64 bits"),
        ("mark f 16777216T 0", "64 bits"),
        ("mark f --zero --sigbus", "contradict"),
        ("mount d --metrics 9100", "HOST:PORT"),
        ("mount d -o metrics=:x", "HOST:PORT"),
        ("mount d -o uid=root", "a number"),
        ("mount d -o gid=4294967295", "a number"),
        ("mount d -o mode=0x1ff", "octal"),
        ("none d -o nonsense", "-o: unknown option 'nonsense'"),
        ("-x d -o ro", "-x"),
        ("umount d -o ro", "-o"),
        ("mark f --priority 8", "--priority"),
        ("mark f --priority -1", "--priority"),
        ("mark f --priority x", "--priority"),
        ("purge d --bytes x", "--bytes"),
        ("purge d --bytes 1M --all", "--all"),
        ("purge d 0 4K --all", "--all"),
        ("purge d 0 4K --bytes 1", "--bytes"),
        ("budget d x", "SIZE"),
        ("budget d 1 2", "2"),
        ("mount d --budget", "--budget"),
        ("mount d --budget x", "--budget"),
        ("mount d --budget -1", "--budget"),
        ("mount d --size 1Q", "--size"),
        ("mount d --size 0", "no page"),
        ("mount d --access x", "'--access': 'x' is not one of"),
        ("mount d --private x", "--private"),
        ("mount d --semantics x", "--semantics"),
        ("mount d --lifetime x", "--lifetime"),
        ("mount d -o", "-o"),
        ("mount d -o nonsense", "nonsense"),
        ("mount d -o ro,budget", "budget"),
        ("mount d -o size=x", "size=x"),
        ("mount d -o budget=1M --budget 1M", "both"),
        ("mount d extra", "extra"),
        ("demo --modules 0", "--modules"),
    ],
)
def test_usage_errors_exit_2_with_one_line(fails: Fails, line: str, word: str) -> None:
    assert word in fails(2, *line.split())


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_teaches_by_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([*command.split(), "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    _, heading, examples = out.partition("Examples:")
    assert heading
    assert f"  vfs-volatile {command}".rstrip() in examples


# ---- failures ----


@pytest.mark.parametrize(
    "line", ["mark {}", "unmark {}", "status {}", "status {} --json", "purge {}", "budget {}"]
)
def test_a_path_elsewhere_is_refused_with_how_to_mount(
    fails: Fails, tmp_path: Path, line: str
) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        assert "vfs-volatile mount DIR" in fails(1, *line.format(path).split())


@pytest.mark.parametrize("command", ["mark", "unmark", "status", "purge", "budget"])
def test_a_missing_path_is_refused(fails: Fails, tmp_path: Path, command: str) -> None:
    assert fails(1, command, tmp_path / "none").startswith(f"{tmp_path}/none: No such file")


def test_a_newline_in_a_name_stays_on_the_line(fails: Fails, tmp_path: Path) -> None:
    assert r"two\nlines" in fails(1, "status", tmp_path / "two\nlines")


def test_mount_refuses_what_is_no_free_empty_directory(fails: Fails, tmp_path: Path) -> None:
    assert "mkdir -p" in fails(1, "mount", tmp_path / "none")
    (tmp_path / "file").touch()
    assert "not a directory" in fails(1, "mount", tmp_path / "file")
    assert "not empty" in fails(1, "mount", tmp_path)
    (tmp_path / "dangling").symlink_to("nowhere")
    assert "not a directory" in fails(1, "mount", tmp_path / "dangling")
    assert "mount point already" in fails(1, "mount", "/proc")


def test_mount_refuses_without_a_fuse_device(
    fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mount_checks, "_FUSE_DEVICE", str(tmp_path / "fuse"))
    directory = tmp_path / "mnt"
    directory.mkdir()
    assert "modprobe fuse" in fails(1, "mount", directory)


def test_users_need_fusermount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fuse").touch()
    monkeypatch.setattr(mount_checks, "_FUSE_DEVICE", str(tmp_path / "fuse"))
    monkeypatch.setattr(mount_checks, "_FUSE_CONF", str(tmp_path / "fuse.conf"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt install fuse3"):
        mount_checks.check_fuse(allow_other=False)

    (tmp_path / "fusermount3").touch(mode=0o755)
    mount_checks.check_fuse(allow_other=False)
    with pytest.raises(UserError, match="user_allow_other"):
        mount_checks.check_fuse(allow_other=True)
    (tmp_path / "fuse.conf").write_text("# comment\nuser_allow_other\n")
    mount_checks.check_fuse(allow_other=True)


def test_umount_refuses_what_is_not_ours(fails: Fails, tmp_path: Path) -> None:
    for path in (tmp_path, "/proc", tmp_path / "none"):
        assert "is not a vfs-volatile mount" in fails(1, "umount", path)


# ---- mount options ----

KEEP = Semantics(private="keep")


def config_of(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> MountConfig:
    """What ``mount ARGUMENTS`` would serve."""
    configs: list[MountConfig] = []

    def take(config: MountConfig) -> list[str]:
        configs.append(config)
        return []

    monkeypatch.setattr(mount, "_arguments", take)
    monkeypatch.setattr(mount_checks, "check_mountpoint", lambda *_: None)
    monkeypatch.setattr(mount_checks, "check_fuse", lambda **_: None)
    monkeypatch.setattr(launch, "start_daemon", lambda *_: None)
    assert main(["mount", *map(str, arguments)]) == 0
    return configs[0]


def test_defaults_are_shares_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/usr")
    assert config_of(monkeypatch, "lib/../share") == MountConfig(
        mountpoint="/usr/share",
        budget=parse_size("25%"),
        size=parse_size("50%"),
        access="sigbus",
        semantics=PRESETS["unified"],
        allow_other=False,
        mount_options=(),
    )


def test_long_options_and_dash_o_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    long = ("--budget", "1M", "--size", "2G", "--access", "zero", "--private", "keep")
    flags = ("--allow-other", "--pressure")
    by_long = config_of(monkeypatch, "/usr", *long, *flags, "-o", "ro,noexec")
    short = "budget=1M,size=2G,access=zero,private=keep,allow_other,pressure,ro"
    also = "defaults,_netdev,nofail,x-systemd.automount,,noexec"
    assert by_long == config_of(monkeypatch, "/usr", "-o", short, "-o", also)
    passed_on = ("ro", "noexec")
    assert by_long == MountConfig("/usr", 1 << 20, 2 << 30, "zero", KEEP, True, passed_on, True)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (":9100", "127.0.0.1", 9100),
        ("0.0.0.0:0", "0.0.0.0", 0),
        ("example.org:65535", "example.org", 65535),
        ("[::1]:9100", "::1", 9100),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert address == (host, port)
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("text", ["", "9100", "::1:9100", "host:", "host:x", ":65536", ":-1", ":²"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_address(text)


def test_a_preset_and_a_rule_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stultz = config_of(monkeypatch, "/usr", "--semantics", "stultz", "-o", "private=block")
    assert stultz.semantics == Semantics("shared", "block", "last-close", "veto")
    kim = config_of(monkeypatch, "/usr", "-o", "semantics=kim", "--conflict", "einval")
    assert kim.semantics == Semantics("process", "block", "persistent", "einval")


def test_the_last_of_a_repeated_option_counts() -> None:
    assert parse_mount_options(["size=1M,size=2M", "size=3M"]).size == 3 << 20


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "size",
        "size=",
        "size=x",
        "access=",
        "access=x",
        "private=full",
        "RO",
        "ro=1",
        "metrics",
        "pressure=1",
    ],
)
def test_wrong_mount_options_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError, match="; "):
        parse_mount_options([text])


def test_the_daemon_is_started_with_the_same_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    config = MountConfig(
        mountpoint="/usr",
        budget=4096,
        size=8192,
        access="zero",
        semantics=KEEP,
        allow_other=True,
        mount_options=("ro", "nosuid"),
        pressure=True,
        metrics=Address("::1", 0),
        passthrough="off",
        log_format="json",
        uid=0,
        gid=12,
        mode=0o1777,
        acls=False,
        fsname="cache",
    )
    assert all(getattr(config, field.name) != field.default for field in fields(config)), (
        "each option is passed on"
    )
    arguments = mount._arguments(config)
    assert arguments[0] == "mount"
    served: list[MountConfig] = []
    monkeypatch.setattr(mount_checks, "check_mountpoint", lambda *_: None)

    def serve(got: MountConfig, _: object) -> bool:
        served.append(got)
        return True

    monkeypatch.setattr("vfs_volatile.daemon.server.serve", serve)
    assert main(arguments) == 0
    assert served == [config]


# ---- starting the daemon ----


def fake_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Let ``script`` (sh) stand for the daemon."""
    program = tmp_path / "daemon"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.mark.parametrize(
    ("script", "word"),
    [
        (
            "echo noise >&2; echo 'vfs-volatile: no luck; try again' >&2; exit 1",
            r"^no luck \(noise\); try again$",
        ),
        (
            "echo 'Traceback ...' >&2; echo 'RuntimeError: odd' >&2; exit 1",
            r"\(RuntimeError: odd\)",
        ),
        ("exit 3", "ended before it was ready; run with -f"),
        ("echo ready /nowhere", "is not mounted"),
    ],
)
def test_a_daemon_that_fails_is_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, word: str
) -> None:
    fake_daemon(monkeypatch, tmp_path, script)
    with pytest.raises(UserError, match=word):
        launch.start_daemon(["mount"], str(tmp_path))


def test_a_daemon_that_says_nothing_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    note = tmp_path / "pid"
    fake_daemon(monkeypatch, tmp_path, f"echo $$ > {note}; exec sleep {3 * PATIENCE}")
    monkeypatch.setattr(launch, "START_LIMIT", 0.3)

    def is_given_up() -> bool:
        """After it has begun, which may take longer than the limit."""
        with pytest.raises(UserError, match="not ready within"):
            launch.start_daemon(["mount"], str(tmp_path))
        return note.exists() and note.read_text() != ""

    assert eventually(is_given_up)
    pid = int(note.read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_within_hands_back_results_and_errors() -> None:
    assert launch.within(5, lambda: 7) == 7
    with pytest.raises(FileNotFoundError):
        launch.within(5, lambda: os.stat("/nonexistent"))
    reader, writer = os.pipe()
    try:
        with pytest.raises(TimeoutError):
            launch.within(0.05, lambda: os.read(reader, 1))
    finally:
        os.close(writer)  # ends the read
        os.close(reader)


# ---- the program as a whole ----


def test_the_program_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "vfs_volatile", "status", "/proc"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("vfs-volatile: /proc is not on a vfs-volatile mount; ")


def test_plain_commands_load_neither_trio_nor_fuse_nor_rich() -> None:
    code = (
        "import sys; from vfs_volatile.cli import main; main(['status', '/proc']);"
        "print(*{'trio', 'pyfuse3', 'rich', 'cffi', 'pyroaring'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.stdout == "\n"


def test_ctrl_c_is_quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(launch, "start_daemon", interrupted)
    monkeypatch.setattr(mount_checks, "check_fuse", lambda **_: None)
    assert main(["mount", str(tmp_path)]) == 130


# ---- mountinfo ----


def test_mountinfo_lines_are_decoded() -> None:
    line = (
        rb"98 27 0:54 / /mnt/a\040b\011c\134d rw,nosuid shared:1 master:2 - fuse.vfs-volatile"
        rb" vfs\040volatile rw,user_id=0"
    )
    assert parse_mount(line + b"\n") == Mount(
        98, (0, 54), "/mnt/a b\tc\\d", "fuse.vfs-volatile", "vfs volatile"
    )
    assert parse_mount(b"1 2 3:4 / / rw - tmpfs  rw\n").source == ""
    assert os.fsencode(parse_mount(b"1 2 3:4 / /\xff rw - tmpfs x rw\n").mountpoint) == b"/\xff"


def test_mounts_are_found_by_their_exact_path() -> None:
    proc = find_mount("/proc")
    assert proc is not None
    assert proc.fstype == "proc"
    status = os.stat("/proc")
    assert proc.device == (os.major(status.st_dev), os.minor(status.st_dev))
    assert find_mount("/proc/self") is None
    assert find_mount("/proc/") is None


def test_the_topmost_of_stacked_mounts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    below, above = (Mount(n, (0, n), "/mnt", f"type{n}", "none") for n in (1, 2))
    monkeypatch.setattr("vfs_volatile.mountinfo.read_mounts", lambda: [below, above])
    assert find_mount("/mnt") == above
    monkeypatch.undo()
    assert read_mounts()
