"""The pyfuse3 adapter: turns requests of the kernel into calls of tree, address_space and control.

Nothing is decided here. Every handler but those of xattrs and ioctls runs to its end without an
await, so it never sees a half-made change. The daemon never opens, stats or lists its own mount.
"""

from __future__ import annotations

from vfs_volatile.fs.extended import ExtendedAttributes
from vfs_volatile.fs.files import Files
from vfs_volatile.fs.guard import answers_errors
from vfs_volatile.fs.names import Names


@answers_errors
class Operations(Names, Files, ExtendedAttributes):
    """The requests that pyfuse3 hands on, and those of the shim (``shim.Handlers``)."""

    enable_writeback_cache = False
    supports_dot_lookup = True
