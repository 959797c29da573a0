"""Memory that runs short, for real: a process that needs more than the limit of its cgroup.

The kernel's reclaim stalls that process, and PSI tells of it: for the machine, and for the cgroup
of version 2 that it is in. It maps a file without blocks, so no disk is read and nobody else loses
a page. The limit is one of a cgroup of version 1, as only there a process can be limited alone.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.waiting import PATIENCE, eventually
from vfs_volatile.mountinfo import read_mounts

LIMIT = 8 << 20
NEEDED = 64 << 20


@contextlib.contextmanager
def new_cgroup(kind: str) -> Iterator[Path]:
    """A cgroup below our own: of version 2 for ``cgroup2``, else of that controller, version 1.

    Raises OSError where there are none.
    """
    parent = _own(kind)
    group = parent / f"vfs-volatile-test-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        assert eventually(lambda: _removed(group, parent)), f"{group} has processes still"


def _removed(group: Path, parent: Path) -> bool:
    """Remove a cgroup, but for a process in it that is about to end."""
    for pid in (group / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            enter(parent, int(pid))
    try:
        group.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def enter(group: Path, pid: int) -> None:
    """Put a process, and what it starts from now on, into a cgroup."""
    (group / "cgroup.procs").write_text(str(pid))


@contextlib.contextmanager
def shortage(group: Path | None) -> Iterator[None]:
    """Memory is short for a process meanwhile, which is in ``group`` if one is given."""
    with (
        new_cgroup("memory") as limited,
        tempfile.NamedTemporaryFile(dir="/var/tmp") as file,
    ):
        (limited / "memory.limit_in_bytes").write_text(str(LIMIT))
        file.truncate(NEEDED)
        groups = [limited] if group is None else [limited, group]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.shortage", file.name, *map(str, groups)],
            stdin=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        try:
            yield
        finally:
            process.communicate(timeout=PATIENCE)  # end of file: it ends
            assert process.returncode == 0, "it did not live to see the end of the shortage"


def _own(kind: str) -> Path:
    """The directory of our own cgroup of a kind. Raises OSError if there is no such kind."""
    tag = "::" if kind == "cgroup2" else f":{kind}:"
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if tag in line:
            inside = line.partition(tag)[2]
            for mount in read_mounts():
                if mount.fstype == kind or mount.mountpoint.endswith(f"/{kind}"):
                    return Path(mount.mountpoint, inside.removeprefix(mount.root).lstrip("/"))
    raise FileNotFoundError(f"no cgroups of the kind {kind}")


def _need_memory(name: str, groups: list[str]) -> None:
    """Read more pages than fit, again and again, until stdin ends."""
    os.set_blocking(0, False)
    with open(name, "rb") as file, mmap.mmap(file.fileno(), NEEDED, prot=mmap.PROT_READ) as pages:
        for group in groups:
            enter(Path(group), os.getpid())
        while True:
            for offset in range(0, NEEDED, mmap.PAGESIZE):
                pages[offset]
            with contextlib.suppress(BlockingIOError):
                if not os.read(0, 1):
                    return


if __name__ == "__main__":
    _need_memory(sys.argv[1], sys.argv[2:])
