"""How many inodes there may be; extended attributes take from the same room, as on tmpfs."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.inode import Inode
from vfs_volatile.units import PAGE_SIZE, total_memory

_INODE_BYTES = 1024
"""What tmpfs reckons for an inode (BOGO_INODE_SIZE); its extended attributes take from the same."""
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
        self._attribute_bytes: int | None = 0
        """What extended attributes hold, names and values."""

    @property
    def free(self) -> int:
        """How many more inodes there may be."""
        taken = -(-self._taken() // _INODE_BYTES)
        return max(0, self.most - len(self._inodes) - taken)

    def _taken(self) -> int:
        if self._attribute_bytes is None:
            self._attribute_bytes = sum(map(_bytes_of, self._inodes.values()))
        return self._attribute_bytes

    def require(self, inode: Inode) -> None:
        """Raise SyscallError(ENOSPC) if there is no room for ``inode`` and its attributes."""
        if self.free * _INODE_BYTES < _INODE_BYTES + _bytes_of(inode):
            raise SyscallError(errno.ENOSPC)

    def take(self, inode: Inode) -> None:
        """``inode``, which is one of the inodes now, has attributes."""
        if inode.xattrs and self._attribute_bytes is not None:
            self._attribute_bytes += _bytes_of(inode)

    def give_back(self, inode: Inode) -> None:
        """It is no more. Raises nothing."""
        if inode.xattrs and self._attribute_bytes is not None:
            try:
                self._attribute_bytes -= _bytes_of(inode)
            except MemoryError:
                self._attribute_bytes = None

    def set_attribute(self, inode: Inode, name: bytes, value: bytes) -> None:
        """Set an extended attribute of an inode. Raises SyscallError(ENOSPC)."""
        old = inode.xattrs.get(name)
        added = len(value) - len(old) if old is not None else _attribute_bytes(name, value)
        if added > self.free * _INODE_BYTES:
            raise SyscallError(errno.ENOSPC)
        held = self._taken() + added
        inode.touch_changed()
        inode.xattrs[name] = value
        self._attribute_bytes = held

    def remove_attribute(self, inode: Inode, name: bytes) -> None:
        """Raises SyscallError(ENODATA)."""
        value = inode.xattrs.get(name)
        if value is None:
            raise SyscallError(errno.ENODATA)
        held = self._taken() - _attribute_bytes(name, value)
        inode.touch_changed()
        del inode.xattrs[name]
        self._attribute_bytes = held

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        counted = self._attribute_bytes
        assert counted in (None, sum(map(_bytes_of, self._inodes.values())))


def _bytes_of(inode: Inode) -> int:
    """What the extended attributes of an inode take."""
    return sum(_attribute_bytes(name, value) for name, value in inode.xattrs.items())


def _attribute_bytes(name: bytes, value: bytes) -> int:
    """What an extended attribute takes."""
    return _ATTRIBUTE_BYTES + len(name) + len(value)
