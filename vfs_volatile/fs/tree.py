"""The namespace: which names mean which inodes. Pure and synchronous, as tmpfs has it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from itertools import count

from vfs_volatile.core import acl
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageStore
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.inode import Directory, Inode
from vfs_volatile.units import PAGE_SIZE, total_memory

ROOT = 1
_INODE_BYTES = 1024
"""What tmpfs reckons for an inode (BOGO_INODE_SIZE); its extended attributes take from the same."""
_ATTRIBUTE_BYTES = 64
"""What an attribute takes beside its name and value, about."""
NAME_MAX = 255
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
        # -- constant --
        self.max_inodes = total_memory() // PAGE_SIZE // 2
        """As tmpfs has it (nr_inodes in tmpfs(5))."""
        # -- mutable --
        self._attribute_bytes = 0
        """What extended attributes hold, names and values."""
        self.inodes: dict[int, Inode] = {}
        self._numbers = count(ROOT)
        # Numbers are never used twice, so a mapping in /proc/PID/maps means one file for good.
        root = self._new(stat.S_IFDIR | 0o755, os.getuid(), os.getgid())
        root.directory = Directory(root, None)
        root.nlink = 2

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
        self._require_free(entries, name)
        inode = self._new_in(above, mode, uid, gid, umask)
        inode.rdev = rdev
        inode.target = target
        if stat.S_ISDIR(mode):
            inode.directory = Directory(inode, above)
            inode.nlink = 2
            above.nlink += 1
        entries.add(name, inode)
        above.touch_written()
        return inode

    def create_unnamed(self, parent: int, mode: int, uid: int, gid: int, umask: int = 0) -> Inode:
        """A new file in a directory, without a name (O_TMPFILE). Raises SyscallError(ENOSPC)."""
        above, _ = self.directory(parent)
        inode = self._new_in(above, stat.S_IFREG | mode, uid, gid, umask)
        inode.nlink = 0
        inode.linkable = True
        return inode

    def link(self, number: int, parent: int, name: bytes) -> Inode:
        """Another name for an inode. Raises SyscallError: EEXIST, ENOENT, ENAMETOOLONG."""
        inode = self.get(number)
        above, entries = self._writable_directory(parent)
        self._require_free(entries, name)
        if inode.nlink == 0 and not inode.linkable:
            raise SyscallError(errno.ENOENT)
        inode.linkable = False
        entries.add(name, inode)
        inode.nlink += 1
        inode.touch_changed()
        above.touch_written()
        return inode

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name of a file. Raises SyscallError: ENOENT, EISDIR."""
        above, entries = self.directory(parent)
        inode = self._entry(entries, name)
        if inode.directory is not None:
            raise SyscallError(errno.EISDIR)
        entries.remove(name)
        above.touch_written()
        self._dropped_name(inode)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory. Raises SyscallError: ENOENT, ENOTDIR, ENOTEMPTY."""
        above, entries = self.directory(parent)
        inode = self._entry(entries, name)
        self._require_empty_directory(inode)
        entries.remove(name)
        above.touch_written()
        above.nlink -= 1
        self._dropped_name(inode)

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
        moved = self._entry(source_entries, old_name)
        replaced = goal_entries.get(new_name)
        if flags & RENAME_WHITEOUT:
            self._require_inode()
        if flags & RENAME_EXCHANGE:
            other = self._entry(goal_entries, new_name)
            source_entries.replace(old_name, other)
            goal_entries.replace(new_name, moved)
            self._moved(other, goal, source)
        elif replaced is None:
            goal_entries.add(new_name, moved)
            source_entries.remove(old_name)
        elif replaced is moved:
            return
        else:
            self._require_replaceable(replaced, moved, flags)
            goal_entries.replace(new_name, moved)
            source_entries.remove(old_name)
            if replaced.directory is not None:
                goal.nlink -= 1
            self._dropped_name(replaced)
        if flags & RENAME_WHITEOUT:
            source_entries.add(old_name, self._new_in(source, stat.S_IFCHR, *caller, umask=0))
        self._moved(moved, source, goal)
        source.touch_written()
        goal.touch_written()

    @property
    def free_inodes(self) -> int:
        """How many more there may be; extended attributes take from the same room, as on tmpfs."""
        taken = -(-self._attribute_bytes // _INODE_BYTES)
        return max(0, self.max_inodes - len(self.inodes) - taken)

    def set_attribute(self, inode: Inode, name: bytes, value: bytes) -> None:
        """Set an extended attribute of an inode. Raises SyscallError(ENOSPC)."""
        old = inode.xattrs.get(name)
        added = len(value) - len(old) if old is not None else _attribute_bytes(name, value)
        if added > self.free_inodes * _INODE_BYTES:
            raise SyscallError(errno.ENOSPC)
        self._attribute_bytes += added
        inode.xattrs[name] = value
        inode.touch_changed()

    def remove_attribute(self, inode: Inode, name: bytes) -> None:
        """Raises SyscallError(ENODATA)."""
        value = inode.xattrs.pop(name, None)
        if value is None:
            raise SyscallError(errno.ENODATA)
        self._attribute_bytes -= _attribute_bytes(name, value)
        inode.touch_changed()

    def forget(self, number: int, lookups: int) -> None:
        """The kernel dropped ``lookups`` references to an inode."""
        inode = self.inodes.get(number)
        if inode is not None:
            inode.lookups -= lookups
            self._reap(inode)

    # ---- helpers ----

    def _require_inode(self, attribute_bytes: int = 0) -> None:
        if self.free_inodes * _INODE_BYTES < _INODE_BYTES + attribute_bytes:
            raise SyscallError(errno.ENOSPC)

    def _new(self, mode: int, uid: int, gid: int) -> Inode:
        self._require_inode()
        inode = Inode(next(self._numbers), mode, uid, gid)
        self.inodes[inode.number] = inode
        return inode

    def _new_in(self, above: Inode, mode: int, uid: int, gid: int, umask: int) -> Inode:
        """A new inode with what it takes from the directory it is made in."""
        if above.mode & stat.S_ISGID:
            gid = above.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        default = above.xattrs.get(acl.DEFAULT)
        if default is None or stat.S_ISLNK(mode):
            inode = self._new(mode & ~umask, uid, gid)
        else:
            inode = self._new_heir(default, mode, uid, gid)
        if stat.S_ISREG(mode):
            inode.space = AddressSpace(inode.number, self._memory, self._make_store())
        return inode

    def _new_heir(self, default: bytes, mode: int, uid: int, gid: int) -> Inode:
        """A new inode in a directory with a default access control list.

        (posix_acl_create in linux/fs/posix_acl.c)
        """
        mode, access = acl.inherited(default, mode)
        lists = {acl.ACCESS: access} if access is not None else {}
        if stat.S_ISDIR(mode):
            lists[acl.DEFAULT] = default
        taken = sum(_attribute_bytes(name, value) for name, value in lists.items())
        self._require_inode(taken)
        inode = self._new(mode, uid, gid)
        self._attribute_bytes += taken
        inode.xattrs = lists
        return inode

    def _writable_directory(self, number: int) -> tuple[Inode, Directory]:
        inode, entries = self.directory(number)
        if inode.nlink == 0:
            raise SyscallError(errno.ENOENT)
        return inode, entries

    @staticmethod
    def _entry(entries: Directory, name: bytes) -> Inode:
        inode = entries.get(name)
        if inode is None:
            raise SyscallError(errno.ENOENT)
        return inode

    @staticmethod
    def _require_free(entries: Directory, name: bytes) -> None:
        if len(name) > NAME_MAX:
            raise SyscallError(errno.ENAMETOOLONG)
        if entries.get(name) is not None:
            raise SyscallError(errno.EEXIST)

    @staticmethod
    def _require_empty_directory(inode: Inode) -> None:
        if inode.directory is None:
            raise SyscallError(errno.ENOTDIR)
        if inode.directory:
            raise SyscallError(errno.ENOTEMPTY)

    def _require_replaceable(self, replaced: Inode, moved: Inode, flags: int) -> None:
        if flags & RENAME_NOREPLACE:
            raise SyscallError(errno.EEXIST)
        if moved.directory is not None:
            self._require_empty_directory(replaced)
        elif replaced.directory is not None:
            raise SyscallError(errno.EISDIR)

    @staticmethod
    def _moved(inode: Inode, source: Inode, goal: Inode) -> None:
        """``inode`` has left directory ``source`` for ``goal``."""
        inode.touch_changed()
        if inode.directory is not None and source is not goal:
            inode.directory.parent = goal
            source.nlink -= 1
            goal.nlink += 1

    def _dropped_name(self, inode: Inode) -> None:
        inode.touch_changed()
        if inode.directory is not None:
            inode.nlink = 0
            inode.directory.parent = None
        else:
            inode.nlink -= 1
        self._reap(inode)

    def _reap(self, inode: Inode) -> None:
        """Free an inode that neither a name nor the kernel refers to."""
        if inode.nlink == 0 and inode.lookups <= 0:
            del self.inodes[inode.number]
            for name in list(inode.xattrs):
                self.remove_attribute(inode, name)
            inode.directory = None  # it refers to its inode: a garbage collector would have to come
            if inode.space is not None:
                self._clear_away(inode.space)


def _attribute_bytes(name: bytes, value: bytes) -> int:
    """What an extended attribute takes."""
    return _ATTRIBUTE_BYTES + len(name) + len(value)
