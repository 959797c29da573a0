"""What happened on a mount lately, for whoever watches: a bounded record in memory.

Nothing here decides anything, and nobody waits here: a reader asks for what came after the last
event it has seen (``user.vfs_volatile.events.N``), and is told how many it has missed.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import add
from typing import Literal, NamedTuple

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.byte_spans import ByteSpan
from vfs_volatile.fs.inode import Inode

_KEPT = 8192
"""Events; each takes half a KiB or less."""
ANSWER_BYTES = 16 << 10
"""What one answer holds at most: a millisecond's work. The kernel takes 64 KiB (XATTR_SIZE_MAX)."""

Kind = Literal["mark", "unmark", "purge", "block", "budget"]


class Event(NamedTuple):
    """One line of the record. Start and length are bytes; of a mount's own event all are 0."""

    time: float
    kind: Kind
    ino: int
    path: bytes | None
    """At that time, below the root; None for a file without a name."""
    start: int
    length: int
    details: Mapping[str, object]
    """What this kind has more; ``docs/watching.md`` lists it."""


class Journal:
    """The last events of a mount, numbered from 0."""

    def __init__(self, inodes: Mapping[int, Inode]) -> None:
        self._inodes = inodes
        self._mount = time.time_ns()
        """Tells this mount from another one at the same place."""
        self._ring: list[Event | None] = [None] * _KEPT
        # INVARIANT: event n stands in _ring[n % _KEPT] if _next - _KEPT <= n < _next.
        self._next = 0
        self.counts: Counter[Kind] = Counter()
        """Events since the mount was made."""
        self.unmarked_purged = 0
        """Bytes that were found purged by those who took them back."""
        self._asked = -1
        self._answered_at = 0
        """Number of the next event when the last question was answered."""
        self._answer = b""

    def record(
        self,
        kind: Kind,
        space: AddressSpace | None = None,
        starts: Sequence[int] = (0,),
        lengths: Sequence[int] = (0,),
        purged: int | None = None,
        **details: object,
    ) -> None:
        """Something happened to bytes of a file; where there are several spans, to all at once.

        ``purged``: bytes that were found purged. Without memory for it the event is left out: what
        has happened has, and whoever asked for it has yet to be told.
        """
        try:  # noqa: SIM105  # suppress() takes as long as all of it
            self._record(kind, space, starts, lengths, purged, details)
        except MemoryError:
            pass

    def _record(
        self,
        kind: Kind,
        space: AddressSpace | None,
        starts: Sequence[int],
        lengths: Sequence[int],
        purged: int | None,
        details: dict[str, object],
    ) -> None:
        self.counts[kind] += 1
        if purged is not None:
            self.unmarked_purged += purged
            details["purged"] = purged
        ino, path = 0, None
        start, length = starts[0], lengths[0]
        if space is not None:
            ino = space.ino
            inode = self._inodes.get(ino)
            path = inode.path if inode is not None else None
            if len(starts) > 1:
                details["ranges"] = len(starts)
                start, length = _hull(starts, lengths)
            size = space.last_size  # whoever changes or purges bytes has just asked
            if not length or start + length > size:  # what lies beyond has no pages
                length = max(0, size - start)
        event = Event(time.time(), kind, ino, path, start, length, details)
        self._ring[self._next % _KEPT] = event
        self._next += 1

    def after(self, number: int) -> bytes:
        """JSON of the events from ``number`` on, as many as fit; beyond the end there are none.

        Who reads an attribute asks for its size first (getxattr(2)): that is answered once.
        """
        if number != self._asked or self._answered_at != self._next:
            self._asked, self._answered_at = number, self._next
            self._answer = self._events_from(number)
        return self._answer

    def _events_from(self, number: int) -> bytes:
        first = min(max(number, self._next - _KEPT), self._next)
        texts, end = within(map(self._text, range(first, self._next)), ANSWER_BYTES)
        head = {
            "mount": self._mount,
            "next": first + end,
            "more": first + end < self._next,
            "missed": max(0, first - number),
        }
        return f'{json.dumps(head)[:-1]}, "events": [{", ".join(texts)}]}}'.encode()

    def _text(self, number: int) -> str:
        event = self._ring[number % _KEPT]
        assert event is not None
        return json.dumps(
            {
                "number": number,
                "time": round(event.time, 6),
                "event": event.kind,
                "inode": event.ino,
                "path": None if event.path is None else os.fsdecode(event.path),
                "start": event.start,
                "length": event.length,
                **event.details,
            }
        )


def within(texts: Iterable[str], most: int) -> tuple[list[str], int]:
    """The first of ``texts``, as many as ``most`` characters hold but one at least; how many."""
    taken: list[str] = []
    for text in texts:
        most -= len(text) + 2
        if most < 0 and taken:
            break
        taken.append(text)
    return taken, len(taken)


def _hull(starts: Sequence[int], lengths: Sequence[int]) -> ByteSpan:
    """The bytes from the first span to the last; length 0 if one is open at its end."""
    start = min(starts)
    return start, max(map(add, starts, lengths)) - start if all(lengths) else 0
