"""What commands print on may be closed or full, or nobody reads it any more."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess

import pytest

from tests.support.mount import ROOT, command
from tests.support.outputs import REFUSING, redirected, unread
from tests.support.waiting import PATIENCE

PRINTING = ["--help", "status --help", "cflags", "scenarios list", "scenarios explain anon-zero"]


@pytest.mark.parametrize("how", REFUSING)
@pytest.mark.parametrize("line", PRINTING)
def test_a_stdout_that_takes_nothing_is_told_in_one_line(line: str, how: str) -> None:
    done = redirected(how, *line.split())
    assert done.returncode == 1
    assert done.stderr.startswith("vfs-volatile: cannot write to stdout: ")
    assert done.stderr.endswith("; send it elsewhere, to /dev/null if nobody needs it\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("line", PRINTING)
def test_a_reader_that_has_seen_enough_is_told_nothing(line: str) -> None:
    done = unread(*line.split())
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("how", ["2>&-", "2>/dev/full", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_stderr_that_takes_nothing_changes_no_exit_code(how: str) -> None:
    """And what is meant for it does not go to stdout."""
    for code, line in ((2, "nonsense"), (1, "status /proc")):
        done = redirected(how, *line.split())
        assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_without_all_streams_what_can_be_printed_is() -> None:
    done = redirected("<&- 2>&-", "cflags")
    assert (done.returncode, done.stdout) == (0, f"-I{ROOT}/vfs_volatile\n")


def test_a_full_pipe_that_does_not_block_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    size = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
    os.write(writer, b"." * size)
    with subprocess.Popen(
        command("cflags"), cwd=ROOT, stdout=writer, stderr=subprocess.PIPE
    ) as process:
        os.close(writer)
        said = b""
        try:
            while select.select([reader], [], [], PATIENCE)[0] and (part := os.read(reader, 65536)):
                said += part
            assert said.lstrip(b".") == f"-I{ROOT}/vfs_volatile\n".encode()
            assert process.communicate(timeout=PATIENCE)[1] == b""
        finally:
            process.kill()
            os.close(reader)
    assert process.returncode == 0
