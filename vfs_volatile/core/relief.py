"""How much is purged when memory runs short: little at first, more while the shortage goes on."""

from __future__ import annotations

import math

from vfs_volatile.units import PAGE_SIZE

_LEAST_PAGES = (16 << 20) // PAGE_SIZE
_LAST_STEP = 3
"""The steps are an eighth, a quarter, a half, everything."""
_ONE_ANSWER_SECONDS = 1.0
"""Several sources tell of the same shortage at about the same time: one answer serves them."""
_CALM_SECONDS = 10.0
"""Five windows of a trigger: as long as that without a word is the end of a shortage."""
_PLENTY = 16
"""With more than one in so many pages free, the kernel looks for none."""


class Relief:
    """Answers events of pressure, which come every two seconds at most while it goes on."""

    def __init__(self) -> None:
        self._step = 0
        self._answered = -math.inf
        """When the last answer was given, in seconds of any clock that only goes forward."""

    def wanted(self, now: float, purgeable: int) -> int:
        """Pages to purge at an event ``now``, of the ``purgeable`` ones there are."""
        passed = now - self._answered
        if passed < _ONE_ANSWER_SECONDS:
            return 0
        self._step = min(self._step + 1, _LAST_STEP) if passed < _CALM_SECONDS else 0
        self._answered = now
        return min(purgeable, max(_LEAST_PAGES, purgeable >> (_LAST_STEP - self._step)))


def is_short(free: int, total: int) -> bool:
    """Is the machine itself short of memory, with so many bytes free of ``total``?

    Stalls of the whole system are also those of a cgroup that has reached a limit of its own, where
    our memory is of no help. The kernel looks for memory machine-wide below its watermarks
    only, about a hundredth of all (linux/mm/page_alloc.c, __setup_per_zone_wmarks).
    """
    return free * _PLENTY < total
