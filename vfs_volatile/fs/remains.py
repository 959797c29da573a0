"""What is left of a file that neither a name nor the kernel refers to any more."""

from __future__ import annotations

import logging

import trio

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.ranges import AT_ONCE

log = logging.getLogger(__name__)


def clear_away(space: AddressSpace) -> None:
    """Give back what it holds: at once, or in the background if it has very many ranges."""
    if len(space.volatility.ranges) <= AT_ONCE:
        space.close()
    else:
        trio.lowlevel.spawn_system_task(_clear_away_in_steps, space)


async def _clear_away_in_steps(space: AddressSpace) -> None:
    try:
        for _ in space.truncating(0):
            await trio.lowlevel.checkpoint()
        space.close()
    except Exception:  # would end the daemon, and with it every file
        log.exception("a deleted file was not cleared away")
