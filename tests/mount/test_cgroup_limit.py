"""A mount in a cgroup that may have less memory than the machine has."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mount import ROOT, command, run
from tests.support.shortage import enter, new_cgroup
from tests.support.waiting import PATIENCE

LIMIT = 512 << 20


@pytest.fixture
def limited() -> Iterator[Path]:
    with new_cgroup("memory") as group:
        (group / "memory.limit_in_bytes").write_text(str(LIMIT))
        yield group


def mounted_in(group: Path, at: Path, *options: str) -> tuple[str, int]:
    """What the command says on stderr, and the budget of the mount."""
    done = subprocess.run(
        command("mount", at, *options), cwd=ROOT, capture_output=True, text=True,
        timeout=PATIENCE, check=True, preexec_fn=lambda: enter(group, os.getpid()),
    )  # fmt: skip
    try:
        return done.stderr, int(os.getxattr(at, "user.vfs_volatile.budget"))
    finally:
        assert run("umount", at).returncode == 0


def test_a_share_of_memory_is_of_what_the_cgroup_may_have(limited: Path, tmp_path: Path) -> None:
    assert mounted_in(limited, tmp_path) == ("", LIMIT // 4)


def test_more_than_the_cgroup_may_have_is_told(limited: Path, tmp_path: Path) -> None:
    said, budget = mounted_in(limited, tmp_path, "--size", "1G")
    assert budget == LIMIT // 4
    assert said == (
        "vfs-volatile: warning: --size is 1.0 GiB, but the cgroup may have 512.0 MiB: the kernel"
        " ends a daemon that takes more, and its data are lost; give less, or raise the limit"
        " (MemoryMax of a unit)\n"
    )
