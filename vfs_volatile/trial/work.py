"""The directory that a run works in."""

from __future__ import annotations

import tempfile
from pathlib import Path

from vfs_volatile.errors import UserError


def make_work_directory(purpose: str) -> Path:
    """A new one, with ``purpose`` in its name; no symbolic links. Raises UserError."""
    try:
        return Path(tempfile.mkdtemp(prefix=f"vfs-volatile-{purpose}-")).resolve()
    except OSError as error:
        raise UserError(
            f"no temporary directory can be made ({error.strerror}); set TMPDIR to one that can"
        ) from None
