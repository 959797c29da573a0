"""What a mount was asked to be: the daemon's whole configuration, validated by the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Access = Literal["sigbus", "zero"]
"""What touching a purged page does where its mark says neither ZERO nor SIGBUS."""

Private = Literal["block", "keep"]
"""A page with a private mapper: not purged, or purged while its COWed copies are kept."""


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
    private: Private = "block"
    allow_other: bool = False
    """May other users than the mounting one come in?"""
    mount_options: tuple[str, ...] = ()
    """Options of mount(8) for libfuse, such as ``ro`` or ``nosuid``."""
