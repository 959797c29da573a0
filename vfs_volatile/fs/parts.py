"""Bytes of files that one call is about: few, or thousands, that may be the same and lie anywhere.

What they cost is counted as they are taken: whoever names a file 16,000 times waits for it, and
nobody else does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator

from pyroaring import BitMap

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.byte_spans import ByteSpan, Met, in_bytes
from vfs_volatile.core.growth import require_to_mark, require_to_unmark
from vfs_volatile.core.pages import PageSpan, pages_of
from vfs_volatile.core.ranges import AT_ONCE

Part = tuple[AddressSpace, ByteSpan]
"""Bytes of a file."""
Pause = Callable[[], Awaitable[None]]
"""Lets others have their turn. It raises if the call is to end here."""


def batches(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """``parts`` in pieces, so many at a time that they meet AT_ONCE ranges or so.

    Each batch is made as the ranges are when it is asked for.
    """
    batch: list[Part] = []
    cost = 0
    for space, span in parts:
        for piece in space.pieces(*span):
            batch.append((space, piece))
            cost += _cost((space, piece))
            if cost > AT_ONCE:
                yield batch
                batch, cost = [], 0
    if batch:
        yield batch


async def take(
    parts: list[Part], steps_of: Callable[[AddressSpace, ByteSpan], Iterator[None]], pause: Pause
) -> list[int]:
    """Take the pages wholly inside ``parts``, in their order and each once, by ``steps_of``; the
    bytes of each part that are purged then.

    At one moment, unless they are very many or meet or make very many ranges. Raises
    SyscallError(ENOMEM) before that if these might be too many.
    """
    for space, _ in parts[:1]:
        marked = ((space.volatility, space.span_of(*span)) for space, span in parts)
        require_to_mark(space.memory, len(parts), marked)
    cost = 0
    for pieces in _new_in_each(parts):
        for space, span in pieces:
            cost += _cost((space, span))
            for _ in steps_of(space, span):
                cost = await _turn(cost, pause)
        cost = await _turn(cost + 1, pause)
    return await purged_in_each(parts, pause)


def require_to_end(parts: list[Part]) -> None:
    """Raise SyscallError(ENOMEM) if to end volatility of ``parts`` might make too many ranges."""
    for space, _ in parts[:1]:
        met = ((space.volatility, space.touched(*span)) for space, span in parts)
        require_to_unmark(space.memory, len(parts), met)


async def purged_in_each(parts: list[Part], pause: Pause) -> list[int]:
    """The bytes of each part that are purged."""
    found: list[int] = []
    for at in range(0, len(parts), AT_ONCE):
        if at:
            await pause()
        found += _purged_in_each(parts[at : at + AT_ONCE])
    return found


def pages_of_each(parts: Iterable[Part]) -> dict[AddressSpace, BitMap]:
    """The pages of each file that ``parts`` meet."""
    met: dict[AddressSpace, list[PageSpan]] = {}
    for space, span in parts:
        met.setdefault(space, []).append(space.touched(*span))
    return {space: pages_of(spans) for space, spans in met.items()}


# ---- helpers ----


def _cost(part: Part) -> int:
    """As many ranges as it meets, and one for itself."""
    space, span = part
    return 1 + space.volatility.ranges.number_in(space.touched(*span))


async def _turn(cost: int, pause: Pause) -> int:
    """Pause if what was done since the last time cost enough; what it cost beyond that."""
    if cost <= AT_ONCE:
        return cost
    await pause()
    return cost - AT_ONCE


def _new_in_each(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Of each part the pages wholly inside that none before has."""
    met: dict[AddressSpace, Met] = {}
    for space, span in parts:
        new = met.setdefault(space, Met()).add(space.span_of(*span))
        yield [(space, in_bytes(piece)) for piece in new]


def _purged_in_each(parts: list[Part]) -> list[int]:
    spans: dict[AddressSpace, list[ByteSpan]] = {}
    for space, span in parts:
        spans.setdefault(space, []).append(span)
    found = {space: iter(space.purged_in_each(of_it)) for space, of_it in spans.items()}
    return [next(found[space]) for space, _ in parts]
