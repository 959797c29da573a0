"""Inodes and open files."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

from vfs_volatile.core import acl
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.processes.openers import Openers
from vfs_volatile.store.detached import DetachedFile

if TYPE_CHECKING:
    from vfs_volatile.fs.attachment import Attachment
    from vfs_volatile.fs.directory import Dentry, Directory

_PATH_BYTES = 1024
"""What is said of a file's path: no more, however deep it lies."""
_DAY_NS = 24 * 3600 * 10**9
_DIRECTORY_BASE_BYTES = 40
_DIRECTORY_ENTRY_BYTES = 20


class Inode:
    """A file of any type. Times are ns since the epoch, as in stat(2)."""

    __slots__ = (
        "_aliases", "_dentry", "atime_ns", "birth_ns", "ctime_ns", "directory", "file", "gid",
        "linkable", "lookups", "mode", "mtime_ns", "nlink", "number", "openers", "opens", "purges",
        "rdev", "space", "target", "uid", "writers", "xattrs",
    )  # fmt: skip

    def __init__(self, number: int, mode: int, uid: int, gid: int) -> None:
        # -- constant --
        self.number = number
        self.birth_ns = time.time_ns()
        # -- mutable --
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.nlink = 1
        self.linkable = False
        """May it be given a name though it has none (O_TMPFILE)?"""
        self.rdev = 0
        self.atime_ns = self.mtime_ns = self.ctime_ns = self.birth_ns
        self.xattrs: dict[bytes, bytes] = {}
        # INVARIANT: an inode lives while nlink or lookups is above 0.
        self.lookups = 0
        """How often the kernel was told of it and has not forgotten."""
        self.opens = 0
        # INVARIANT: None means that no process has it open or mapped. The kernel sends RELEASE only
        # when the last descriptor is closed and the last mapping made with it is gone; not so on
        # the direct path, see fs/direct.py.
        self.openers: Openers | None = None
        self.writers = 0
        """How many of ``opens`` may write."""
        # INVARIANT: together its names; _aliases is empty if _dentry is None.
        self._dentry: Dentry | None = None
        self._aliases: dict[Dentry, None] | None = None
        """Names but one, oldest first; hardly any inode has several."""
        self.purges = 0
        """How many purges have taken pages of it, in the kernel too."""
        self.space: AddressSpace | None = None
        """Set for regular files, and for them alone."""
        self.file: DetachedFile | None = None
        """Where processes reach its data without us; then times of the data are kept there."""
        self.directory: Directory | None = None
        """Set for directories, and for them alone."""
        self.target = b""
        """Where a symbolic link points."""

    @property
    def size(self) -> int:
        """st_size: bytes; for a directory what tmpfs says (linux/mm/shmem.c, BOGO_DIRENT_SIZE)."""
        if self.file is not None:
            return self.file.size()
        if self.space is not None:
            return self.space.size
        if self.directory is not None:
            return _DIRECTORY_BASE_BYTES + _DIRECTORY_ENTRY_BYTES * len(self.directory)
        return len(self.target)

    @property
    def path(self) -> bytes | None:
        """Below the root, by one of its names; None without a name. Of a very long one the end."""
        parts: list[bytes] = []
        left = _PATH_BYTES
        at = self
        while (dentry := at._dentry) is not None:
            parts.append(dentry.name)
            left -= len(dentry.name) + 1
            if left < 0:
                parts.append(b"...")
                break
            at = dentry.directory.inode
        parts.reverse()
        return b"/".join(parts) if parts else None

    @property
    def path_text(self) -> str | None:
        """The path as text."""
        path = self.path
        return None if path is None else os.fsdecode(path)

    def named(self, dentry: Dentry) -> None:
        """It has a name more. Raises MemoryError, and nothing has changed."""
        if self._dentry is None:
            self._dentry = dentry
        elif self._aliases is None:
            self._aliases = {dentry: None}
        else:
            self._aliases[dentry] = None

    def unnamed(self, dentry: Dentry) -> None:
        """It has lost this name. Raises MemoryError, and nothing has changed."""
        if dentry != self._dentry:
            assert self._aliases is not None
            del self._aliases[dentry]
        elif self._aliases:
            self._dentry = self._aliases.popitem()[0]
        else:
            self._dentry = None

    def opened(self, tid: int, *, writable: bool) -> None:
        """Thread ``tid`` opened it."""
        self.opens += 1
        self.writers += writable
        if self.openers is None:
            self.openers = Openers()
        self.openers.add(tid)

    def closed(self, *, writable: bool) -> None:
        """One open of it has ended; on the cached path with all mappings made through it."""
        self.opens -= 1
        self.writers -= writable
        if not self.opens and self.file is None:
            self.openers = None

    def at_rest(self) -> None:
        """Nobody has it open or mapped."""
        self.openers = None

    def pull_times(self) -> os.stat_result | None:
        """Take over the times that processes have changed without us.

        What its file says of all else, if processes reach that without us.
        """
        if self.file is None:
            return None
        found = self.file.stat()
        self.atime_ns = found.st_atime_ns
        if found.st_mtime_ns != self.mtime_ns:
            self.mtime_ns = found.st_mtime_ns
            # The kernel's clock for files may be a tick behind ours; a change must show.
            self.ctime_ns = max(self.ctime_ns + 1, found.st_mtime_ns)
        return found

    def push_times(self) -> None:
        """Let processes that change the times without us start from ours."""
        if self.file is not None:
            self.file.set_times(self.atime_ns, self.mtime_ns)

    def touch_read(self) -> None:
        """Data were read: relatime, as mount(8) has it by default."""
        now = time.time_ns()
        if self.atime_ns <= max(self.mtime_ns, self.ctime_ns) or now - self.atime_ns > _DAY_NS:
            self.atime_ns = now

    def touch_changed(self) -> None:
        """Attributes changed."""
        self.ctime_ns = time.time_ns()

    def touch_written(self) -> None:
        """Content changed."""
        self.pull_times()
        self.mtime_ns = self.ctime_ns = time.time_ns()
        self.push_times()


def born_in(above: Inode, number: int, mode: int, uid: int, gid: int, umask: int) -> Inode:
    """A new inode with what it takes from the directory it is made in.

    (inode_init_owner in linux/fs/inode.c, posix_acl_create in linux/fs/posix_acl.c)
    """
    if above.mode & stat.S_ISGID:
        gid = above.gid
        if stat.S_ISDIR(mode):
            mode |= stat.S_ISGID
    default = above.xattrs.get(acl.DEFAULT)
    if default is None or stat.S_ISLNK(mode):
        return Inode(number, mode & ~umask, uid, gid)
    mode, access = acl.inherited(default, mode)
    inode = Inode(number, mode, uid, gid)
    if access is not None:
        inode.xattrs[acl.ACCESS] = access
    if stat.S_ISDIR(mode):
        inode.xattrs[acl.DEFAULT] = default
    return inode


class Handle:
    """An open file."""

    __slots__ = ("_purges_known", "attachment", "inode", "touches_atime", "writable")

    def __init__(self, inode: Inode, *, writable: bool, touches_atime: bool) -> None:
        self.inode = inode
        self.writable = writable
        self.touches_atime = touches_atime
        """False with O_NOATIME, and with ``-o noatime``."""
        self.attachment: Attachment | None = None
        """Set if it stands for a process with anonymous memory."""
        self._purges_known = inode.purges

    @property
    def unaware_of_purge(self) -> bool:
        """Were pages purged since it was opened, or told last?"""
        return self.inode.purges != self._purges_known

    def told(self) -> None:
        """Whoever has it open is being told the state of its pages."""
        self._purges_known = self.inode.purges
