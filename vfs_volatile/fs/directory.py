"""Directories and who reads them.

If there is no memory for a change (MemoryError), nothing has changed.
"""

from __future__ import annotations

import contextlib
import errno
from bisect import bisect_right
from collections.abc import Iterator
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from vfs_volatile.errors import SyscallError

if TYPE_CHECKING:
    from vfs_volatile.fs.inode import Inode

NAME_MAX = 255
"""Bytes."""
FIRST_COOKIE = 3
"""Cookies 1 and 2 stand for ``.`` and ``..``."""
_FEW_COOKIES = 64
"""So many of removed entries may stay for no reason."""


class Dentry(NamedTuple):
    """A name of an inode."""

    directory: Directory
    name: bytes


class Directory:
    """The entries of a directory, by name and in an order that a reader can resume."""

    __slots__ = ("_by_cookie", "_by_name", "_cookies", "inode", "next_cookie", "parent")

    def __init__(self, inode: Inode, parent: Inode | None) -> None:
        self.inode = inode
        self.parent = parent
        """None for the root, and for a directory that was removed."""
        # INVARIANT: the same entries in the first two; their cookies, in the third, are never used
        # twice and grow, so that nothing needs to be sorted. It may hold those of removed ones too.
        self._by_name: dict[bytes, tuple[int, Inode]] = {}
        self._by_cookie: dict[int, bytes] = {}
        self._cookies: list[int] = []
        self.next_cookie = FIRST_COOKIE

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, name: bytes) -> Inode | None:
        entry = self._by_name.get(name)
        return entry[1] if entry else None

    def add(self, name: bytes, inode: Inode) -> None:
        """Add an entry under a name that is free."""
        cookie, dentry = self.next_cookie, Dentry(self, name)
        entry = cookie, inode
        self.next_cookie = cookie + 1
        inode.named(dentry)
        try:
            self._cookies.append(cookie)
            self._by_cookie[cookie] = name
            self._by_name[name] = entry
        except MemoryError:
            self._by_cookie.pop(cookie, None)
            inode.unnamed(dentry)
            raise

    def replace(self, name: bytes, inode: Inode) -> None:
        """Let an entry mean another inode; a reader under way sees the one or the other."""
        dentry = Dentry(self, name)
        cookie, old = self._by_name[name]
        entry = cookie, inode
        inode.named(dentry)
        try:
            old.unnamed(dentry)
        except MemoryError:
            inode.unnamed(dentry)
            raise
        self._by_name[name] = entry  # it is there: this needs no memory

    def remove(self, name: bytes) -> None:
        cookie, inode = self._by_name[name]
        inode.unnamed(Dentry(self, name))
        del self._by_name[name]
        del self._by_cookie[cookie]
        if len(self._cookies) > 2 * len(self._by_cookie) + _FEW_COOKIES:
            with contextlib.suppress(MemoryError):
                self._cookies = list(self._by_cookie)

    def after(self, cookie: int) -> Iterator[tuple[int, bytes, Inode]]:
        """What comes after ``cookie``, as (cookie, name, inode): ``.`` and ``..`` first."""
        for at, name, inode in ((1, b".", self.inode), (2, b"..", self.parent or self.inode)):
            if cookie < at:
                yield at, name, inode
        for place in range(bisect_right(self._cookies, cookie), len(self._cookies)):
            at = self._cookies[place]
            entry = self._by_cookie.get(at)
            if entry is not None:
                yield at, entry, self._by_name[entry][1]

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        assert self._by_cookie == {cookie: name for name, (cookie, _) in self._by_name.items()}
        assert self._cookies == sorted(set(self._cookies))
        assert set(self._cookies) >= self._by_cookie.keys()
        assert all(cookie < self.next_cookie for cookie in self._cookies)


def exchange(here: Directory, name: bytes, there: Directory, other_name: bytes) -> None:
    """Let each of two entries mean what the other did."""
    one, other = here.get(name), there.get(other_name)
    assert one is not None
    assert other is not None
    here.replace(name, other)
    try:
        there.replace(other_name, one)
    except MemoryError:
        here.replace(name, one)
        raise


def move(
    source: Directory, name: bytes, goal: Directory, new_name: bytes, left: Inode | None = None
) -> None:
    """Let an entry have another name, which another entry may have, and ``left`` the old one."""
    moved, replaced = source.get(name), goal.get(new_name)
    assert moved is not None
    if replaced is None:
        goal.add(new_name, moved)
    else:
        goal.replace(new_name, moved)
    try:
        if left is None:
            source.remove(name)
        else:
            source.replace(name, left)
    except MemoryError:
        if replaced is None:
            goal.remove(new_name)
        else:
            goal.replace(new_name, replaced)
        raise


def entry_of(entries: Directory, name: bytes) -> Inode:
    """What a name means. Raises SyscallError(ENOENT)."""
    inode = entries.get(name)
    if inode is None:
        raise SyscallError(errno.ENOENT)
    return inode


def require_free(entries: Directory, name: bytes) -> None:
    """Raise SyscallError: ENAMETOOLONG, EEXIST."""
    if len(name) > NAME_MAX:
        raise SyscallError(errno.ENAMETOOLONG)
    if entries.get(name) is not None:
        raise SyscallError(errno.EEXIST)


def require_empty_directory(inode: Inode) -> None:
    """Raise SyscallError: ENOTDIR, ENOTEMPTY."""
    if inode.directory is None:
        raise SyscallError(errno.ENOTDIR)
    if inode.directory:
        raise SyscallError(errno.ENOTEMPTY)


def require_replaceable(replaced: Inode, moved: Inode) -> None:
    """Raise SyscallError unless ``moved`` may have its name: ENOTDIR, ENOTEMPTY, EISDIR."""
    if moved.directory is not None:
        require_empty_directory(replaced)
    elif replaced.directory is not None:
        raise SyscallError(errno.EISDIR)


class Listing:
    """An open directory."""

    __slots__ = ("_end", "inode")

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self._end = 0

    def after(self, cookie: int) -> Iterator[tuple[int, bytes, Inode]]:
        """As :meth:`Directory.after`, but for what was added after the first was read, so that
        who renames each entry that he reads comes to an end. (tmpfs lists new ones first.)
        """
        directory = self.inode.directory
        assert directory is not None
        if not cookie or not self._end:
            self._end = directory.next_cookie
        return takewhile(lambda entry: entry[0] < self._end, directory.after(cookie))
