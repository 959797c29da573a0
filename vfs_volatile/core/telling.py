"""Telling of purged pages, of one file or of several, at one moment or not at all.

What has been told is forgotten, and the next who asks is told that all is intact. So whatever may
fail for want of memory comes before the first page is forgotten.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from pyroaring import BitMap

from vfs_volatile.core.consent import Process
from vfs_volatile.core.mending import change
from vfs_volatile.core.pages import PageSpan, page_set, pages_of, runs
from vfs_volatile.core.purged import forget_together

if TYPE_CHECKING:
    from vfs_volatile.core.address_space import AddressSpace
    from vfs_volatile.core.byte_spans import ByteSpan
    from vfs_volatile.core.unmarking import Unmarking


class _Files:
    """Files that change together, and may be in doubt together."""

    def __init__(self, parts: Sequence[tuple[Unmarking, ByteSpan]]) -> None:
        self.memory = parts[0][0].memory
        self._parts = parts
        self._met: dict[Unmarking, list[PageSpan]] = {}
        for space, span in parts:
            self._met.setdefault(space, []).append(space.touched(*span))

    def mend(self, newest: int) -> None:
        for space in self._met:
            space.mend(newest)

    @change
    def tell(self, *, record_lost: bool) -> list[int]:
        pages = {space: pages_of(met) for space, met in self._met.items()}
        purged = {space: space.volatility.purged & met for space, met in pages.items()}
        found = self._found(purged)
        for space in pages:
            space.end_untold(list(runs(pages[space])), purged[space], record_lost=record_lost)
        told = [(space.volatility, purged[space]) for space in purged]
        keeping = iter(list(purged.items()))  # made before: now nothing may fail any more
        forget_together(self.memory, told)
        for space, zeroed in keeping:
            space.keep_pages(zeroed)
        return found

    def _found(self, purged: dict[Unmarking, BitMap]) -> list[int]:
        """Bytes of each part that are ``purged``, each page once."""
        found = [0] * len(self._parts)
        left = {space: pages.copy() for space, pages in purged.items() if pages}
        for number, (space, span) in enumerate(self._parts):
            if space in left:
                found[number] = space.bytes_in(left[space], *span)
                left[space].remove_range(*space.touched(*span))
        return found


def tell(parts: Sequence[tuple[Unmarking, ByteSpan]], *, record_lost: bool = False) -> list[int]:
    """End volatility of all that ``parts`` meet; the bytes of each that were purged, and have not
    been told of another of them.

    All at this moment, whatever their number. :meth:`Unmarking.clean_for_unmark` comes before; what
    was stored since stays, as if it had come after this.
    """
    return _Files(parts).tell(record_lost=record_lost) if parts else []


def hold(
    process: Process, parts: Sequence[tuple[AddressSpace, ByteSpan]], *, kin: Hashable = None
) -> list[int]:
    """:meth:`Votes.hold` for ``parts``; the bytes of each that were purged, each page once.

    If it fails, what it found in the first files is still to be told to ``process``.
    """
    found: list[int] = []
    told: list[tuple[BitMap, BitMap]] = []
    held: dict[AddressSpace, BitMap] = {}
    for space, span in parts:
        before = held.setdefault(space, BitMap())
        found.append(space.votes.hold_untold(process, *span, kin=kin, told=before))
        pages = page_set(space.touched(*span))
        before |= pages
        told.append((space.ballots[process].lost, pages))
    for lost, pages in told:
        lost -= pages
    return found
