"""The value of ``-o``: comma separated options, as mount(8) and /etc/fstab write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from vfs_volatile.core.semantics import Conflict, Lifetime, Mvrange, Preset, Private
from vfs_volatile.daemon.config import Access, Address, parse_address
from vfs_volatile.errors import UsageError
from vfs_volatile.units import parse_size

PASSED_ON = frozenset(
    [
        *("ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec"),
        *("sync", "async", "dirsync", "atime", "noatime"),
    ]
)
"""Options that libfuse turns into mount flags (its lib/mount.c, 3.14)."""

IGNORED = frozenset(("defaults", "relatime", "_netdev", "nofail"))
"""Options that hold anyway, or are meant for mount(8) and init, as all that begin with ``x-``."""

CHOICES: dict[str, tuple[str, ...]] = {
    "access": get_args(Access),
    "semantics": get_args(Preset),
    "mvrange": get_args(Mvrange),
    "private": get_args(Private),
    "lifetime": get_args(Lifetime),
    "conflict": get_args(Conflict),
}
"""Options that take one of a few words."""


FLAGS = ("allow_other", "pressure")


@dataclass
class MountOptions:
    """What ``-o`` said; None = nothing. Sizes are bytes."""

    budget: int | None = None
    size: int | None = None
    access: Access | None = None
    semantics: Preset | None = None
    mvrange: Mvrange | None = None
    private: Private | None = None
    lifetime: Lifetime | None = None
    conflict: Conflict | None = None
    allow_other: bool = False
    pressure: bool = False
    metrics: Address | None = None
    passed_on: list[str] = field(default_factory=list)


def parse_mount_options(texts: list[str]) -> MountOptions:
    """Everything in ``texts``, one for each ``-o``; of a repeated option the last counts.

    Raises UsageError for an option that is not known, or whose value is missing or wrong.
    """
    options = MountOptions()
    for item in ",".join(texts).split(","):
        name, _, value = item.partition("=")
        if name in ("budget", "size") and item != name:
            setattr(options, name, _size(item, value))
        elif name == "metrics" and item != name:
            options.metrics = _address(item, value)
        elif name in CHOICES and item != name:
            setattr(options, name, _choice(item, CHOICES[name], value))
        elif item in FLAGS:
            setattr(options, item, True)
        elif item in PASSED_ON:
            options.passed_on.append(item)
        elif item and item not in IGNORED and not item.startswith("x-"):
            raise UsageError(
                f"-o: unknown option '{item}'; known are budget=, size=, metrics=,"
                f" {'=, '.join(CHOICES)}=, {', '.join((*FLAGS, *sorted(PASSED_ON)))}"
            )
    return options


def _size(item: str, value: str) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        raise UsageError(f"-o {item}: {error}") from None


def _address(item: str, value: str) -> Address:
    try:
        return parse_address(value)
    except ValueError as error:
        raise UsageError(f"-o {item}: {error}") from None


def _choice(item: str, choices: tuple[str, ...], value: str) -> str:
    if value not in choices:
        raise UsageError(f"-o {item}: unknown value; give one of {', '.join(choices)}")
    return value
