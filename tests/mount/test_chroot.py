"""Daemon, clients and whoever kills them in a chroot, whose root is no mount point.

There, too, nobody waits for ever for a daemon that was killed: tests of test_kill.py are run in it,
by a pytest of their own. Its /sys has no fusectl, so the guardian mounts that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.mount import ROOT
from tests.support.waiting import PATIENCE

NEEDED = (
    *("/usr", "/bin", "/lib", "/lib64", "/etc", "/dev", "/proc", "/sys"),
    *(sys.base_prefix, sys.prefix, str(ROOT)),
)
TEST = ROOT / "tests/mount/test_kill.py::test_in_the_middle_of_write_backs[purge]"


def in_chroot(root: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a chroot of what is needed, in a mount namespace that ends with it."""
    (root / "tmp").mkdir(parents=True)
    binds = [
        f'mkdir -p "{root}{directory}"; mount --bind "{directory}" "{root}{directory}"'
        for directory in filter(os.path.isdir, NEEDED)
    ]
    script = "\n".join([f'cd "{ROOT}"', *binds, 'exec chroot "$0" "$@"'])
    return subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "private", "sh", "-ec", script),
            str(root),
            *map(str, command),
        ],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
        env={**os.environ, "TMPDIR": "/tmp"},
    )  # fmt: skip


def test_a_daemon_that_is_killed_in_a_chroot_leaves_nobody_waiting(tmp_path: Path) -> None:
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", ROOT)
    done = in_chroot(
        tmp_path / "root", sys.executable, "-m", "pytest", *options, "-c",
        ROOT / "pyproject.toml", TEST,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
