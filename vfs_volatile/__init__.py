"""vfs-volatile: volatile ranges on files.

This module is the Python form of ``fvrange.h``, for programs that keep data they can rebuild in
files of a vfs-volatile mount. It needs the standard library alone::

    with open("/mnt/cache/entry", "r+b") as file:
        fvrange(file, 0, 0, VRANGE_VOLATILE)                # may be dropped from now on
        ...
        if fvrange(file, 0, 0, VRANGE_NONVOLATILE):         # bytes found purged
            rebuild(file)
"""

from vfs_volatile.abi.ioctls import (
    VRANGE_FULL,
    VRANGE_NONVOLATILE,
    VRANGE_PARTIAL,
    VRANGE_SIGBUS,
    VRANGE_VOLATILE,
    VRANGE_ZERO,
    vrange_priority,
)
from vfs_volatile.client.calls import fvrange, fvrange_many, fvrange_next, fvrange_purge
from vfs_volatile.client.mapped import mvrange

__version__ = "0.1.0"

__all__ = [
    "VRANGE_FULL",
    "VRANGE_NONVOLATILE",
    "VRANGE_PARTIAL",
    "VRANGE_SIGBUS",
    "VRANGE_VOLATILE",
    "VRANGE_ZERO",
    "__version__",
    "fvrange",
    "fvrange_many",
    "fvrange_next",
    "fvrange_purge",
    "mvrange",
    "vrange_priority",
]
