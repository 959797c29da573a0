"""An inode is kept for as long as a name, a process or the kernel refers to it, and not longer."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.parity.calls import handle_of, open_by_handle
from tests.support.mount import ROOT, Mount, MountFactory
from tests.support.waiting import PATIENCE, eventually

FILES = 300

HOLDER = """
import os, sys
for number in range(int(sys.argv[2])):
    path = os.path.join(sys.argv[1], f"held{number}")
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.link(path, path + "-too")
    os.stat(path + "-too")
    os.unlink(path)
    os.unlink(path + "-too")
    os.write(fd, b"%d" % number)
print("holds", flush=True)
sys.stdin.readline()
"""


def inodes(mounted: Mount) -> int:
    found = os.statvfs(mounted.path)
    return found.f_files - found.f_ffree


def test_a_name_that_is_made_and_removed_leaves_nothing(fs: Mount) -> None:
    before = inodes(fs)
    for number in range(FILES):
        path = fs.path / f"file{number}"
        path.write_bytes(b"x")
        assert path.stat().st_size == 1
        path.unlink()
    assert eventually(lambda: inodes(fs) == before)
    assert eventually(lambda: fs.resident == 0)


def test_many_that_are_let_go_of_at_once(fs: Mount) -> None:
    """The kernel forgets several inodes by one request then (FUSE_BATCH_FORGET)."""
    before = inodes(fs)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, fs.path, str(FILES)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "holds\n"
            assert os.listdir(fs.path) == []
            assert inodes(fs) == before + FILES, "each is held by an open file alone"
        finally:
            holder.kill()
            holder.wait(timeout=PATIENCE)
    assert eventually(lambda: inodes(fs) == before)
    assert eventually(lambda: fs.resident == 0)


def test_what_is_known_under_a_name_outlives_its_readers(fs: Mount) -> None:
    """An inode that the kernel has forgotten, or not yet, is the same when it is found again."""
    path = fs.path / "file"
    path.write_bytes(b"x" * 10)
    number = path.stat().st_ino
    for _ in range(3):
        with path.open("rb") as file:
            assert file.read() == b"x" * 10
            assert os.fstat(file.fileno()).st_ino == number
    os.rename(path, fs.path / "other")
    assert (fs.path / "other").stat().st_ino == number
    assert not path.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="opens by handle, and remounts: as root")
@pytest.mark.parametrize("access", ["sigbus", "zero"])
def test_what_the_kernel_has_forgotten_is_opened_by_its_handle(
    mount: MountFactory, access: str
) -> None:
    """As file servers do it, long after; of what has gone the handle is stale."""
    root = mount(access=access).path
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "file").write_bytes(b"x" * 10)
    (root / "a" / "gone").write_bytes(b"")
    file, directory, gone = (handle_of(root / "a" / name) for name in ("file", "b", "gone"))
    (root / "a" / "gone").unlink()
    remount = ["mount", "-i", "-o", "remount,rw", str(root)]  # the kernel lets go of all entries
    subprocess.run(remount, check=True, timeout=PATIENCE)
    fd = os.open(root, os.O_RDONLY)
    try:
        with open(open_by_handle(fd, file), "rb") as found:
            assert found.read() == b"x" * 10
        found_directory = open_by_handle(fd, directory)
        assert os.readlink(f"/proc/self/fd/{found_directory}") == str(root / "a" / "b")
        os.close(found_directory)
        with pytest.raises(OSError, match="Stale"):
            open_by_handle(fd, gone)
    finally:
        os.close(fd)
