"""Access control lists as the bytes of an extended attribute (linux/posix_acl_xattr.h)."""

from __future__ import annotations

import struct

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
TAGS = {"u": (1, 2), "g": (4, 8), "m": (16, 16), "o": (32, 32)}
"""Of an object, and of somebody named."""
NO_ID = 0xFFFFFFFF


def acl(text: str) -> bytes:
    """A list like ``u:rwx,u5:r,g:rx,m:r,o:``; its entries stay in the order given."""
    return struct.pack("<I", 2) + b"".join(map(_entry, text.split(",")))


def _entry(text: str) -> bytes:
    who, _, letters = text.partition(":")
    kind, number = who[0], who[1:]
    perm = sum({"r": 4, "w": 2, "x": 1}[letter] for letter in letters)
    return struct.pack("<HHI", TAGS[kind][bool(number)], perm, int(number or NO_ID))
