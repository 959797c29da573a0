"""Which way the data of a file go: decided when it is opened and nobody has it open."""

from __future__ import annotations

from typing import NamedTuple

from vfs_volatile.core.address_space import AddressSpace


class Path(NamedTuple):
    """A way to the data, and why this one."""

    direct: bool
    """Do processes reach the file without us (FUSE passthrough), or through the kernel's cache and
    our READ and WRITE?"""
    why: str

    @property
    def name(self) -> str:
        return "passthrough" if self.direct else "cached"


_DIRECT = Path(direct=True, why="purged pages read as zeros")
_MARK_SAYS_ERROR = Path(direct=False, why="touching a purged page is an error, as a mark says")
_MOUNT_SAYS_ERROR = Path(direct=False, why="touching a purged page is an error, as the mount says")
_WAS_OPEN = Path(direct=False, why="it was open when it was marked zero")
_HELD_DATA = Path(direct=False, why="it held data before it was marked zero; copy it to a new one")


def choose_path(space: AddressSpace, *, why_not: str, opens: int) -> Path:
    """The fastest path that honours what touching a purged page of the file shall do.

    The kernel reads a hole of a file on the direct path as zeros without asking, so it is for files
    whose purged pages all read as zeros. ``why_not``: why no file of this mount can take it, or
    nothing. A file that has taken it stays on it: marks that ask for errors are refused then.
    """
    if space.direct is not None:
        return _DIRECT
    if not space.volatility.ranges:
        if not space.memory.zero_by_default:
            return _MOUNT_SAYS_ERROR
    elif not space.volatility.reads_zero_throughout():
        return _MARK_SAYS_ERROR
    if why_not:
        return Path(direct=False, why=why_not)
    if opens:
        return _WAS_OPEN
    if space.resident or space.volatility.drains:
        return _HELD_DATA
    return _DIRECT
