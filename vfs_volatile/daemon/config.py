"""What a mount was asked to be: the daemon's whole configuration, validated by the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from vfs_volatile.core.semantics import PRESETS, Semantics

Access = Literal["sigbus", "zero"]
"""What touching a purged page does where its mark says neither ZERO nor SIGBUS."""


LogFormat = Literal["text", "json"]


class Address(NamedTuple):
    """Where to listen on TCP. Port 0: any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        """As parse_address() takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """The address meant by ``HOST:PORT``, ``[IPV6]:PORT`` or ``:PORT``, on loopback if so.

    Raises ValueError for anything else.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError(
            f"'{text}' is no address; write HOST:PORT, or :PORT for this machine alone"
        )
    return Address(host or "127.0.0.1", int(port))


SUBTYPE = "vfs-volatile"
"""The kernel's name for our type is ``fuse.`` and this."""

Passthrough = Literal["auto", "off"]
"""May files take the direct path, if the kernel has it and we are privileged?"""


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
    metrics: Address | None = None
    """Where Prometheus may ask for metrics."""
    log_format: LogFormat = "text"
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None
    """Of the root directory, as in tmpfs(5); None: ours, and 0755."""
    passthrough: Passthrough = "auto"
    acls: bool = True
    """May files have access control lists?"""
    fsname: str = SUBTYPE
    """What df(1) and findmnt(8) show as the source."""

    @property
    def sets_atime(self) -> bool:
        """Does reading set atime? The kernel leaves that to the daemon, whatever the mount says."""
        return "noatime" not in self.mount_options
