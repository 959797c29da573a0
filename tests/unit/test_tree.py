"""The namespace: names, link counts, inodes without names."""

from __future__ import annotations

import errno
import gc
import stat
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.names import DIR, FIFO, FILE, LINK, Names, fails
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.range_state import Drain
from vfs_volatile.core.volatility import Volatility
from vfs_volatile.core.votes import Votes
from vfs_volatile.fs.directory import NAME_MAX, Directory
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.tree import RENAME_EXCHANGE, RENAME_NOREPLACE, ROOT
from vfs_volatile.units import PAGE_SIZE

PARTS = (AddressSpace, Volatility, Votes, Drain, Directory)
"""What a file, or a directory, is made of."""


@pytest.fixture
def tree() -> Names:
    return Names()


@pytest.fixture
def collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# ---- making and removing names ----


@pytest.mark.parametrize("mode", [FILE, DIR, LINK, FIFO])
def test_a_new_inode_is_found_under_its_name(tree: Names, mode: int) -> None:
    made = tree.create(ROOT, b"name", mode, 7, 8, rdev=5, target=b"there")
    assert tree.lookup(ROOT, b"name") is made
    assert (made.mode, made.uid, made.gid) == (mode, 7, 8)
    assert made.nlink == (2 if mode == DIR else 1)
    assert (made.space is not None, made.directory is not None) == (mode == FILE, mode == DIR)
    assert tree.get(ROOT).nlink == (3 if mode == DIR else 2)
    fails(errno.EEXIST, tree.make, b"name")


def test_the_handle_of_a_deleted_file_is_stale(tree: Names) -> None:
    """Also if the kernel has yet to tell that it has forgotten it."""
    file = tree.make(b"f")
    file.lookups = 1
    assert tree.lookup(file.number, b".") is file
    tree.unlink(ROOT, b"f")
    fails(errno.ESTALE, tree.lookup, file.number, b".")


def test_dot_and_dot_dot(tree: Names) -> None:
    below = tree.make(b"a", DIR)
    assert tree.number(b".", below.number) == below.number
    assert tree.number(b"..", below.number) == ROOT
    assert tree.number(b"..") == ROOT


def test_what_is_not_there(tree: Names) -> None:
    file = tree.make(b"file")
    assert tree.lookup(ROOT, b"other") is None
    fails(errno.ENOTDIR, tree.lookup, file.number, b"x")
    fails(errno.ESTALE, tree.get, 999)
    fails(errno.ENOENT, tree.unlink, ROOT, b"other")
    fails(errno.ENOENT, tree.rmdir, ROOT, b"other")
    fails(errno.ENOENT, tree.rename, ROOT, b"other", ROOT, b"new", 0)
    fails(errno.ESTALE, tree.link, 999, ROOT, b"new")


def test_unlink_is_for_files_rmdir_for_empty_directories(tree: Names) -> None:
    below = tree.make(b"dir", DIR)
    tree.make(b"file")
    tree.make(b"inner", FILE, below.number)
    fails(errno.EISDIR, tree.unlink, ROOT, b"dir")
    fails(errno.ENOTDIR, tree.rmdir, ROOT, b"file")
    fails(errno.ENOTEMPTY, tree.rmdir, ROOT, b"dir")
    tree.unlink(below.number, b"inner")
    tree.rmdir(ROOT, b"dir")
    assert tree.names() == [b"file"]
    assert tree.get(ROOT).nlink == 2


def test_names_of_255_bytes_and_not_one_more(tree: Names) -> None:
    longest, too_long = b"n" * NAME_MAX, b"n" * (NAME_MAX + 1)
    file = tree.make(longest)
    assert tree.lookup(ROOT, longest) is file
    fails(errno.ENAMETOOLONG, tree.lookup, ROOT, too_long)
    fails(errno.ENAMETOOLONG, tree.make, too_long)
    fails(errno.ENAMETOOLONG, tree.link, file.number, ROOT, too_long)
    for flags in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
        fails(errno.ENAMETOOLONG, tree.rename, ROOT, longest, ROOT, too_long, flags)
    assert tree.names() == [longest]


def test_hard_links_are_names_of_one_inode(tree: Names) -> None:
    file, below = tree.make(b"one"), tree.make(b"dir", DIR)
    tree.link(file.number, below.number, b"two")
    assert file.nlink == 2
    assert tree.lookup(below.number, b"two") is file
    fails(errno.EEXIST, tree.link, file.number, ROOT, b"dir")
    tree.unlink(ROOT, b"one")
    assert (file.nlink, tree.lookup(below.number, b"two")) == (1, file)


def test_a_setgid_directory_hands_down_its_group(tree: Names) -> None:
    shared = tree.create(ROOT, b"shared", DIR | stat.S_ISGID, 1, 77)
    file = tree.make(b"file", FILE, shared.number)
    below = tree.make(b"dir", DIR, shared.number)
    assert (file.gid, below.gid) == (77, 77)
    assert not file.mode & stat.S_ISGID
    assert below.mode & stat.S_ISGID
    assert tree.make(b"outside").gid == 100


def test_inodes_are_limited_and_those_freed_can_be_had_again(tree: Names) -> None:
    tree.room.most = 3
    tree.make(b"one")
    tree.make(b"two", DIR)
    fails(errno.ENOSPC, tree.make, b"three")
    assert tree.names() == [b"one", b"two"]
    assert tree.get(ROOT).nlink == 3
    tree.unlink(ROOT, b"one")
    tree.make(b"three")


# ---- inodes without names ----


def test_an_unlinked_file_lives_while_the_kernel_knows_it(tree: Names) -> None:
    file = tree.make(b"file")
    file.lookups = 3
    assert file.space is not None
    file.space.write(0, b"data")
    tree.unlink(ROOT, b"file")
    assert file.nlink == 0
    tree.forget(file.number, 2)
    assert tree.get(file.number).space is file.space
    assert file.space.read(0, 4) == b"data"
    tree.forget(file.number, 1)
    fails(errno.ESTALE, tree.get, file.number)
    assert tree.memory.resident == 0
    tree.forget(file.number, 1)


def test_a_file_with_a_name_outlives_what_the_kernel_knows(tree: Names) -> None:
    file = tree.make(b"file")
    file.lookups = 1
    tree.forget(file.number, 1)
    assert tree.get(file.number) is file
    tree.unlink(ROOT, b"file")
    fails(errno.ESTALE, tree.get, file.number)


def test_an_unlinked_file_cannot_be_linked_again(tree: Names) -> None:
    file = tree.make(b"file")
    file.lookups = 1
    tree.unlink(ROOT, b"file")
    fails(errno.ENOENT, tree.link, file.number, ROOT, b"again")


def test_nothing_is_made_in_a_removed_directory(tree: Names) -> None:
    gone, file = tree.make(b"dir", DIR), tree.make(b"file")
    gone.lookups = 1
    tree.rmdir(ROOT, b"dir")
    assert gone.nlink == 0
    fails(errno.ENOENT, tree.make, b"new", FILE, gone.number)
    fails(errno.ENOENT, tree.link, file.number, gone.number, b"new")
    fails(errno.ENOENT, tree.rename, ROOT, b"file", gone.number, b"new", 0)
    assert tree.names(gone.number) == []
    assert tree.number(b"..", gone.number) == gone.number


def test_numbers_are_never_used_twice(tree: Names) -> None:
    seen = {ROOT}
    for _ in range(20):
        number = tree.make(b"file").number
        assert number not in seen
        seen.add(number)
        tree.unlink(ROOT, b"file")
    assert set(tree.inodes) == {ROOT}


# ---- sizes and times ----


def test_sizes_are_those_of_tmpfs(tree: Names) -> None:
    link = tree.create(ROOT, b"link", LINK, 0, 0, target=b"over/there")
    file, below = tree.make(b"file"), tree.make(b"dir", DIR)
    tree.make(b"inner", FILE, below.number)
    assert file.space is not None
    file.space.truncate(PAGE_SIZE + 1)
    assert (link.size, file.size, below.size) == (10, PAGE_SIZE + 1, 60)
    assert tree.get(ROOT).size == 100


def test_changes_of_names_change_the_times_of_their_directories(tree: Names) -> None:
    one, two = tree.make(b"one", DIR), tree.make(b"two", DIR)
    root = tree.get(ROOT)

    def changed(call: Callable[..., object], *args: Any) -> set[str]:
        for inode in (root, one, two):
            inode.mtime_ns = inode.ctime_ns = 0
        call(*args)
        inodes = {"root": root, "one": one, "two": two}
        return {name for name, inode in inodes.items() if inode.mtime_ns and inode.ctime_ns}

    assert changed(tree.make, b"f", FILE, one.number) == {"one"}
    file = tree.lookup(one.number, b"f")
    assert file is not None
    file.ctime_ns = 0
    assert changed(tree.link, file.number, two.number, b"g") == {"two"}
    assert file.ctime_ns
    assert changed(tree.rename, two.number, b"g", one.number, b"g", 0) == {"one", "two"}
    file.ctime_ns = 0
    assert changed(tree.unlink, one.number, b"g") == {"one"}
    assert file.ctime_ns
    assert changed(tree.unlink, one.number, b"f") == {"one"}
    assert changed(tree.rmdir, ROOT, b"two") == {"root"}


def test_atime_follows_relatime() -> None:
    inode = Inode(2, FILE, 0, 0)
    inode.atime_ns, inode.mtime_ns, inode.ctime_ns = 5, 4, 4
    day = 24 * 3600 * 10**9
    inode.touch_read()
    assert inode.atime_ns > day, "it was older than a day"
    recent = inode.atime_ns
    inode.touch_read()
    assert inode.atime_ns == recent
    inode.touch_written()
    inode.atime_ns = inode.mtime_ns - 1
    inode.touch_read()
    assert inode.atime_ns >= inode.mtime_ns


def test_what_is_deleted_needs_no_garbage_collector(tree: Names, collector_off: None) -> None:
    """The daemon lets it come hardly ever."""
    before = {id(found) for found in gc.get_objects() if isinstance(found, PARTS)}
    directory = tree.make(b"d", DIR)
    file = tree.make(b"f", parent=directory.number)
    assert file.space is not None
    file.space.write(0, bytes(9 * PAGE_SIZE))
    file.space.votes.agree("process", 0, 0, 0)
    file.space.mark(0, 2 * PAGE_SIZE, 0)
    drain = file.space.begin_purge([file.space.span_of(0, 0)], tree.memory.newest_age)
    tree.unlink(directory.number, b"f")
    tree.rmdir(ROOT, b"d")
    file.space.end_purge(drain)
    del directory, file, drain
    parts = (found for found in gc.get_objects() if isinstance(found, PARTS))
    assert not [found for found in parts if id(found) not in before]
