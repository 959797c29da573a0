"""What the kernel is told of inodes, and what all handlers share."""

from __future__ import annotations

import errno
from itertools import count

from vfs_volatile.native import shim  # noqa: F401  # isort: skip  # must come before pyfuse3

import pyfuse3
from pyfuse3 import EntryAttributes, InodeT, ModeT

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.semantics import Semantics
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.aids import DebugAids
from vfs_volatile.fs.control import Control
from vfs_volatile.fs.direct import DirectFiles
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.polls import Polls
from vfs_volatile.fs.purges import Purges
from vfs_volatile.fs.tree import Tree
from vfs_volatile.units import PAGE_SIZE

CACHE_SECONDS = 3600
"""How long the kernel may trust names and attributes: it alone changes them, so for long."""


class Answers(pyfuse3.Operations):
    """What the handlers of every kind of request need."""

    def __init__(
        self,
        rules: Semantics,
        tree: Tree,
        memory: Memory,
        control: Control,
        purges: Purges,
        polls: Polls,
        aids: DebugAids,
        direct: DirectFiles,
    ) -> None:
        super().__init__()
        # -- dependencies --
        self._rules = rules
        self._tree = tree
        self._memory = memory
        self._control = control
        self._purges = purges
        self._polls = polls
        self._aids = aids
        self._direct = direct
        # -- mutable --
        self._numbers = count(1)
        """Of handles, files and directories together: one is never taken for another."""

    def _found(self, inode: Inode) -> EntryAttributes:
        """Answer with an inode: the kernel holds one more reference to it."""
        inode.lookups += 1
        return attributes(inode)


def space_of(inode: Inode, otherwise: int = errno.EINVAL) -> AddressSpace:
    """The address_space of a regular file. Raises SyscallError(otherwise) for other types."""
    if inode.space is None:
        raise SyscallError(otherwise)
    return inode.space


def no_entry() -> EntryAttributes:
    """A name that means nothing; the kernel may remember that."""
    entry = EntryAttributes()
    entry.st_ino = InodeT(0)
    entry.entry_timeout = CACHE_SECONDS
    return entry


def trusted_seconds(inode: Inode) -> int:
    """How long the kernel may trust attributes: of files that change without us, not at all."""
    return 0 if inode.file is not None and inode.openers is not None else CACHE_SECONDS


def attributes(inode: Inode) -> EntryAttributes:
    inode.pull_times()
    entry = EntryAttributes()
    entry.st_ino = InodeT(inode.number)
    entry.entry_timeout = CACHE_SECONDS
    entry.attr_timeout = trusted_seconds(inode)
    entry.st_mode = ModeT(inode.mode)
    entry.st_nlink = inode.nlink
    entry.st_uid = inode.uid
    entry.st_gid = inode.gid
    entry.st_rdev = inode.rdev
    entry.st_size = inode.size
    entry.st_blksize = PAGE_SIZE
    if inode.space is not None:
        entry.st_blocks = inode.space.held * (PAGE_SIZE // 512)
    entry.st_atime_ns = inode.atime_ns
    entry.st_mtime_ns = inode.mtime_ns
    entry.st_ctime_ns = inode.ctime_ns
    return entry
