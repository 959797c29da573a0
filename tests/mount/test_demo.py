"""The demo: it shows the main job, it fails when something did not hold, it leaves nothing."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fvrange import PAGE
from tests.support.mount import ROOT, Mount, MountFactory, command
from tests.support.waiting import eventually
from vfs_volatile.client.calls import fvrange_purge
from vfs_volatile.demo import optimist, roles
from vfs_volatile.demo.cache import Cache, Found
from vfs_volatile.demo.plan import Plan, choose_held, find_sources
from vfs_volatile.demo.records import Records
from vfs_volatile.demo.report import Figures, judge
from vfs_volatile.demo.run import LIMIT_SECONDS
from vfs_volatile.errors import UserError
from vfs_volatile.mountinfo import read_mounts

pytestmark = pytest.mark.timeout(LIMIT_SECONDS + 30)  # it frees its mount by itself before

GOOD = Figures(
    modules=90,
    entries=89,
    size=1000 * PAGE,
    budget=100 * PAGE,
    slack=20 * PAGE,
    highest_resident=110 * PAGE,
    settled_resident=100 * PAGE,
    purged=2000 * PAGE,
    rebuilt=50,
    hits=40,
    held_pages=12,
    cowed_pages=6,
    kept_pages=12,
    sigbus=3,
    verified=200,
    failures=(),
    unreadable=False,
    seconds=9.0,
)


# ---- the whole of it ----


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """Where the demo makes its directory; at the end it must be empty, and nothing mounted."""
    yield tmp_path
    assert [mount for mount in read_mounts() if mount.mountpoint.startswith(str(tmp_path))] == []
    assert list(tmp_path.iterdir()) == []


def start(temporary: Path, *arguments: str, stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command("demo", *arguments),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def run_demo(temporary: Path, *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)."""
    with start(temporary, *arguments, stdout=subprocess.PIPE) as process:
        out, err = process.communicate()
        return process.returncode, out.decode(), err.decode()


def test_a_few_modules(temporary: Path) -> None:
    code, out, err = run_demo(temporary, "--modules", "60", "--seed", "3")
    assert (code, err) == (0, ""), out
    rows = [line for line in out.splitlines() if line.startswith(" ")]
    for name in (
        *("Entries", "Bytes", "Budget", "Highest resident", "Purged", "Rebuilt", "Hits"),
        *("Private pages kept", "SIGBUS caught", "Contents verified", "Time"),
    ):
        assert any(row.startswith(f" {name}  ") for row in rows), name
    assert out.splitlines()[-1].startswith("All of it held")
    assert max(map(len, out.splitlines())) <= 80


def test_a_budget_that_needs_no_purge_is_a_failure(temporary: Path) -> None:
    code, out, err = run_demo(temporary, "--modules", "10", "--budget", "50M")
    assert code == 1
    assert "Contents verified" in out
    assert "All of it held" not in out
    assert err.startswith("vfs-volatile: the demo failed: the cache came to ")
    assert err.count("\n") == 1


def test_ctrl_c_on_a_terminal(temporary: Path) -> None:
    terminal, stdout = pty.openpty()
    process = start(temporary, "--modules", "400", stdout=stdout)
    os.close(stdout)
    with process:
        shown = b""
        while b" resident" not in shown:
            shown += os.read(terminal, 4096)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        try:
            while chunk := os.read(terminal, 4096):
                shown += chunk
        except OSError:  # EIO: nobody has the other end open any more
            os.close(terminal)
        assert process.wait() == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert b"Building" in shown
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l"), "the cursor is shown again"


def test_a_daemon_that_dies(temporary: Path) -> None:
    with start(temporary, "--modules", "400", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith(b"Building"):
                break
        for pid in children(process.pid):
            if b"mount" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)
        process.stdout.read()
        assert process.wait() == 1
        error = process.stderr.read()
    assert error.startswith(b"vfs-volatile: the daemon of the mount died of SIGKILL")
    assert error.count(b"\n") == 1


def test_when_the_demo_is_killed_the_rest_ends_too(tmp_path: Path) -> None:
    with start(tmp_path, "--modules", "400", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(b"Building"):
                break
        others = children(process.pid)
        assert len(others) >= 3, "a daemon, a holder, a sampler, builders or readers"
        process.kill()
    assert eventually(lambda: not any(map(is_alive, others)))
    mounts = [mount.mountpoint for mount in read_mounts()]
    assert not any(mountpoint.startswith(str(tmp_path)) for mountpoint in mounts)


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def is_alive(pid: int) -> bool:
    """Whether it runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


# ---- the verdict ----


def test_good_figures_pass() -> None:
    judge(GOOD)


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (replace(GOOD, size=200 * PAGE), "not more than 2 times the budget"),
        (replace(GOOD, settled_resident=101 * PAGE), "above the budget"),
        (replace(GOOD, highest_resident=121 * PAGE), "up to 484.0 KiB were resident"),
        (replace(GOOD, purged=0), "nothing was purged"),
        (replace(GOOD, purged=0, unreadable=True), "cannot be read"),
        (replace(GOOD, rebuilt=0), "nothing had to be rebuilt"),
        (replace(GOOD, hits=0), "nothing was found intact"),
        (replace(GOOD, kept_pages=11), "11 of 12 private pages"),
        (replace(GOOD, held_pages=0, kept_pages=0), "0 of 0 private pages"),
        (replace(GOOD, sigbus=0), "nothing gave SIGBUS"),
        (replace(GOOD, failures=("x.py was wrong", "y")), "x.py was wrong (and 1 more)"),
    ],
)
def test_each_thing_that_does_not_hold_fails_the_demo(bad: Figures, word: str) -> None:
    with pytest.raises(UserError) as raised:
        judge(bad)
    assert raised.value.exit_code == 1
    assert word in str(raised.value)
    assert "; " in str(raised.value), "no mend"


# ---- what the workers notice ----


@pytest.fixture
def mounted(mount: MountFactory) -> Mount:
    return mount()


@pytest.fixture
def cache(mounted: Mount, tmp_path: Path) -> Cache:
    """A cache of this very file, built."""
    records = str(tmp_path / "records")
    Records.create(records, 1)
    plan = Plan(
        mountpoint=str(mounted.path),
        records=records,
        sources=[__file__],
        held=[],
        workers=1,
        build_seconds=9.0,
        lookup_seconds=9.0,
        seed=1,
    )
    cache = Cache(plan)
    with cache.locked(0) as fd:
        assert cache.build(0, fd)
    return cache


def test_an_entry_is_intact_or_purged_and_nothing_else(
    cache: Cache, capfd: pytest.CaptureFixture[str]
) -> None:
    roles.look_up(cache, 0)
    assert '"hits": 1' in capfd.readouterr().out
    with cache.locked(0) as fd:
        assert fvrange_purge(fd) == os.fstat(fd).st_size
    roles.look_up(cache, 0)
    assert '"rebuilt": 1' in capfd.readouterr().out
    with cache.locked(0) as fd:
        assert cache.pin(0, fd) is Found.INTACT


def test_a_wrong_content_is_noticed(cache: Cache, capfd: pytest.CaptureFixture[str]) -> None:
    with cache.locked(0) as fd:
        os.pwrite(fd, b"wrong", 100)
    roles.look_up(cache, 0)
    assert "reported intact, but its checksum is wrong" in capfd.readouterr().out


def test_a_range_purged_in_part_is_noticed(cache: Cache, capfd: pytest.CaptureFixture[str]) -> None:
    with cache.locked(0) as fd:
        fvrange_purge(fd, PAGE, PAGE)
    roles.look_up(cache, 0)
    assert "purged in part" in capfd.readouterr().out


def test_a_held_entry_that_was_purged_is_noticed(
    cache: Cache, capfd: pytest.CaptureFixture[str]
) -> None:
    cache.plan.held.append(0)
    with cache.locked(0) as fd:
        fvrange_purge(fd)
    roles.look_up(cache, 0)
    assert "mapped private" in capfd.readouterr().out


def test_the_optimist_meets_sigbus_where_something_is_purged(
    cache: Cache, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimist, "LOOKS", 5)
    optimist.touch(cache.plan, 0)
    assert capfd.readouterr().out.count('"verified": 1') == 5
    with cache.locked(0) as fd:
        fvrange_purge(fd, PAGE, PAGE)
    optimist.touch(cache.plan, 0)
    assert capfd.readouterr().out.count('"sigbus": 1') == 5


# ---- the plan ----


def test_the_seed_decides_the_order_and_n_takes_the_first() -> None:
    assert find_sources(1, None) == find_sources(1, None)
    assert find_sources(1, 20) == find_sources(1, None)[:20]
    assert set(find_sources(1, None)) == set(find_sources(2, None))
    assert find_sources(1, 20) != find_sources(2, 20)


def test_held_entries_leave_room_in_the_budget() -> None:
    assert choose_held([100, 5000, 9000, 5000], 60000) == [1, 3]
    assert choose_held([300, 200], 10 * PAGE) == [1], "one in any case"
