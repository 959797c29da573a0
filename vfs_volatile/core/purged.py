"""The purged pages of one file: they come and go all at once, and are counted with it."""

from __future__ import annotations

from collections.abc import Sequence

from pyroaring import BitMap

from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan, count, page_set
from vfs_volatile.core.range_state import RangeState


class PurgedPages(RangeState):
    """The purged pages in the ranges of one file, as they change.

    Memory may run out at each step: what a change needs it has before the first, so that the pages
    and the counts change together or not at all.
    """

    __slots__ = ()

    def set_purged(self, pages: BitMap) -> BitMap:
        """``pages``, all volatile, lose their data; those of them that were not purged yet."""
        memory = self._memory
        new = pages - self.purged
        purged, ever = memory.purged + len(new), memory.purged_ever + len(new)
        self.purged |= new
        memory.purged, memory.purged_ever = purged, ever
        return new

    def unset_purged(self, pages: BitMap) -> None:
        """``pages``, just purged, have their data after all."""
        memory = self._memory
        purged, ever = memory.purged - len(pages), memory.purged_ever - len(pages)
        self.purged -= pages
        memory.purged, memory.purged_ever = purged, ever

    def forget_purged(self, *spans: PageSpan) -> None:
        """Nobody needs to be told any more that pages of ``spans`` were purged.

        All or nothing: it needs no memory once the first is forgotten.
        """
        if not self.purged:
            return
        if len(spans) == 1:
            (span,) = spans
            if forgotten := count(self.purged, span):
                left = self._memory.purged - forgotten
                self.purged.remove_range(*span)
                self._memory.purged = left
            return
        pages = BitMap().union(*map(page_set, spans))
        forget_together(self._memory, [(self, self.purged & pages)])


def forget_together(memory: Memory, parts: Sequence[tuple[PurgedPages, BitMap]]) -> None:
    """Nobody needs to be told any more of these purged pages of several files. All or nothing."""
    left = memory.purged - sum(len(pages) for _, pages in parts)
    sets = [(each.purged, pages) for each, pages in parts]
    for purged, pages in sets:
        purged -= pages  # in its place: this needs no memory, nor does what follows
    memory.purged = left
