"""vfs-volatile: volatile ranges on files.

This module is the Python form of ``fvrange.h``, for programs that keep data they can rebuild in
files of a vfs-volatile mount. It needs the standard library alone::

    with open("/mnt/cache/entry", "r+b") as file:
        fvrange(file, 0, 0, VRANGE_VOLATILE)                # may be dropped from now on
        ...
        if fvrange(file, 0, 0, VRANGE_NONVOLATILE):         # bytes found purged
            rebuild(file)

On top of it :class:`VolatileFile` reads and pins such data without a SIGBUS, and
:class:`VolatileCache` is a mapping that many processes share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from vfs_volatile.client.anonymous import AnonymousMemory
    from vfs_volatile.client.cache.volatile_cache import CacheStats, VolatileCache
    from vfs_volatile.client.file import VolatileFile
    from vfs_volatile.client.mapped import mvrange
    from vfs_volatile.client.pinned import Pinned
    from vfs_volatile.client.sigbus import map_file
    from vfs_volatile.client.unmark import Span
    from vfs_volatile.errors import CacheFormatError, PurgedError

__version__ = "0.1.0"

__all__ = [
    "VRANGE_FULL",
    "VRANGE_NONVOLATILE",
    "VRANGE_PARTIAL",
    "VRANGE_SIGBUS",
    "VRANGE_VOLATILE",
    "VRANGE_ZERO",
    "AnonymousMemory",
    "CacheFormatError",
    "CacheStats",
    "Pinned",
    "PurgedError",
    "Span",
    "VolatileCache",
    "VolatileFile",
    "__version__",
    "fvrange",
    "fvrange_many",
    "fvrange_next",
    "fvrange_purge",
    "map_file",
    "mvrange",
    "vrange_priority",
]

_LATER = {
    "AnonymousMemory": "vfs_volatile.client.anonymous",
    "CacheFormatError": "vfs_volatile.errors",
    "CacheStats": "vfs_volatile.client.cache.volatile_cache",
    "Pinned": "vfs_volatile.client.pinned",
    "PurgedError": "vfs_volatile.errors",
    "Span": "vfs_volatile.client.unmark",
    "VolatileCache": "vfs_volatile.client.cache.volatile_cache",
    "VolatileFile": "vfs_volatile.client.file",
    "map_file": "vfs_volatile.client.sigbus",
    "mvrange": "vfs_volatile.client.mapped",
}
"""What is imported when it is first asked for: a program pays for what it uses."""


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(_LATER[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
