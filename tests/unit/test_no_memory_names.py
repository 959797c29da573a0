"""Python runs out of memory while names change: at each of its allocations in turn.

Then a change has happened or not, and what is called next works.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.support.acls import acl
from tests.support.names import DIR, FIFO, FILE, LINK, Names
from tests.support.no_memory import NoMemory
from vfs_volatile.core.acl import ACCESS, DEFAULT
from vfs_volatile.fs import acls
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.tree import RENAME_EXCHANGE, RENAME_WHITEOUT

LIST = acl("u:rwx,u5:rw,g:rx,m:rwx,o:")


class Full(Names):
    """Two directories with entries of all kinds; what is made in the second inherits."""

    def __init__(self) -> None:
        super().__init__()
        self.here = self.make(b"here", DIR).number
        self.there = self.make(b"there", DIR).number
        acls.give(self.room, self.get(self.there), DEFAULT, LIST, keeps_set_group_id=True)
        self.file = self.make(b"file", FILE, self.here)
        self.link(self.file.number, self.there, b"alias")
        self.link(self.file.number, self.here, b"another")
        self.make(b"other", FILE, self.there)
        self.make(b"dir", DIR, self.here)
        self.make(b"empty", DIR, self.there)
        self.room.set_attribute(self.file, b"user.a", b"value")
        acls.give(self.room, self.file, ACCESS, LIST, keeps_set_group_id=True)
        self.open = self.make(b"open", FILE, self.here)
        self.open.lookups = 1
        self.unlink(self.here, b"open")
        for number in range(80):  # with a removal more the rest is tidied up
            self.make(b"%d" % number, FIFO, self.here)
        for number in range(68):
            self.unlink(self.here, b"%d" % number)

    def rename_all(self, flags: int, *names: bytes) -> None:
        old, new = names
        self.rename(self.here, old, self.there, new, flags)

    def seen(self) -> object:
        """All that can be known, but times."""
        return {
            number: (
                inode.mode, inode.nlink, sorted(inode.xattrs.items()), inode.linkable, inode.target,
                self._entries_of(inode),
            )
            for number, inode in self.inodes.items()
        }  # fmt: skip

    def _entries_of(self, inode: Inode) -> object:
        if inode.directory is None:
            return None
        parent = inode.directory.parent
        names = [(name, entry.number) for _, name, entry in self.entries(inode.number)]
        return sorted(names), parent and parent.number


CALLS: dict[str, Callable[[Full], object]] = {
    "create": lambda tree: tree.create(tree.here, b"new", FILE, 1, 2, umask=0o22),
    "create an heir": lambda tree: tree.create(tree.there, b"new", FILE, 1, 2),
    "mkdir": lambda tree: tree.create(tree.there, b"new", DIR, 1, 2),
    "symlink": lambda tree: tree.create(tree.here, b"new", LINK, 1, 2, target=b"file"),
    "mknod": lambda tree: tree.create(tree.here, b"new", FIFO, 1, 2, rdev=7),
    "link": lambda tree: tree.link(tree.file.number, tree.there, b"new"),
    "unlink": lambda tree: tree.unlink(tree.there, b"other"),
    "unlink one of several": lambda tree: tree.unlink(tree.here, b"file"),
    "unlink and tidy up": lambda tree: tree.unlink(tree.here, b"70"),
    "rmdir": lambda tree: tree.rmdir(tree.there, b"empty"),
    "forget": lambda tree: tree.forget(tree.open.number, 1),
    "rename": lambda tree: tree.rename_all(0, b"file", b"new"),
    "rename a directory": lambda tree: tree.rename_all(0, b"dir", b"new"),
    "rename over a file": lambda tree: tree.rename_all(0, b"file", b"other"),
    "rename over a directory": lambda tree: tree.rename_all(0, b"dir", b"empty"),
    "exchange": lambda tree: tree.rename_all(RENAME_EXCHANGE, b"dir", b"other"),
    "leave a whiteout": lambda tree: tree.rename_all(RENAME_WHITEOUT, b"file", b"new"),
    "leave a whiteout, over a file": lambda tree: tree.rename_all(
        RENAME_WHITEOUT, b"file", b"other"
    ),
    "set an attribute": lambda tree: tree.room.set_attribute(tree.file, b"user.b", b"v" * 500),
    "set an attribute anew": lambda tree: tree.room.set_attribute(tree.file, b"user.a", b"v" * 500),
    "remove an attribute": lambda tree: tree.room.remove_attribute(tree.file, b"user.a"),
    "chmod": lambda tree: acls.set_mode(tree.file, FILE & ~0o777 | 0o751),
    "give a list": lambda tree: acls.give(
        tree.room, tree.file, ACCESS, acl("u:r,g:,g7:rw,m:r,o:x"), keeps_set_group_id=False
    ),
    "give a list that the mode says": lambda tree: acls.give(
        tree.room, tree.file, ACCESS, acl("u:r,g:,o:x"), keeps_set_group_id=False
    ),
    "take a list away": lambda tree: acls.take_away(
        tree.room, tree.file, ACCESS, keeps_set_group_id=False
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_change_has_happened_or_not(no_memory: NoMemory, name: str) -> None:
    call = CALLS[name]
    before, done = Full(), Full()
    call(done)
    assert before.seen() != done.seen()
    number = 0
    for number, tree in no_memory.failures(Full, call):
        what = f"{name}, allocation {number}"
        assert tree.seen() in (before.seen(), done.seen()), what
        tree.check()
        if tree.seen() == before.seen():
            call(tree)
        tree.make(b"one more", DIR, tree.there)
        tree.check()
    assert number, "it needs memory"


def test_a_file_without_a_name(no_memory: NoMemory) -> None:
    """There is one more, or not."""
    before = Full().seen()
    for number, tree in no_memory.failures(
        Full, lambda tree: tree.create_unnamed(tree.there, 0o600, 1, 2)
    ):
        assert tree.seen() == before, number
        tree.check()


def test_what_could_not_be_counted_is_counted_later(no_memory: NoMemory) -> None:
    """Removing a directory with attributes goes on without memory for a sum."""
    number, refused = 0, True
    while refused:
        tree = Full()
        refused, _ = no_memory.refusing(number, partial(tree.rmdir, tree.there, b"empty"))
        tree.check()
        tree.make(b"one more", DIR, tree.there)
        tree.check()
        number += 1
