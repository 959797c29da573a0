"""Access control lists of inodes: what they take, and that a call that fails changes nothing.

What they mean: property/test_acl; that tmpfs has them so: parity/test_acls.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.support.acls import acl as written
from tests.support.names import DIR, FILE, LINK, Names, fails
from vfs_volatile.core.acl import ACCESS, DEFAULT
from vfs_volatile.fs import acls
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.tree import ROOT
from vfs_volatile.processes.identity import keeps_set_group_id

FULL = written("u:rwx,g:rwx," + "".join(f"g{gid}:rwx," for gid in range(1, 400)) + "m:rwx,o:rwx")
"""Takes more than three inodes."""
PLAIN = written("u:rwx,g:r,o:")


@pytest.fixture
def tree() -> Names:
    return Names()


def give(tree: Names, inode: Inode, name: bytes, value: bytes) -> None:
    acls.give(tree.room, inode, name, value, keeps_set_group_id=True)


def test_lists_take_room_and_give_it_back(tree: Names) -> None:
    free = tree.room.free
    give(tree, tree.make(b"d", DIR), DEFAULT, FULL)
    assert free - tree.room.free == 1 + 4
    above = tree.number(b"d")
    assert above is not None
    tree.make(b"f", FILE, above)
    tree.make(b"below", DIR, above)
    assert free - tree.room.free == 3 + 13  # KiB: one list for the file, two for the directory
    tree.unlink(above, b"f")
    tree.rmdir(above, b"below")
    tree.rmdir(ROOT, b"d")
    assert tree.room.free == free


def test_without_room_for_its_lists_nothing_is_made(tree: Names) -> None:
    directory = tree.make(b"d", DIR)
    give(tree, directory, DEFAULT, FULL)
    tree.room.most -= tree.room.free - 4
    free = tree.room.free
    fails(errno.ENOSPC, tree.make, b"f", FILE, directory.number)
    fails(errno.ENOSPC, tree.make, b"e", DIR, directory.number)
    assert tree.names(directory.number) == []
    assert tree.room.free == free
    tree.make(b"l", LINK, directory.number)
    tree.check()


def test_a_list_for_which_there_is_no_room_changes_nothing(tree: Names) -> None:
    file = tree.make(b"f", FILE)
    tree.room.most -= tree.room.free
    fails(errno.ENOSPC, give, tree, file, ACCESS, FULL)
    fails(errno.EINVAL, give, tree, file, ACCESS, FULL[:-1])
    fails(errno.EINVAL, give, tree, file, DEFAULT, b"nonsense")
    assert (file.mode, file.xattrs) == (FILE, {})


def test_a_list_that_says_no_more_than_the_mode_takes_the_place_of_another(tree: Names) -> None:
    file = tree.make(b"f", FILE)
    free = tree.room.free
    give(tree, file, ACCESS, FULL)
    assert stat.S_IMODE(file.mode) == 0o777
    give(tree, file, ACCESS, PLAIN)
    assert (stat.S_IMODE(file.mode), file.xattrs, tree.room.free) == (0o740, {}, free)


def test_who_keeps_the_set_group_id_bit() -> None:
    """The group of files, another that the process is in, one that it is not in; none that ends."""
    mine = os.getgid()
    assert keeps_set_group_id(os.getpid(), mine)
    stranger = max([mine, *os.getgroups()]) + 1
    assert keeps_set_group_id(os.getpid(), stranger) == _has_cap_fsetid()
    assert not keeps_set_group_id(0, mine)


def _has_cap_fsetid() -> bool:
    lines = Path("/proc/self/status").read_text().splitlines()
    return bool(int(dict(line.split(":", 1) for line in lines)["CapEff"], 16) & 16)
