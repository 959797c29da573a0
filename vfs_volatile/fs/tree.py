"""The namespace: which names mean which inodes. Pure and synchronous, as tmpfs has it.

If there is no memory for a change (MemoryError) it has not happened, but times may have changed:
what needs memory comes first.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from itertools import count

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageStore
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.directory import (
    NAME_MAX,
    Directory,
    entry_of,
    exchange,
    move,
    require_empty_directory,
    require_free,
    require_replaceable,
)
from vfs_volatile.fs.inode import Inode, born_in
from vfs_volatile.fs.room import Room

ROOT = 1
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4


class Tree:
    """All inodes of a mount and the directories that name them.

    The kernel has checked permissions (``default_permissions``), types of the path's components
    and that a directory is not moved into itself.
    """

    def __init__(
        self,
        memory: Memory,
        make_store: Callable[[], PageStore],
        clear_away: Callable[[AddressSpace], None] = AddressSpace.close,
    ) -> None:
        # -- dependencies --
        self._memory = memory
        self._make_store = make_store
        self._clear_away = clear_away
        """Gives back what a file that has gone held."""
        # -- mutable --
        self.inodes: dict[int, Inode] = {}
        self.room = Room(self.inodes)
        self._numbers = count(ROOT)
        # Numbers are never used twice, so a mapping in /proc/PID/maps means one file for good.
        root = Inode(next(self._numbers), stat.S_IFDIR | 0o755, os.getuid(), os.getgid())
        root.directory = Directory(root, None)
        root.nlink = 2
        self._take_in(root)

    def get(self, number: int) -> Inode:
        """The inode ``number``. Raises SyscallError(ESTALE)."""
        try:
            return self.inodes[number]
        except KeyError:
            raise SyscallError(errno.ESTALE) from None

    def directory(self, number: int) -> tuple[Inode, Directory]:
        """A directory and its entries. Raises SyscallError(ENOTDIR)."""
        inode = self.get(number)
        if inode.directory is None:
            raise SyscallError(errno.ENOTDIR)
        return inode, inode.directory

    def lookup(self, parent: int, name: bytes) -> Inode | None:
        """What ``name`` means in a directory. Raises SyscallError: ENAMETOOLONG, ESTALE.

        "." is the inode itself, a file too: so the kernel asks when somebody opens a handle of what
        it has forgotten. If that is deleted it has gone, though the kernel may tell us so later.
        """
        if name == b".":
            inode = self.get(parent)
            if not inode.nlink:
                raise SyscallError(errno.ESTALE)
            return inode
        inode, entries = self.directory(parent)
        if len(name) > NAME_MAX:
            raise SyscallError(errno.ENAMETOOLONG)
        if name == b"..":
            return entries.parent or inode
        return entries.get(name)

    def create(
        self, parent: int, name: bytes, mode: int, uid: int, gid: int, *,
        umask: int = 0, rdev: int = 0, target: bytes = b"",
    ) -> Inode:  # fmt: skip
        """A new inode of the type in ``mode``, under a free name.

        ``umask`` counts where the directory has no default access control list.

        Raises SyscallError: EEXIST, ENAMETOOLONG, ENOENT (the directory was removed), ENOSPC.
        """
        above, entries = self._writable_directory(parent)
        require_free(entries, name)
        inode = self._new_in(above, mode, uid, gid, umask)
        inode.rdev = rdev
        inode.target = target
        links = above.nlink
        if stat.S_ISDIR(mode):
            inode.directory = Directory(inode, above)
            inode.nlink = 2
            links += 1
        above.touch_written()
        self._take_in(inode)
        try:
            entries.add(name, inode)
        except MemoryError:
            self._let_go(inode)
            raise
        above.nlink = links
        return inode

    def create_unnamed(self, parent: int, mode: int, uid: int, gid: int, umask: int = 0) -> Inode:
        """A new file in a directory, without a name (O_TMPFILE). Raises SyscallError(ENOSPC)."""
        above, _ = self.directory(parent)
        inode = self._new_in(above, stat.S_IFREG | mode, uid, gid, umask)
        inode.nlink = 0
        inode.linkable = True
        self._take_in(inode)
        return inode

    def link(self, number: int, parent: int, name: bytes) -> Inode:
        """Another name for an inode. Raises SyscallError: EEXIST, ENOENT, ENAMETOOLONG, ENOSPC."""
        inode = self.get(number)
        above, entries = self._writable_directory(parent)
        require_free(entries, name)
        if inode.nlink == 0 and not inode.linkable:
            raise SyscallError(errno.ENOENT)
        links, all_links = inode.nlink + 1, self.room.links + (inode.nlink > 0)
        if inode.nlink:
            self.room.require_link()
        inode.touch_changed()
        above.touch_written()
        entries.add(name, inode)
        inode.nlink, self.room.links = links, all_links
        inode.linkable = False
        return inode

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name of a file. Raises SyscallError: ENOENT, EISDIR."""
        above, entries = self.directory(parent)
        inode = entry_of(entries, name)
        if inode.directory is not None:
            raise SyscallError(errno.EISDIR)
        self._remove(above, entries, name, inode)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory. Raises SyscallError: ENOENT, ENOTDIR, ENOTEMPTY."""
        above, entries = self.directory(parent)
        inode = entry_of(entries, name)
        require_empty_directory(inode)
        self._remove(above, entries, name, inode)

    def rename(
        self,
        old_parent: int,
        old_name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int,
        caller: tuple[int, int] = (0, 0),
    ) -> None:
        """rename(2) with its flags; the kernel has refused those that contradict each other.

        A whiteout belongs to ``caller``, a user and a group, as what mknod(2) makes.

        Raises SyscallError: EEXIST, EINVAL (unknown flag), EISDIR, ENAMETOOLONG, ENOENT,
        ENOSPC, ENOTDIR, ENOTEMPTY.
        """
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT):
            raise SyscallError(errno.EINVAL)
        source, source_entries = self.directory(old_parent)
        goal, goal_entries = self._writable_directory(new_parent)
        if len(new_name) > NAME_MAX:
            raise SyscallError(errno.ENAMETOOLONG)
        moved = entry_of(source_entries, old_name)
        replaced = goal_entries.get(new_name)
        if flags & RENAME_EXCHANGE:
            entry_of(goal_entries, new_name)
        elif replaced is moved:
            return
        elif replaced is not None:
            if flags & RENAME_NOREPLACE:
                raise SyscallError(errno.EEXIST)
            require_replaceable(replaced, moved)
        left = self._new_in(source, stat.S_IFCHR, *caller, 0) if flags & RENAME_WHITEOUT else None
        source.touch_written()
        goal.touch_written()
        moved.touch_changed()
        if replaced is not None:
            replaced.touch_changed()
        if flags & RENAME_EXCHANGE:
            exchange(source_entries, old_name, goal_entries, new_name)
        else:
            self._move(source_entries, old_name, goal_entries, new_name, left)
        self._moved(moved, source, goal)
        if replaced is None:
            return
        if flags & RENAME_EXCHANGE:
            self._moved(replaced, goal, source)
        else:
            self._dropped_name(goal, replaced)

    def forget(self, number: int, lookups: int) -> None:
        """The kernel dropped ``lookups`` references to an inode."""
        inode = self.inodes.get(number)
        if inode is not None:
            inode.lookups -= lookups
            self._reap(inode)

    # ---- helpers ----

    def _take_in(self, inode: Inode) -> None:
        """``inode`` is there from now on."""
        self.inodes[inode.number] = inode
        try:
            self.room.take(inode)
        except MemoryError:
            del self.inodes[inode.number]
            raise

    def _let_go(self, inode: Inode) -> None:
        """``inode`` is there no more."""
        del self.inodes[inode.number]
        self.room.give_back(inode)
        inode.directory = None  # it refers to its inode: a garbage collector would have to come
        if inode.space is not None:
            self._clear_away(inode.space)

    def _new_in(self, above: Inode, mode: int, uid: int, gid: int, umask: int) -> Inode:
        """A new inode for a directory, for :meth:`_take_in`. Raises SyscallError(ENOSPC)."""
        inode = born_in(above, next(self._numbers), mode, uid, gid, umask)
        self.room.require(inode)
        if stat.S_ISREG(mode):
            inode.space = AddressSpace(inode.number, self._memory, self._make_store())
        return inode

    def _writable_directory(self, number: int) -> tuple[Inode, Directory]:
        inode, entries = self.directory(number)
        if inode.nlink == 0:
            raise SyscallError(errno.ENOENT)
        return inode, entries

    @staticmethod
    def _moved(inode: Inode, source: Inode, goal: Inode) -> None:
        """``inode`` has left directory ``source`` for ``goal``."""
        if inode.directory is not None and source is not goal:
            inode.directory.parent = goal
            source.nlink -= 1
            goal.nlink += 1

    def _move(
        self, source: Directory, name: bytes, goal: Directory, new_name: bytes, left: Inode | None
    ) -> None:
        if left is None:
            move(source, name, goal, new_name)
            return
        self._take_in(left)
        try:
            move(source, name, goal, new_name, left)
        except MemoryError:
            self._let_go(left)
            raise

    def _remove(self, above: Inode, entries: Directory, name: bytes, inode: Inode) -> None:
        above.touch_written()
        inode.touch_changed()
        entries.remove(name)
        self._dropped_name(above, inode)

    def _dropped_name(self, above: Inode, inode: Inode) -> None:
        """It has lost one in the directory ``above``."""
        if inode.directory is not None:
            above.nlink -= 1
            inode.nlink = 0
            inode.directory.parent = None
        else:
            self.room.links -= inode.nlink > 1
            inode.nlink -= 1
        self._reap(inode)

    def _reap(self, inode: Inode) -> None:
        """Free an inode that neither a name nor the kernel refers to."""
        if inode.nlink == 0 and inode.lookups <= 0:
            self._let_go(inode)
