"""The value of ``-o``: comma separated options, as mount(8) and /etc/fstab write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from vfs_volatile.daemon.config import Access, Private
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


@dataclass
class MountOptions:
    """What ``-o`` said; None = nothing. Sizes are bytes."""

    budget: int | None = None
    size: int | None = None
    access: Access | None = None
    private: Private | None = None
    allow_other: bool = False
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
        elif name in ("access", "private") and item != name:
            setattr(options, name, _choice(item, value))
        elif item == "allow_other":
            options.allow_other = True
        elif item in PASSED_ON:
            options.passed_on.append(item)
        elif item and item not in IGNORED and not item.startswith("x-"):
            raise UsageError(
                f"-o: unknown option '{item}'; known are budget=, size=, access=, private=,"
                f" allow_other, {', '.join(sorted(PASSED_ON))}"
            )
    return options


def _size(item: str, value: str) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        raise UsageError(f"-o {item}: {error}") from None


def _choice(item: str, value: str) -> str:
    choices = get_args(Access if item.startswith("access") else Private)
    if value not in choices:
        raise UsageError(f"-o {item}: unknown value; give one of {', '.join(choices)}")
    return value
