"""The list of limits is what the tests prove; and what was chosen, not forced."""

from __future__ import annotations

import itertools
import mmap
import os
import re
import select
import subprocess
from pathlib import Path

import vfs_volatile
from tests.parity import (
    test_limits_fuse,  # noqa: F401  # its rows
    test_limits_times,  # noqa: F401  # its rows
)
from tests.parity.limits import ROWS, limit
from tests.parity.sides import as_user, attempt, made, opened
from tests.support.acls import DEFAULT, acl
from tests.support.files import FALLOC_FL_ZERO_RANGE, fallocate
from tests.support.mount import MountFactory, run
from tests.support.waiting import PATIENCE

PAGE = 4096
DOCUMENT = Path(vfs_volatile.__file__).parent / "docs" / "limits.md"


def test_the_document_lists_what_is_proved() -> None:
    differences, _, _sizes = DOCUMENT.read_text().partition("## What it takes")
    rows = re.findall(r"^\| (.+?) \|", differences, re.MULTILINE)
    assert sorted(row for row in rows if row != "what") == sorted(set(ROWS))


@limit("loading a hole through a mapping", ours=(0, "ENXIO"), tmpfs=(8, 0))
def test_a_loaded_hole_stays_a_hole(here: Path) -> object:
    with opened(here / "file") as fd:
        os.ftruncate(fd, PAGE)
        with mmap.mmap(fd, PAGE) as shared:
            assert shared[0] == 0
        return os.fstat(fd).st_blocks, attempt(os.lseek, fd, 0, os.SEEK_DATA)


@limit("pages that are allocated and not written", ours=0, tmpfs="ENXIO")
def test_what_is_allocated_is_data(here: Path) -> object:
    """linux/mm/filemap.c, mapping_seek_hole_data: a folio that is not uptodate is no data."""
    with opened(here / "file") as fd:
        fallocate(fd, 0, 0, PAGE)
        return attempt(os.lseek, fd, 0, os.SEEK_DATA)


@limit("blocks of long symbolic links", ours=[0, 0], tmpfs=[0, 8])
def test_long_symbolic_links(here: Path) -> object:
    """linux/mm/shmem.c, SHORT_SYMLINK_LEN."""
    for length in (127, 128):
        os.symlink("t" * length, here / f"{length}")
    return [os.lstat(here / f"{length}").st_blocks for length in (127, 128)]


@limit("files larger than 16 TiB", ours=("EFBIG", "EFBIG", 2), tmpfs=(None, 3, 3))
def test_the_largest_file(here: Path) -> object:
    largest = 1 << 44
    with opened(here / "file") as fd:
        return (
            attempt(os.ftruncate, fd, largest + 1),
            attempt(os.pwrite, fd, b"abc", largest),
            attempt(os.pwrite, fd, b"abc", largest - 2),
        )


@limit("`FALLOC_FL_ZERO_RANGE`", ours=None, tmpfs="ENOTSUP")
def test_zero_range(here: Path) -> object:
    with opened(here / "file") as fd:
        return attempt(fallocate, fd, FALLOC_FL_ZERO_RANGE, 0, PAGE)


@limit("`poll` and `epoll`", ours=None, tmpfs="EPERM")
def test_epoll_takes_files(here: Path) -> object:
    with opened(here / "file") as fd, select.epoll() as epoll:
        return attempt(epoll.register, fd, select.EPOLLPRI)


@limit("our own attributes", ours=("ENODATA", "ENOTSUP"), tmpfs=("ENODATA", None))
def test_reserved_attributes(here: Path) -> object:
    path, name = made(here / "file"), "user.fvrange.other"
    return attempt(os.getxattr, path, name), attempt(os.setxattr, path, name, b"1")


@limit("room for ACLs", ours=[1, 1], tmpfs=[0, 0])
def test_access_control_lists_take_room(here: Path) -> object:
    """Set on a directory, or inherited; simple_set_acl in linux/fs/posix_acl.c counts nothing."""
    (here / "dir").mkdir()
    value = acl("u:rwx,u5:rwx,g:," + "".join(f"g{gid}:r," for gid in range(1, 100)) + "m:rwx,o:")
    free = [os.statvfs(here).f_favail]
    os.setxattr(here / "dir", DEFAULT, value)
    free.append(os.statvfs(here).f_favail)
    made(here / "dir/file")
    free.append(os.statvfs(here).f_favail + 1)
    return [before - after for before, after in itertools.pairwise(free)]


ROWS.append("`mount -o remount,ro`")


def test_remounting(mount: MountFactory) -> None:
    """As mount(8) calls the command, and then without it."""
    path = mount().path
    refused = run("mount", path, "-o", "ro,nosuid,nodev,relatime,remount")
    assert refused.returncode == 2
    assert "unknown option 'remount'" in refused.stderr
    assert attempt(os.mkdir, path / "before") is None
    remount = ["mount", "-i", "-o", "remount,ro", str(path)]
    subprocess.run(remount, check=True, timeout=PATIENCE)
    assert attempt(os.mkdir, path / "after") == "EROFS"


ROWS.append("set-id programs, devices, other users")


def test_mount_options(mount: MountFactory) -> None:
    """The same hardly differs from any FUSE mount: libfuse mounts nosuid,nodev."""
    mounted = mount()
    flags = os.statvfs(mounted.path).f_flag
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NODEV
    os.chmod(mounted.path, 0o777)
    assert as_user(_look_around, mounted.path.parent) == ["EACCES"]


def _look_around(at: Path) -> list[object]:
    return [attempt(os.listdir, at / "mnt")]
