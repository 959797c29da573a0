"""The namespace: names, link counts, what a reader of a directory sees."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.stores import FakeStore
from vfs_volatile.core.memory import Memory
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.tree import (
    NAME_MAX,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    ROOT,
    Tree,
)
from vfs_volatile.units import PAGE_SIZE

FILE = stat.S_IFREG | 0o644
DIR = stat.S_IFDIR | 0o755
LINK = stat.S_IFLNK | 0o777
FIFO = stat.S_IFIFO | 0o600

DOT_DOT = 2
"""The cookie after which the entries come."""


class Names(Tree):
    """A tree with the calls that tests want short."""

    def __init__(self) -> None:
        self.memory = Memory(100, 100)
        super().__init__(self.memory, FakeStore)

    def make(self, name: bytes, mode: int = FILE, parent: int = ROOT) -> Inode:
        return self.create(parent, name, mode, 1000, 100)

    def entries(self, parent: int = ROOT, cookie: int = DOT_DOT) -> list[tuple[int, bytes, Inode]]:
        """What a reader finds after ``cookie``."""
        inode, entries = self.directory(parent)
        return list(entries.after(cookie, inode))

    def names(self, parent: int = ROOT, cookie: int = DOT_DOT) -> list[bytes]:
        return [name for _, name, _ in self.entries(parent, cookie)]

    def number(self, name: bytes, parent: int = ROOT) -> int | None:
        found = self.lookup(parent, name)
        return found.number if found else None

    def check(self) -> None:
        """The link counts are those of the names."""
        for inode in self.inodes.values():
            if inode.directory is None:
                continue
            below = [entry for _, _, entry in self.entries(inode.number)]
            if inode.nlink:
                assert inode.nlink == 2 + sum(entry.directory is not None for entry in below)
            for entry in below:
                assert self.inodes[entry.number] is entry
                assert entry.directory is None or entry.directory.parent is inode


@pytest.fixture
def tree() -> Names:
    return Names()


def fails(number: int, call: Callable[..., Any], *args: Any) -> None:
    with pytest.raises(SyscallError) as failure:
        call(*args)
    assert failure.value.errno == number


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
    tree.max_inodes = 3
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


# ---- rename ----

OK, NONE = 0, "none"
MATRIX = [
    # flags, what is moved, what has the name already, errno
    (0, "file", NONE, OK),
    (0, "file", "file", OK),
    (0, "file", "empty", errno.EISDIR),
    (0, "file", "full", errno.EISDIR),
    (0, "full", NONE, OK),
    (0, "full", "file", errno.ENOTDIR),
    (0, "full", "empty", OK),
    (0, "full", "full", errno.ENOTEMPTY),
    (RENAME_NOREPLACE, "file", NONE, OK),
    (RENAME_NOREPLACE, "file", "file", errno.EEXIST),
    (RENAME_NOREPLACE, "full", NONE, OK),
    (RENAME_NOREPLACE, "full", "empty", errno.EEXIST),
    (RENAME_EXCHANGE, "file", NONE, errno.ENOENT),
    (RENAME_EXCHANGE, "file", "file", OK),
    (RENAME_EXCHANGE, "file", "full", OK),
    (RENAME_EXCHANGE, "full", "file", OK),
    (RENAME_EXCHANGE, "full", "full", OK),
    (8, "file", NONE, errno.EINVAL),
    (1 << 20, "file", NONE, errno.EINVAL),
]


def make_kind(tree: Names, parent: int, name: bytes, kind: str) -> Inode | None:
    if kind == NONE:
        return None
    made = tree.make(name, FILE if kind == "file" else DIR, parent)
    made.lookups = 1
    if kind == "full":
        tree.make(b"inner", FILE, made.number)
    return made


@pytest.mark.parametrize(("flags", "kind", "other_kind", "number"), MATRIX)
@pytest.mark.parametrize("across", [False, True])
def test_rename(
    tree: Names, flags: int, kind: str, other_kind: str, number: int, across: bool
) -> None:
    here = tree.make(b"here", DIR)
    there = tree.make(b"there", DIR) if across else here
    moved = make_kind(tree, here.number, b"old", kind)
    other = make_kind(tree, there.number, b"new", other_kind)
    before = (tree.names(here.number), tree.names(there.number), here.nlink, there.nlink)
    rename = (here.number, b"old", there.number, b"new", flags)
    if number:
        fails(number, tree.rename, *rename)
        assert before == (
            tree.names(here.number), tree.names(there.number), here.nlink, there.nlink
        )  # fmt: skip
        assert tree.lookup(here.number, b"old") is moved
        assert tree.lookup(there.number, b"new") is other
    else:
        tree.rename(*rename)
        assert tree.lookup(there.number, b"new") is moved
        left = other if flags == RENAME_EXCHANGE else None
        assert tree.lookup(here.number, b"old") is left
        if other is not None and left is None:
            assert other.nlink == 0
    tree.check()


@pytest.mark.parametrize("kind", ["file", "full"])
def test_a_whiteout_stays_under_the_old_name(tree: Names, kind: str) -> None:
    moved = make_kind(tree, ROOT, b"old", kind)
    tree.make(b"new", FILE if kind == "file" else DIR)
    tree.rename(ROOT, b"old", ROOT, b"new", RENAME_WHITEOUT)
    assert tree.lookup(ROOT, b"new") is moved
    whiteout = tree.lookup(ROOT, b"old")
    assert whiteout is not None
    assert (whiteout.mode, whiteout.rdev, whiteout.nlink) == (stat.S_IFCHR, 0, 1)
    tree.check()


def test_without_an_inode_for_the_whiteout_nothing_is_renamed(tree: Names) -> None:
    moved = tree.make(b"old")
    tree.max_inodes = 2
    fails(errno.ENOSPC, tree.rename, ROOT, b"old", ROOT, b"new", RENAME_WHITEOUT)
    assert tree.names() == [b"old"]
    assert tree.lookup(ROOT, b"old") is moved


def test_a_directory_moved_has_another_parent(tree: Names) -> None:
    one, two = tree.make(b"one", DIR), tree.make(b"two", DIR)
    moved = tree.make(b"moved", DIR, one.number)
    tree.rename(one.number, b"moved", two.number, b"moved", 0)
    assert (one.nlink, two.nlink) == (2, 3)
    assert tree.number(b"..", moved.number) == two.number


def test_a_directory_exchanged_with_a_file_takes_its_link_along(tree: Names) -> None:
    one, two = tree.make(b"one", DIR), tree.make(b"two", DIR)
    moved = tree.make(b"d", DIR, one.number)
    tree.make(b"f", FILE, two.number)
    tree.rename(one.number, b"d", two.number, b"f", RENAME_EXCHANGE)
    assert (one.nlink, two.nlink) == (2, 3)
    tree.rename(one.number, b"d", two.number, b"f", RENAME_EXCHANGE)
    assert (one.nlink, two.nlink) == (3, 2)
    assert tree.number(b"..", moved.number) == one.number


def test_a_rename_over_another_name_of_the_same_file_does_nothing(tree: Names) -> None:
    file = tree.make(b"one")
    tree.link(file.number, ROOT, b"two")
    tree.rename(ROOT, b"one", ROOT, b"two", 0)
    assert tree.names() == [b"one", b"two"]
    assert file.nlink == 2
    tree.rename(ROOT, b"one", ROOT, b"one", 0)
    assert tree.names() == [b"one", b"two"]


def test_a_replaced_file_lives_while_the_kernel_knows_it(tree: Names) -> None:
    tree.make(b"new")
    old = tree.make(b"old")
    old.lookups = 1
    tree.rename(ROOT, b"new", ROOT, b"old", 0)
    assert old.nlink == 0
    assert tree.get(old.number) is old
    tree.forget(old.number, 1)
    fails(errno.ESTALE, tree.get, old.number)


# ---- reading directories ----


def test_cookies_stay_valid_while_entries_come_and_go(tree: Names) -> None:
    for letter in (b"a", b"b", b"c", b"d"):
        tree.make(letter)
    place = {name: cookie for cookie, name, _ in tree.entries()}[b"b"]
    tree.unlink(ROOT, b"b")
    tree.make(b"e")
    assert tree.names(ROOT, place) == [b"c", b"d", b"e"]
    tree.make(b"b")
    tree.rename(ROOT, b"c", ROOT, b"z", 0)
    tree.rename(ROOT, b"a", ROOT, b"d", 0)
    assert tree.names(ROOT, place) == [b"d", b"e", b"b", b"z"]


@given(st.lists(st.tuples(st.sampled_from("cur"), st.integers(0, 7), st.integers(0, 7))))
def test_a_reader_sees_what_stays_once_and_what_changes_at_most_once(
    changes: list[tuple[str, int, int]],
) -> None:
    """Names 0-7 come and go; "stays" is there all the time. One entry is read per change.

    A name made anew is a new entry: POSIX lets a reader see it or not (readdir(3p)).
    """
    tree = Names()
    for number in range(4):
        tree.make(b"%d" % number)
    tree.make(b"stays")
    seen: list[tuple[bytes, int]] = []
    cookie = DOT_DOT
    for what, one, other in changes:
        for at, name, inode in tree.entries(ROOT, cookie)[:1]:
            assert at > cookie
            cookie = at
            seen.append((name, inode.number))
        _change(tree, what, b"%d" % one, b"%d" % other)
    seen += [(name, inode.number) for _, name, inode in tree.entries(ROOT, cookie)]
    assert [name for name, _ in seen].count(b"stays") == 1
    assert len(set(seen)) == len(seen) or any(what == "r" for what, *_ in changes)
    tree.check()


def _change(tree: Names, what: str, one: bytes, other: bytes) -> None:
    try:
        match what:
            case "c":
                tree.make(one)
            case "u":
                tree.unlink(ROOT, one)
            case "r":
                tree.rename(ROOT, one, ROOT, other, 0)
    except SyscallError as error:
        assert error.errno in (errno.EEXIST, errno.ENOENT)


def test_dot_and_dot_dot_come_first(tree: Names) -> None:
    below = tree.make(b"dir", DIR)
    inner = tree.make(b"inner", FILE, below.number)
    root = tree.get(ROOT)
    everything = [(1, b".", below), (2, b"..", root), (3, b"inner", inner)]
    for cookie in range(4):
        assert tree.entries(below.number, cookie) == everything[cookie:]
    assert tree.entries(ROOT, 0)[:2] == [(1, b".", root), (2, b"..", root)]


def test_a_removed_directory_is_its_own_dot_dot(tree: Names) -> None:
    gone = tree.make(b"dir", DIR)
    gone.lookups = 1
    tree.rmdir(ROOT, b"dir")
    assert tree.entries(gone.number, 0) == [(1, b".", gone), (2, b"..", gone)]


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
