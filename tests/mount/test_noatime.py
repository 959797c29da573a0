"""``-o noatime``: reading leaves atime, on both paths to the data; all else sets times as ever."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from tests.support.mount import MountFactory

PAGE = 4096
OLD = 10**18
"""Times of everything, so old that relatime would set atime at any reading."""


def read_all(here: Path) -> None:
    """Read everything there is, in every way that sets atime."""
    os.listdir(here / "directory")
    os.readlink(here / "link")
    fd = os.open(here / "file", os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(fd, 2 * PAGE, 0) == b"x" * 2 * PAGE
    with mmap.mmap(fd, PAGE, prot=mmap.PROT_READ) as shared:
        assert shared[0] == ord("x")
    assert os.sendfile(os.open(os.devnull, os.O_WRONLY), fd, 0, PAGE) == PAGE
    os.close(fd)


@pytest.mark.parametrize("access", ["sigbus", "zero"])
def test_reading_sets_no_atime(mount: MountFactory, access: str) -> None:
    here = mount(access=access, o="noatime").path
    (here / "directory").mkdir()
    (here / "link").symlink_to("file")
    (here / "file").write_bytes(b"x" * 2 * PAGE)
    for name in ("directory", "link", "file"):
        os.utime(here / name, ns=(OLD, OLD), follow_symlinks=False)
    read_all(here)
    seen = {name: os.lstat(here / name) for name in ("directory", "link", "file")}
    assert {name: found.st_atime_ns for name, found in seen.items()} == dict.fromkeys(seen, OLD)


@pytest.mark.parametrize("access", ["sigbus", "zero"])
def test_other_times_are_set(mount: MountFactory, access: str) -> None:
    file = mount(access=access, o="noatime").open("file")
    os.utime(file.fd, ns=(OLD, OLD))
    os.pwrite(file.fd, b"x", 0)
    found = os.fstat(file.fd)
    assert found.st_atime_ns == OLD
    assert min(found.st_mtime_ns, found.st_ctime_ns) > OLD
    os.utime(file.fd)
    assert os.fstat(file.fd).st_atime_ns > OLD
