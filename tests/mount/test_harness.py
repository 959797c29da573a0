"""The safety net itself: a test that hangs is freed, and a test that skips is seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.errnos import errno_of
from tests.support.mount import ROOT, Mount, MountError
from tests.support.mountinfo import is_mounted
from tests.support.waiting import PATIENCE
from tests.support.watchdog import Watchdog


def test_the_watchdog_frees_a_hung_mount_and_keeps_the_evidence(
    tmp_path: Path, probe: Path, watchdog: Watchdog
) -> None:
    hung = Mount(tmp_path / "hung", watchdog, probe)
    hung.process.send_signal(signal.SIGSTOP)
    hung.rearm(deadline=0.3)
    assert errno_of(os.listdir, hung.path) in ("ECONNABORTED", "ENOTCONN")
    hung.process.wait(timeout=PATIENCE)
    with pytest.raises(MountError) as failure:
        hung.end()
    assert "the watchdog freed the mount" in str(failure.value)
    assert "fuse" in str(failure.value), "a kernel stack shows where it hung"
    assert "test_the_watchdog_frees_a_hung_mount" in str(failure.value), "and a Python stack"
    assert not is_mounted(hung.path)


def test_the_end_of_a_mount_reports_a_dead_daemon(
    tmp_path: Path, probe: Path, watchdog: Watchdog
) -> None:
    dying = Mount(tmp_path / "dying", watchdog, probe)
    dying.process.kill()
    dying.process.wait(timeout=PATIENCE)
    with pytest.raises(MountError, match="had ended before, with -9"):
        dying.end()
    assert not is_mounted(dying.path)


def test_the_end_of_a_mount_reports_words_of_trouble(
    tmp_path: Path, probe: Path, watchdog: Watchdog
) -> None:
    mounted = Mount(tmp_path / "noisy", watchdog, probe)
    with (tmp_path / "noisy" / "stderr.txt").open("a") as stderr:
        stderr.write("Traceback (most recent call last):\n")
    with pytest.raises(MountError, match="the daemon complained"):
        mounted.end()


@pytest.mark.parametrize(("ci", "exit_code"), [("", 0), ("1", 1)])
def test_a_skip_is_a_failure_on_ci(tmp_path: Path, ci: str, exit_code: int) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text("import pytest\ndef test_it(): pytest.skip('why')\n")
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert finished.returncode == exit_code, finished.stdout
