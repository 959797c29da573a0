"""How many inodes there may be. Further names of a file, targets of symbolic links and extended
attributes take from the same room, as on tmpfs or about so.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.inode import Inode
from vfs_volatile.units import PAGE_SIZE, total_memory

_INODE_BYTES = 1024
"""What tmpfs reckons for an inode, or another name of one (BOGO_INODE_SIZE)."""
_LONG_TARGET = 128
"""Bytes: a shorter target of a symbolic link takes nothing (SHORT_SYMLINK_LEN); of a longer one
tmpfs takes a page."""
_ATTRIBUTE_BYTES = 64
"""What an attribute takes beside its name and value, about."""


class Room:
    """What is left of it beside ``inodes``.

    If there is no memory to count (MemoryError), nothing has changed.
    """

    def __init__(self, inodes: Mapping[int, Inode]) -> None:
        self._inodes = inodes
        self.most = total_memory() // PAGE_SIZE // 2
        """Inodes. As tmpfs has it (nr_inodes in tmpfs(5))."""
        # -- mutable --
        # INVARIANT: the sum over all inodes; None: it has to be counted anew.
        self._bytes: int | None = 0
        """What extended attributes hold, names and values, and targets of symbolic links."""
        self.links = 0
        """Names beside the first of each file."""

    @property
    def free(self) -> int:
        """How many more inodes there may be."""
        taken = -(-self._taken() // _INODE_BYTES)
        return max(0, self.most - len(self._inodes) - self.links - taken)

    def _taken(self) -> int:
        if self._bytes is None:
            self._bytes = sum(map(_bytes_of, self._inodes.values()))
        return self._bytes

    def require(self, inode: Inode) -> None:
        """Raise SyscallError(ENOSPC) if there is no room for ``inode`` and what it holds."""
        if self.free * _INODE_BYTES < _INODE_BYTES + _bytes_of(inode):
            raise SyscallError(errno.ENOSPC)

    def require_link(self) -> None:
        """Raise SyscallError(ENOSPC) if there is no room for another name of a file."""
        if not self.free:
            raise SyscallError(errno.ENOSPC)

    def take(self, inode: Inode) -> None:
        """``inode``, which is one of the inodes now, may have attributes or a target."""
        if (inode.xattrs or inode.target) and self._bytes is not None:
            self._bytes += _bytes_of(inode)

    def give_back(self, inode: Inode) -> None:
        """It is no more. Raises nothing."""
        if (inode.xattrs or inode.target) and self._bytes is not None:
            try:
                self._bytes -= _bytes_of(inode)
            except MemoryError:
                self._bytes = None

    def set_attribute(self, inode: Inode, name: bytes, value: bytes) -> None:
        """Set an extended attribute of an inode. Raises SyscallError(ENOSPC)."""
        old = inode.xattrs.get(name)
        added = len(value) - len(old) if old is not None else _attribute_bytes(name, value)
        if added > self.free * _INODE_BYTES:
            raise SyscallError(errno.ENOSPC)
        held = self._taken() + added
        inode.touch_changed()
        inode.xattrs[name] = value
        self._bytes = held

    def remove_attribute(self, inode: Inode, name: bytes) -> None:
        """Raises SyscallError(ENODATA)."""
        value = inode.xattrs.get(name)
        if value is None:
            raise SyscallError(errno.ENODATA)
        held = self._taken() - _attribute_bytes(name, value)
        inode.touch_changed()
        del inode.xattrs[name]
        self._bytes = held

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        inodes = self._inodes.values()
        assert self._bytes in (None, sum(map(_bytes_of, inodes)))
        files = (inode for inode in inodes if inode.directory is None)
        assert self.links == sum(max(0, inode.nlink - 1) for inode in files)


def _bytes_of(inode: Inode) -> int:
    """What an inode holds beside what each takes."""
    attributes = sum(_attribute_bytes(name, value) for name, value in inode.xattrs.items())
    return attributes + (len(inode.target) if len(inode.target) >= _LONG_TARGET else 0)


def _attribute_bytes(name: bytes, value: bytes) -> int:
    """What an extended attribute takes."""
    return _ATTRIBUTE_BYTES + len(name) + len(value)
