"""O_TMPFILE."""

from __future__ import annotations

import os
import stat

from tests.support.fvrange import PAGE
from tests.support.mount import Mount
from tests.support.waiting import eventually
from vfs_volatile import VRANGE_NONVOLATILE, VRANGE_VOLATILE, fvrange, fvrange_purge


def test_a_file_without_a_name(fs: Mount) -> None:
    """It has no entry, can be marked and purged, and be given a name at the end."""
    fd = os.open(fs.path, os.O_TMPFILE | os.O_RDWR, 0o640)
    try:
        assert os.listdir(fs.path) == []
        found = os.fstat(fd)
        assert (found.st_nlink, stat.S_IMODE(found.st_mode), found.st_size) == (0, 0o640, 0)
        os.pwrite(fd, b"x" * PAGE, 0)
        fvrange(fd, 0, 0, VRANGE_VOLATILE)
        assert fvrange_purge(fd) == PAGE
        assert fvrange(fd, 0, 0, VRANGE_NONVOLATILE) == PAGE
        os.pwrite(fd, b"kept", 0)
        # With a src_dir_fd, which an absolute path ignores, Python follows the link.
        os.link(f"/proc/self/fd/{fd}", fs.path / "named", src_dir_fd=fd, follow_symlinks=True)
        assert os.fstat(fd).st_nlink == 1
    finally:
        os.close(fd)
    assert (fs.path / "named").read_bytes()[:4] == b"kept"


def test_it_is_gone_with_its_last_descriptor(fs: Mount) -> None:
    before = fs.resident
    fd = os.open(fs.path, os.O_TMPFILE | os.O_RDWR)
    os.pwrite(fd, b"x" * PAGE, 0)
    assert fs.resident == before + PAGE
    os.close(fd)
    assert eventually(lambda: fs.resident == before), "the kernel forgets on its own time"
