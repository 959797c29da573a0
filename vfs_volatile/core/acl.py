"""POSIX access control lists as acl(5) has them: what they make of a mode, and a mode of them.

Whether somebody may do something the kernel decides, with the lists it asks us for. It leaves to a
file system what is here: that lists and modes go together, and what a new file inherits. Lists are
kept as the values of the extended attributes that carry them (linux/posix_acl_xattr.h).
"""

from __future__ import annotations

import struct
from errno import EINVAL
from functools import lru_cache
from typing import NamedTuple

from vfs_volatile.errors import SyscallError

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"
"""Of a directory: what is inherited by what is made in it."""

# <linux/posix_acl.h>
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NO_ID = 0xFFFFFFFF
_ONCE = (USER_OBJ, GROUP_OBJ, OTHER)
_NAMED = (USER, GROUP)
_HEADER = struct.pack("<I", 2)
"""The version, before the entries."""
_ENTRY = struct.Struct("<HHI")
_ALL = 0o777
_KEPT = 1024
"""So many pairs of a default list and a mode are remembered: directories pass on the same."""


class Entry(NamedTuple):
    """Who may do what: ``perm`` is r, w and x as in three bits of a mode."""

    tag: int
    perm: int
    id: int = NO_ID
    """Of a named user or group."""


Acl = tuple[Entry, ...]


def parse(value: bytes) -> Acl:
    """The list in an attribute. Raises SyscallError(EINVAL) if it is none.

    The kernel has looked at it before: posix_acl_valid in linux/fs/posix_acl.c.
    """
    if not value.startswith(_HEADER) or (len(value) - len(_HEADER)) % _ENTRY.size:
        raise SyscallError(EINVAL)
    acl = tuple(map(Entry._make, _ENTRY.iter_unpack(value[len(_HEADER) :])))
    tags = [entry.tag for entry in acl]
    valid = (
        tags == sorted(tags)
        and all(tags.count(tag) == 1 for tag in _ONCE)
        and tags.count(MASK) <= 1
        and (MASK in tags or not any(tag in tags for tag in _NAMED))
        and all(entry.perm <= 7 for entry in acl)
        and all(entry.tag in (*_ONCE, *_NAMED, MASK) for entry in acl)
        and all(entry.id != NO_ID for entry in acl if entry.tag in _NAMED)
    )
    if not valid:
        raise SyscallError(EINVAL)
    return acl


def to_value(acl: Acl) -> bytes:
    """The attribute that carries a list."""
    return _HEADER + b"".join(_ENTRY.pack(*entry) for entry in acl)


def permissions(acl: Acl) -> int:
    """The nine permission bits that go with a list: those of the group class are its mask."""
    perms = {entry.tag: entry.perm for entry in acl}
    return perms[USER_OBJ] << 6 | perms.get(MASK, perms[GROUP_OBJ]) << 3 | perms[OTHER]


def with_permissions(acl: Acl, mode: int) -> Acl:
    """The list after chmod(2): its mask, if it has one, takes the bits of the group class."""
    group_class = MASK if any(entry.tag == MASK for entry in acl) else GROUP_OBJ
    perms = {USER_OBJ: mode >> 6 & 7, group_class: mode >> 3 & 7, OTHER: mode & 7}
    return tuple(entry._replace(perm=perms.get(entry.tag, entry.perm)) for entry in acl)


def given(value: bytes, mode: int) -> tuple[int, bytes | None]:
    """The mode of a file that is given this access list, and what of the list is to be kept:
    None if the mode says it all. Raises SyscallError(EINVAL).
    """
    acl = parse(value)
    return mode & ~_ALL | permissions(acl), _more_than_mode(acl)


def after_chmod(value: bytes, mode: int) -> bytes:
    """What becomes of the access list of a file whose mode is set."""
    return to_value(with_permissions(parse(value), mode))


@lru_cache(_KEPT)
def inherited(default: bytes, mode: int) -> tuple[int, bytes | None]:
    """Mode and access list of what is made with ``mode`` where there is such a default list.

    Nobody may more than by either. The umask does not count (acl(5), OBJECT CREATION).
    """
    acl = parse(default)
    granted = mode & permissions(acl)
    return mode & ~_ALL | granted, _more_than_mode(with_permissions(acl, granted))


def _more_than_mode(acl: Acl) -> bytes | None:
    return to_value(acl) if len(acl) > len(_ONCE) else None
