"""NONVOLATILE for the pages of a file: what ends, and what is told of it.

Rule numbers refer to the list "Semantics of ranges" in ``docs/semantics.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat

from pyroaring import BitMap

from vfs_volatile.core.byte_spans import ByteSpan, pages_touched
from vfs_volatile.core.growth import require_to_unmark
from vfs_volatile.core.mending import change
from vfs_volatile.core.page_state import PageState
from vfs_volatile.core.pages import PageSpan, any_in, merged, runs, within
from vfs_volatile.core.telling import tell

_FEW_PAGES = 256
"""So many may be looked at one by one; what lies between them may be far more."""
_LOOK = 12
"""To find a page that holds memory takes so many times as long as to ask whether one does."""


class Unmarking(PageState):
    """The pages of one file, as volatility ends."""

    __slots__ = ()

    @change
    def unmark(self, start: int, length: int, *, record_lost: bool = False) -> int:
        """End volatility of every page met; the bytes of exactly this range that were purged.

        Purged pages become zero-filled and clean (rule 3). Nothing there may be draining, and the
        kernel's copy of pages in :meth:`zeroed_by_unmark` must be gone: see ``fs/purges.py``.
        Raises OSError, and nothing has changed then.
        """
        return self._unmark(start, length, record_lost=record_lost)

    def _unmark(self, start: int, length: int, *, record_lost: bool) -> int:
        span = self.touched(start, length)
        assert not self.draining(span), "unmark while a purge drains"
        if self.volatility.purged:
            self.clean_for_unmark([(start, length)])
            return tell([(self, (start, length))], record_lost=record_lost)[0]
        if self._votes:
            self._votes.ended(span)
        self.volatility.unmark(span)
        return 0

    @change
    def clean_for_unmark(self, spans: Iterable[ByteSpan]) -> None:
        """Do what the system may refuse of unmarking ``spans``: drop what has been stored in purged
        pages since. They stay purged. Raises OSError.
        """
        if self.volatility.purged:
            for span in merged(self.touched(*span) for span in spans):
                self.clean(within(self.volatility.purged, span))

    @change
    def clean(self, purged: BitMap) -> None:
        """Drop what has been stored in purged pages since, without a report. Raises OSError."""
        for span in self._unseen(purged):
            self.look(span)
        for run in list(runs(purged & self.resident)):
            self._drop(run)

    def _unseen(self, purged: BitMap) -> Iterable[PageSpan]:
        """Where processes may have stored in purged pages."""
        if self.direct is None or not purged:
            return []
        hull = PageSpan(purged.min(), purged.max() + 1)
        if len(purged) > _FEW_PAGES + _LOOK * self.direct.held_in(hull):
            return [hull]
        direct = self.direct
        return (run for run in runs(purged) if any_in(self.resident, run) or direct.held_in(run))

    @change
    def end_intact(self, start: int, length: int) -> None:
        """End volatility of ranges without a purged page, as far as they are met: of these there is
        nothing to tell.
        """
        span = self.touched(start, length)
        pieces = (span.clip(entry) for entry in self.volatility.ranges.overlapping(span))
        self._end([piece for piece in pieces if not any_in(self.volatility.purged, piece)])

    @change
    def end_untold(self, spans: Sequence[PageSpan], purged: BitMap, *, record_lost: bool) -> None:
        """End volatility of ``spans``, whose purged pages are to be told of, and still known.

        See :mod:`~vfs_volatile.core.telling`, which comes next.
        """
        if purged and record_lost:
            self.volatility.lost |= purged
        if purged and self._votes:
            self._votes.told(purged)
        self._end(spans)

    def _end(self, spans: Sequence[PageSpan]) -> None:
        """What is purged there stays known, so votes end last: nobody is told of what they alone
        made volatile when they have ended.
        """
        self.volatility.cut(*spans)
        if self._votes:
            for span in spans:
                self._votes.ended(span)

    @change
    def forget(self, purged: BitMap) -> None:
        """Let purged pages be zero-filled and intact: somebody is being told."""
        self.volatility.forget_purged(*runs(purged))
        self.keep_pages(purged)

    def unmark_many(self, starts: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """:meth:`unmark` for many, in their order, faster; all or nothing."""
        memory = self.memory
        spans = map(self.touched, starts, lengths)
        require_to_unmark(memory, len(starts), zip(repeat(self.volatility), spans))
        if memory.in_doubt is not None:
            memory.mend()
        newest = memory.newest_age
        try:
            return self._unmark_many(starts, lengths)
        except MemoryError:
            memory.in_doubt, memory.newest_before = self, newest
            raise

    def _unmark_many(self, starts: Sequence[int], lengths: Sequence[int]) -> list[int]:
        if len(starts) == 1:
            told = [0]  # made before: what has been told must reach whoever asked
            told[0] = self._unmark(starts[0], lengths[0], record_lost=False)
            return told
        pages = self._pages_of_many(starts, lengths, pages_touched)
        if (
            not pages[0]
            or any(self._purged_in(starts, lengths))
            or not self.volatility.unmark_whole(*pages)
        ):
            spans = list(zip(starts, lengths, strict=True))
            self.clean_for_unmark(spans)
            return tell([(self, span) for span in spans])
        if self._votes:
            for span in map(PageSpan, *pages):
                self._votes.ended(span)
        return [0] * len(starts)
