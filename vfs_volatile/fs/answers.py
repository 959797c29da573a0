"""What the kernel is told of inodes, and what all handlers share."""

from __future__ import annotations

import errno
from itertools import count

from vfs_volatile.native import shim  # isort: skip  # must come before pyfuse3

import pyfuse3
from pyfuse3 import EntryAttributes, InodeT, ModeT

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.semantics import Semantics
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.aids import DebugAids
from vfs_volatile.fs.attributes import ControlAttributes
from vfs_volatile.fs.control import Control
from vfs_volatile.fs.direct import DirectFiles
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.polls import Polls
from vfs_volatile.fs.purges import Purges
from vfs_volatile.fs.tree import Tree
from vfs_volatile.units import PAGE_SIZE


class Answers(pyfuse3.Operations):
    """What the handlers of every kind of request need."""

    def __init__(
        self,
        rules: Semantics,
        tree: Tree,
        memory: Memory,
        control: Control,
        xattrs: ControlAttributes,
        purges: Purges,
        polls: Polls,
        aids: DebugAids,
        direct: DirectFiles,
        sets_atime: bool,
    ) -> None:
        super().__init__()
        # -- dependencies --
        self._rules = rules
        self._tree = tree
        self._memory = memory
        self._control = control
        self._xattrs = xattrs
        self._purges = purges
        self._polls = polls
        self._aids = aids
        self._direct = direct
        # -- constant --
        self._sets_atime = sets_atime
        """Does reading set atime? False with ``-o noatime``."""
        # -- mutable --
        self._numbers = count(1)
        """Of handles, files and directories together: one is never taken for another."""

    def _known(self, inode: Inode) -> shim.Attributes:
        """Answer with an inode: the kernel holds one more reference to it."""
        told = attributes(inode)
        inode.lookups += 1
        return told

    def _found(self, inode: Inode) -> EntryAttributes:
        """The same for pyfuse3."""
        return entry(self._known(inode))


def space_of(inode: Inode, otherwise: int = errno.EINVAL) -> AddressSpace:
    """The address_space of a regular file. Raises SyscallError(otherwise) for other types."""
    if inode.space is None:
        raise SyscallError(otherwise)
    return inode.space


NOTHING = shim.Attributes(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, timeout=0)
"""What a name means that means nothing."""


def attributes(inode: Inode) -> shim.Attributes:
    """What stat(2) tells of an inode."""
    found = inode.pull_times()
    if found is not None:  # asked once: a call of the system each would be half of an answer
        size, blocks = found.st_size, found.st_blocks
    else:
        size = inode.size
        blocks = inode.space.held * (PAGE_SIZE // 512) if inode.space is not None else 0
    return shim.Attributes(
        inode.number,
        size,
        blocks,
        inode.atime_ns,
        inode.mtime_ns,
        inode.ctime_ns,
        inode.mode,
        inode.nlink,
        inode.uid,
        inode.gid,
        inode.rdev,
        _trusted_seconds(inode, size),
    )


def entry(told: shim.Attributes) -> EntryAttributes:
    """The same for pyfuse3."""
    made = EntryAttributes()
    made.st_ino = InodeT(told.ino)
    made.entry_timeout = shim.NAME_SECONDS
    made.attr_timeout = told.timeout
    made.st_mode = ModeT(told.mode)
    made.st_nlink = told.nlink
    made.st_uid = told.uid
    made.st_gid = told.gid
    made.st_rdev = told.rdev
    made.st_size = told.size
    made.st_blksize = PAGE_SIZE
    made.st_blocks = told.blocks
    made.st_atime_ns = told.atime_ns
    made.st_mtime_ns = told.mtime_ns
    made.st_ctime_ns = told.ctime_ns
    return made


def _trusted_seconds(inode: Inode, size: int) -> int:
    """How long the kernel may trust attributes: of a file that changes without us, not at all.

    Not so an empty one: it can only be stored to by calls that the kernel sees, and asks anew after
    (fuse_passthrough_end_write in linux/fs/fuse/passthrough.c), not through a mapping.
    """
    changes_unseen = inode.file is not None and inode.openers is not None and size
    return 0 if changes_unseen else shim.NAME_SECONDS
