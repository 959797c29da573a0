"""mvrange: from addresses of the caller to bytes of files, then as fvrange."""

from __future__ import annotations

import errno
from collections.abc import Mapping

import trio

from vfs_volatile.abi.ioctls import VRANGE_VOLATILE, FvrangeArgs
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.inode import Handle, Inode
from vfs_volatile.fs.purges import Part, Purges
from vfs_volatile.processes.maps import OwnMount, Piece, parse_maps, pieces_at, read_maps


class Addressed:
    """The call by address. The state it changes is that of the files (``--mvrange=shared``)."""

    def __init__(self, mount: OwnMount, inodes: Mapping[int, Inode], purges: Purges) -> None:
        self._mount = mount
        self._inodes = inodes
        self._purges = purges

    async def mvrange(self, handle: Handle, args: FvrangeArgs, tid: int) -> int:
        """Mark or unmark the files under the addresses of thread ``tid``, all or nothing.

        Returns the bytes found purged. Raises SyscallError: ENOMEM (a part is not mapped),
        EINVAL (memory that is no shared mapping of this mount), EACCES (a file that is neither
        the handle's own nor mapped writable), ESRCH and EPERM (the caller cannot be looked at).
        """
        if not args.length:
            return 0  # as madvise(2)
        # In a thread: this waits for the mmap lock of the caller's process.
        text = await trio.to_thread.run_sync(_maps_of, tid)
        pieces = pieces_at(parse_maps(text), args.start, args.length)
        parts = [self._part(handle, piece) for piece in pieces]
        if args.mode == VRANGE_VOLATILE:
            return sum(space.mark(*span, args.behavior) for space, span in parts)
        return await self._purges.unmark(parts)

    def _part(self, handle: Handle, piece: Piece) -> Part:
        """The bytes that ``piece`` maps, if the caller may mark them."""
        mapping = piece.mapping
        inode = self._inodes.get(mapping.ino)
        if mapping.device != self._mount.device or not mapping.shared:
            raise SyscallError(errno.EINVAL)
        if inode is None or inode.space is None:
            raise SyscallError(errno.EINVAL)
        if inode is not handle.inode and not mapping.writable:
            raise SyscallError(errno.EACCES)
        return inode.space, (piece.start, piece.length)


def _maps_of(tid: int) -> bytes:
    try:
        return read_maps(tid)
    except (FileNotFoundError, ProcessLookupError):
        raise SyscallError(errno.ESRCH) from None
    except PermissionError:
        raise SyscallError(errno.EPERM) from None
