"""--pressure: the kernel's own word on a real shortage of memory purges below the budget."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fvrange import PARTIAL
from tests.support.mount import LONG_DEADLINE, MountFactory, command
from tests.support.shortage import enter, new_cgroup, shortage
from tests.support.waiting import PATIENCE, eventually

MIB = 1 << 20
PAGES = MIB // 4096


@pytest.fixture
def group() -> Iterator[Path]:
    """A cgroup of version 2."""
    with contextlib.ExitStack() as made:
        try:
            with new_cgroup("memory"):
                path = made.enter_context(new_cgroup("cgroup2"))
        except OSError as error:
            pytest.skip(f"needs root, and cgroups of both versions: {error}")
        yield path


def freed_for(stats: dict[str, object], cause: str) -> int:
    freed = stats["purged_for"]
    assert isinstance(freed, dict)
    return int(freed[cause])


def test_a_shortage_in_the_cgroup_purges_more_and_more(group: Path, mount: MountFactory) -> None:
    before = Path("/proc/self/cgroup").read_text()
    enter(group, os.getpid())
    mounted = mount(deadline=LONG_DEADLINE, budget="1G", pressure="")
    enter(group.parent, os.getpid())
    assert Path("/proc/self/cgroup").read_text() == before
    assert mounted.stats()["pressure"] == "system and cgroup"
    kept, given = mounted.file("kept", 4 * PAGES), mounted.file("given", 24 * PAGES)
    given.mark(behavior=PARTIAL)

    def freed() -> int:
        return freed_for(mounted.stats(), "pressure-cgroup")

    with shortage(group):
        assert eventually(freed)
        assert eventually(lambda: freed() == 24 * MIB)
    assert kept.reads() == "".join(chr(ord("a") + page % 26) for page in range(4 * PAGES))
    assert mounted.resident == 4 * MIB
    last = mounted.stats()["last_purges"]
    assert isinstance(last, list)
    # An eighth is less than what makes a purge worth while, so that went first; then what was left.
    assert [(purge["cause"], purge["bytes"]) for purge in last] == [
        ("pressure-cgroup", 16 * MIB),
        ("pressure-cgroup", 8 * MIB),
    ]


def test_a_limit_that_somebody_else_has_reached_purges_nothing(
    group: Path, mount: MountFactory
) -> None:
    mounted = mount(deadline=LONG_DEADLINE, budget="1G", pressure="")
    given = mounted.file("given", 24 * PAGES)
    given.mark(behavior=PARTIAL)
    with shortage(group):
        assert eventually(lambda: mounted.stats()["pressure_elsewhere"])
    assert given.purged_pages() == []


def test_a_machine_without_free_memory_purges(group: Path, tmp_path: Path) -> None:
    """This machine has plenty, so the daemon gets a meminfo of its own, as lxcfs(1) makes them."""
    meminfo, root = tmp_path / "meminfo", tmp_path / "mnt"
    meminfo.write_text("MemTotal: 1000000 kB\nMemFree: 50000 kB\n")
    root.mkdir()
    daemon = subprocess.Popen(
        _in_namespace(
            f"mount --bind {meminfo} /proc/meminfo", "mount", root, "-f", "-o", "pressure"
        ),
        stdout=subprocess.PIPE,
    )
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == f"ready {root}\n".encode()
        mounted = Path(f"/proc/{daemon.pid}/root{root}")
        (mounted / "given").write_bytes(bytes(4 * MIB))
        os.setxattr(mounted / "given", "user.fvrange.volatile", b"all")

        def freed() -> int:
            stats = json.loads(os.getxattr(mounted, "user.vfs_volatile.stats"))
            return freed_for(stats, "pressure-system")

        with shortage(group):
            assert eventually(lambda: freed() == 4 * MIB)
    finally:
        daemon.terminate()
        daemon.wait(timeout=PATIENCE)
        daemon.communicate()


@pytest.mark.parametrize(
    ("hidden", "says"),
    [
        ("mount -t tmpfs none /proc/pressure", "No such file or directory; the kernel must have"),
        ("mount --bind -o ro /proc/pressure /proc/pressure", "Read-only file system; "),
    ],
)
def test_no_pressure_to_be_had_is_said_in_one_line(tmp_path: Path, hidden: str, says: str) -> None:
    done = subprocess.run(
        _in_namespace(hidden, "mount", tmp_path, "--pressure"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("vfs-volatile: --pressure: /proc/pressure/memory: " + says)
    assert done.stderr.count("\n") == 1


def _in_namespace(first: str, *arguments: object) -> list[str]:
    """The command line of ``vfs-volatile`` after ``first``, in a mount namespace of its own."""
    return ["unshare", "--mount", "sh", "-c", first + ' && exec "$@"', "sh", *command(*arguments)]
