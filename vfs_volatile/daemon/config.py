"""What a mount was asked to be: the daemon's whole configuration, validated by the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vfs_volatile.core.semantics import PRESETS, Semantics

Access = Literal["sigbus", "zero"]
"""What touching a purged page does where its mark says neither ZERO nor SIGBUS."""


@dataclass(frozen=True, slots=True)
class MountConfig:
    """One mount. Sizes are bytes."""

    mountpoint: str
    """Absolute, without symbolic links."""
    budget: int
    """Resident bytes above which the purger starts."""
    size: int
    """Resident bytes above which writers get ENOSPC."""
    access: Access = "sigbus"
    semantics: Semantics = PRESETS["unified"]
    allow_other: bool = False
    """May other users than the mounting one come in?"""
    mount_options: tuple[str, ...] = ()
    """Options of mount(8) for libfuse, such as ``ro`` or ``nosuid``."""
    pressure: bool = False
    """Purge below the budget too, when the kernel tells of a shortage of memory?"""
