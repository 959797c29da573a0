"""The value of ``-o``: comma separated options, as mount(8) and /etc/fstab write them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import get_args

from vfs_volatile.core.semantics import Conflict, Lifetime, Mvrange, Preset, Private
from vfs_volatile.daemon.config import Access, Address, LogFormat, Passthrough, parse_address
from vfs_volatile.errors import UsageError
from vfs_volatile.units import parse_size

PASSED_ON = frozenset(
    [
        *("ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec"),
        *("sync", "async", "dirsync", "atime", "noatime"),
    ]
)
"""Options that libfuse turns into mount flags (its lib/mount.c, 3.14)."""

IGNORED = frozenset(("defaults", "relatime", "acl", "_netdev", "nofail"))
"""Options that hold anyway, or are meant for mount(8) and init, as all that begin with ``x-``."""

CHOICES: dict[str, tuple[str, ...]] = {
    "access": get_args(Access),
    "semantics": get_args(Preset),
    "mvrange": get_args(Mvrange),
    "private": get_args(Private),
    "lifetime": get_args(Lifetime),
    "conflict": get_args(Conflict),
    "log-format": get_args(LogFormat),
    "passthrough": get_args(Passthrough),
}
"""Options that take one of a few words."""

_NOBODY_AT_ALL = (1 << 32) - 1  # chown(2) takes it for "leave it"


def _choice(choices: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"unknown value; give one of {', '.join(choices)}")
        return text

    return parse


def _owner(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) >= _NOBODY_AT_ALL:
        raise ValueError("not a number; give a user or group as a number")
    return int(text)


def _mode(text: str) -> int:
    if not re.fullmatch("[0-7]{1,4}", text):
        raise ValueError("not a mode; give an octal one such as 1777")
    return int(text, 8)


def _source(text: str) -> str:
    if not text or "\\" in text:  # libfuse takes that for an escape
        raise ValueError("not a name; give one without backslashes")
    return text


PARSERS: dict[str, Callable[[str], object]] = {
    "budget": parse_size,
    "size": parse_size,
    "metrics": parse_address,
    "uid": _owner,
    "gid": _owner,
    "mode": _mode,
    "fsname": _source,
    **{name: _choice(choices) for name, choices in CHOICES.items()},
}
"""What each option with a value takes. Raise ValueError."""

FLAGS = ("allow_other", "noacl", "pressure")


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
    passthrough: Passthrough | None = None
    allow_other: bool = False
    noacl: bool = False
    pressure: bool = False
    metrics: Address | None = None
    log_format: LogFormat | None = None
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None
    fsname: str | None = None
    passed_on: list[str] = field(default_factory=list)


def parse_mount_options(texts: list[str]) -> MountOptions:
    """Everything in ``texts``, one for each ``-o``; of a repeated option the last counts.

    Raises UsageError for an option that is not known, or whose value is missing or wrong.
    """
    options = MountOptions()
    for item in ",".join(texts).split(","):
        name, _, value = item.partition("=")
        if item != name and name in PARSERS:
            setattr(options, name.replace("-", "_"), _parsed(PARSERS[name], item, value))
        elif item in FLAGS:
            setattr(options, item, True)
        elif item in PASSED_ON:
            options.passed_on.append(item)
        elif item and item not in IGNORED and not item.startswith("x-"):
            raise UsageError(
                f"-o: unknown option '{item}'; known are"
                f" {'=, '.join(PARSERS)}=, {', '.join((*FLAGS, *sorted(PASSED_ON)))}"
            )
    return options


def _parsed(parser: Callable[[str], object], item: str, value: str) -> object:
    try:
        return parser(value)
    except ValueError as error:
        raise UsageError(f"-o {item}: {error}") from None
