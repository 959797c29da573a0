"""The limits of cgroups of version 2, which the machine of the tests may not have."""

from __future__ import annotations

from pathlib import Path

from vfs_volatile.cgroups import limits_above


def test_those_above_count_too(tmp_path: Path) -> None:
    group = tmp_path / "user.slice" / "mount.service"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text("4096\n")
    (tmp_path.parent / "memory.max").write_text("1\n")
    assert limits_above(group, tmp_path) == [4096]
    (group / "memory.max").write_text("8192\n")
    assert limits_above(group, tmp_path) == [8192, 4096]
