"""Telling of purged pages, of one file or of several, at one moment or not at all.

What has been told is forgotten, and the next who asks is told that all is intact. So whatever may
fail for want of memory comes before the first page is forgotten. That moment is one step, however
many parts there are, so whatever can be known before is found out before, in steps.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from pyroaring import BitMap

from vfs_volatile.core.byte_spans import ByteSpan, Met, bytes_of, clip, pages_touched
from vfs_volatile.core.consent import Process
from vfs_volatile.core.mending import change
from vfs_volatile.core.pages import PageSpan, count
from vfs_volatile.core.purged import forget_together
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.errors import REFUSALS
from vfs_volatile.units import PAGE_SIZE

if TYPE_CHECKING:
    from vfs_volatile.core.address_space import AddressSpace
    from vfs_volatile.core.unmarking import Unmarking


class Telling:
    """Parts of files that are taken back together, and what is told of each.

    In this order: :meth:`look`; what the system may refuse, as ``clean_for_unmark``; :meth:`count`;
    either :meth:`unmark` and :meth:`keep`, or :meth:`hold`. Nothing of ``pages`` may be draining.
    """

    def __init__(self, parts: Sequence[tuple[AddressSpace, ByteSpan]]) -> None:
        self.memory = parts[0][0].memory
        self._parts = parts
        self._pieces: list[tuple[int, AddressSpace, ByteSpan]] = []
        """(number of a part, its file, (start, end) in bytes): in pages that none before met."""
        self.spans: dict[AddressSpace, list[PageSpan]] = {}
        """What they meet, each page once and in order."""
        self.pages: dict[AddressSpace, BitMap] = {}
        """The same."""
        self._counted: dict[AddressSpace, tuple[int, BitMap]] = {}
        """Size and pages to be told of each file, for which the bytes were counted."""
        self._bytes = [0] * len(parts)
        """Of each part, to be told."""
        self._missing: list[tuple[AddressSpace, BitMap]] = []
        """Pages of which was told, and that held no memory then."""

    def mend(self, newest: int) -> None:
        for space in self.spans:
            space.mend(newest)

    def look(self) -> Iterator[None]:
        """See which pages they meet, in steps of AT_ONCE parts: at once if there are no more."""
        met: dict[AddressSpace, Met] = {}
        for number, (space, span) in enumerate(self._parts):
            if number and number % AT_ONCE == 0:
                yield
            start, end = clip(*span, space.size)
            if start < end:
                for new in met.setdefault(space, Met()).add(pages_touched(start, end)):
                    piece = max(start, new.first * PAGE_SIZE), min(end, new.end * PAGE_SIZE)
                    self._pieces.append((number, space, piece))
        for space, found in met.items():
            self.spans[space] = spans = found.spans()
            self.pages[space] = pages = BitMap()
            for number, each in enumerate(spans):
                if number and number % AT_ONCE == 0:
                    yield
                pages.add_range(*each)

    def count(self, process: Process | None = None) -> Iterator[None]:
        """Count what is to be told, of ``process`` if by :meth:`hold`, in steps as :meth:`look`.

        What changes after this takes as long again.
        """
        yield from self._count(self._purged() if process is None else self._lost(process))

    def draining(self) -> bool:
        """Is a purge under way on one of these pages?"""
        return any(
            drain.pages.intersect(pages)
            for space, pages in self.pages.items()
            for drain in space.volatility.drains
        )

    @change
    def unmark(self, *, record_lost: bool = False) -> list[int]:
        """End volatility of all that they meet; the bytes of each that were purged, and have not
        been told of another of them.

        What was stored since it was cleaned stays, as if it had come after this.
        """
        purged = self._purged()
        for _ in self._count(purged):
            pass
        for space, spans in self.spans.items():
            space.end_untold(spans, purged[space], record_lost=record_lost)
        told = [(space.volatility, pages) for space, pages in purged.items()]
        missing = [
            (space, pages - space.resident) for space, pages in purged.items() if space.keeps_pages
        ]
        forget_together(self.memory, told)
        self._missing = missing  # made before: nothing may fail any more
        return self._bytes

    def keep(self) -> Iterator[None]:
        """Hold memory for what :meth:`unmark` made zero, where whoever has it mapped needs that.

        Make this before it, and take all steps after it. Nothing is raised.
        """
        try:
            for space, zeroed in self._missing:
                yield from space.keeping(zeroed)
        except REFUSALS:  # touching them is SIGBUS, as on tmpfs
            pass

    def hold(self, process: Process, *, kin: Hashable = None) -> list[int]:
        """:meth:`Votes.hold` for all; the bytes of each that were purged, each page once.

        If it fails, what it found in the first files is still to be told to ``process``.
        """
        for _ in self.count(process):
            pass
        told: list[tuple[BitMap, BitMap]] = []
        for space, pages in self.pages.items():
            space.votes.hold_untold(process, pages, kin=kin)
            told.append((space.ballots[process].lost, pages))
        for lost, pages in told:
            lost -= pages
        return self._bytes

    # ---- helpers ----

    def _purged(self) -> dict[AddressSpace, BitMap]:
        return {space: space.volatility.purged & met for space, met in self.pages.items()}

    def _lost(self, process: Process) -> dict[AddressSpace, BitMap]:
        return {space: space.votes.to_tell(process) & met for space, met in self.pages.items()}

    def _count(self, pages: Mapping[AddressSpace, BitMap]) -> Iterator[None]:
        now = {space: (space.size, each) for space, each in pages.items()}
        if now == self._counted:
            return
        found = [0] * len(self._parts)
        for number, (part, space, piece) in enumerate(self._pieces):
            if number and number % AT_ONCE == 0:
                yield
            if to_tell := pages[space]:
                met = count(to_tell, pages_touched(*piece))
                found[part] += bytes_of(to_tell, piece, met)
        self._bytes, self._counted = found, now


def tell(parts: Sequence[tuple[Unmarking, ByteSpan]], *, record_lost: bool = False) -> list[int]:
    """:meth:`Telling.unmark` for ``parts``, at once."""
    if not parts:
        return []
    telling = Telling(cast("Sequence[tuple[AddressSpace, ByteSpan]]", parts))  # what else is there?
    for _ in telling.look():
        pass
    keeping = telling.keep()
    told = telling.unmark(record_lost=record_lost)
    for _ in keeping:
        pass
    return told


def hold(
    process: Process, parts: Sequence[tuple[AddressSpace, ByteSpan]], *, kin: Hashable = None
) -> list[int]:
    """:meth:`Telling.hold` for ``parts``, at once."""
    telling = Telling(parts)
    for _ in telling.look():
        pass
    return telling.hold(process, kin=kin)
