"""kcmp(2): do two processes use the same memory (one mm)?"""

from __future__ import annotations

import os

from vfs_volatile.native.library import lib


def compare_memory(one: int, other: int) -> int:
    """0 if threads ``one`` and ``other`` use the same memory, 1 or 2 if theirs comes before or
    after in an order that the kernel keeps, 3 if it is another and has no order.

    Raises OSError: ESRCH (one has ended), EPERM (one may not be looked at), ENOSYS.
    """
    result: int = lib.kcmp_memory(one, other)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
