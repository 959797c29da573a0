"""A namespace without a mount."""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.stores import FakeStore
from vfs_volatile.core.memory import Memory
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.tree import ROOT, Tree

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
        assert entries.inode is inode
        return list(entries.after(cookie))

    def names(self, parent: int = ROOT, cookie: int = DOT_DOT) -> list[bytes]:
        return [name for _, name, _ in self.entries(parent, cookie)]

    def number(self, name: bytes, parent: int = ROOT) -> int | None:
        found = self.lookup(parent, name)
        return found.number if found else None

    def check(self) -> None:
        """The link counts are those of the names, an inode knows its names, none is left over, and
        the room they take is counted.
        """
        for inode in self.inodes.values():
            assert inode.nlink or inode.lookups > 0, "left over"
            if inode.directory is not None:
                inode.directory.check()
        self.room.check()
        known = {
            (dentry.directory.inode.number, dentry.name, inode.number)
            for inode in self.inodes.values()
            for dentry in ([inode._dentry] if inode._dentry else []) + list(inode._aliases or ())
        }
        named = set()
        for inode in self.inodes.values():
            if inode.directory is None:
                continue
            below = [entry for _, _, entry in self.entries(inode.number)]
            if inode.nlink:
                assert inode.nlink == 2 + sum(entry.directory is not None for entry in below)
            for entry in below:
                assert self.inodes[entry.number] is entry
                assert entry.directory is None or entry.directory.parent is inode
            named |= {
                (inode.number, name, entry.number) for _, name, entry in self.entries(inode.number)
            }
        assert known == named


def fails(number: int, call: Callable[..., Any], *args: Any) -> None:
    with pytest.raises(SyscallError) as failure:
        call(*args)
    assert failure.value.errno == number
