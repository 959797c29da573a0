"""Bytes of files that one call is about: few, or thousands, that may be the same and lie anywhere.

What they cost is counted as they are taken: whoever names a file 16,000 times waits for it, and
nobody else does.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Iterable, Iterator

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.byte_spans import ByteSpan
from vfs_volatile.core.growth import require_to_mark, require_to_unmark
from vfs_volatile.core.pages import PageSpan, merged
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.units import PAGE_SIZE

Part = tuple[AddressSpace, ByteSpan]
"""Bytes of a file."""
Pause = Callable[[], Awaitable[None]]
"""Lets others have their turn. It raises if the call is to end here."""


def merged_parts(parts: Iterable[Part]) -> list[Part]:
    """The same pages, each once."""
    met: dict[AddressSpace, list[PageSpan]] = {}
    for space, span in parts:
        met.setdefault(space, []).append(space.touched(*span))
    return [(space, _bytes(span)) for space, spans in met.items() for span in merged(spans)]


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


class _Met:
    """Pages of one file that were met, as runs that do not touch each other."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []

    def add(self, span: PageSpan) -> list[PageSpan]:
        """Those of ``span`` that were not met yet."""
        if not span:
            return []
        firsts, ends = self._firsts, self._ends
        low, high = bisect_left(ends, span.first), bisect_right(firsts, span.end)
        if low == high:
            firsts.insert(low, span.first)
            ends.insert(low, span.end)
            return [span]
        gaps = zip((span.first, *ends[low:high]), (*firsts[low:high], span.end), strict=True)
        new = [gap for gap in map(PageSpan._make, gaps) if gap]
        firsts[low:high] = [min(span.first, firsts[low])]
        ends[low:high] = [max(span.end, ends[high - 1])]
        return new


def _new_in_each(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Of each part the pages wholly inside that none before has."""
    met: dict[AddressSpace, _Met] = {}
    for space, span in parts:
        new = met.setdefault(space, _Met()).add(space.span_of(*span))
        yield [(space, _bytes(piece)) for piece in new]


def _purged_in_each(parts: list[Part]) -> list[int]:
    spans: dict[AddressSpace, list[ByteSpan]] = {}
    for space, span in parts:
        spans.setdefault(space, []).append(span)
    found = {space: iter(space.purged_in_each(of_it)) for space, of_it in spans.items()}
    return [next(found[space]) for space, _ in parts]


def _bytes(span: PageSpan) -> ByteSpan:
    return span.first * PAGE_SIZE, (span.end - span.first) * PAGE_SIZE
