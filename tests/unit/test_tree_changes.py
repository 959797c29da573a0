"""Names that change: every kind of rename, and what a reader of the directory sees meanwhile."""

from __future__ import annotations

import errno
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.names import DIR, DOT_DOT, FILE, LINK, Names, fails
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.tree import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, ROOT


@pytest.fixture
def tree() -> Names:
    return Names()


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
    tree.room.most = 2
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


def test_a_cookie_is_never_used_twice(tree: Names) -> None:
    """A reader who has seen the last entry finds the one that takes its place."""
    tree.make(b"a")
    place = tree.entries()[-1][0]
    tree.unlink(ROOT, b"a")
    tree.make(b"b")
    assert tree.names(ROOT, place) == [b"b"]


def test_a_reader_goes_on_where_it_was_though_most_entries_have_gone(tree: Names) -> None:
    for number in range(1000):
        tree.make(b"%d" % number)
    place = tree.entries()[499][0]
    for number in range(1000):
        if number % 100 != 99:
            tree.unlink(ROOT, b"%d" % number)
            left = [
                b"%d" % other for other in range(500, 1000) if other > number or other % 100 == 99
            ]
            assert number % 50 or tree.names(ROOT, place) == left
    tree.make(b"new")
    assert tree.names(ROOT, place) == [b"599", b"699", b"799", b"899", b"999", b"new"]
    assert len(tree.names()) == 11


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


# ---- paths ----


def test_a_path_follows_names(tree: Names) -> None:
    above = tree.make(b"above", DIR)
    below = tree.make(b"below", DIR, above.number)
    file = tree.make(b"file", parent=below.number)
    assert file.path == b"above/below/file"
    tree.rename(ROOT, b"above", ROOT, b"upper", 0)
    assert (below.path, file.path) == (b"upper/below", b"upper/below/file")
    tree.link(file.number, ROOT, b"other")
    tree.unlink(below.number, b"file")
    assert file.path == b"other"


def test_what_has_no_name_has_no_path(tree: Names) -> None:
    file = tree.make(b"file")
    file.lookups = 1  # it stays open
    tree.unlink(ROOT, b"file")
    assert file.path is None
    assert tree.get(ROOT).path is None


def test_names_that_change_places(tree: Names) -> None:
    one, two = tree.make(b"one"), tree.make(b"two")
    tree.rename(ROOT, b"one", ROOT, b"two", RENAME_EXCHANGE)
    assert (one.path, two.path) == (b"two", b"one")
    tree.rename(ROOT, b"one", ROOT, b"two", RENAME_WHITEOUT)
    assert two.path == b"two"
    tree.check()


def test_of_a_long_path_the_end_is_told(tree: Names) -> None:
    parent = ROOT
    for _ in range(100):
        parent = tree.make(b"d" * 100, DIR, parent).number
    path = tree.make(b"file", parent=parent).path
    assert path is not None
    assert path.startswith(b".../ddd")
    assert path.endswith(b"ddd/file")
    assert len(path) < 1024 + 256 + 4


# ---- the room of inodes ----


def test_names_and_targets_take_from_the_room_of_inodes(tree: Names) -> None:
    """As many hard links as one likes would take all memory of the daemon."""
    free = tree.room.free
    file = tree.make(b"file")
    for number in range(10):
        tree.link(file.number, ROOT, b"%d" % number)
    assert tree.room.free == free - 11
    tree.create(ROOT, b"link", LINK, 0, 0, target=b"t" * 3000)
    assert tree.room.free == free - 11 - 1 - 3
    tree.check()
    tree.rename(ROOT, b"1", ROOT, b"0", 0)
    assert tree.room.free == free - 15, "two names of one file"
    other = tree.make(b"other")
    tree.rename(ROOT, b"other", ROOT, b"2", 0)
    tree.unlink(ROOT, b"link")
    assert tree.room.free == free - 11, "one less, but another file"
    for name in tree.names():
        tree.unlink(ROOT, name)
    assert (tree.room.free, other.nlink) == (free, 0)
    tree.check()


def test_a_name_that_there_is_no_room_for(tree: Names) -> None:
    file = tree.make(b"file")
    unnamed = tree.create_unnamed(ROOT, 0o600, 0, 0)
    tree.room.most -= tree.room.free
    fails(errno.ENOSPC, tree.link, file.number, ROOT, b"name")
    assert (tree.names(), file.nlink) == ([b"file"], 1)
    assert tree.link(unnamed.number, ROOT, b"first").nlink == 1, "it had its room"
    fails(errno.ENOSPC, tree.link, unnamed.number, ROOT, b"second")
    tree.check()
