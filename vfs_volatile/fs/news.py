"""Tells of purges: wakes who waits for one, records it, and keeps in mind who forbade one."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from pyroaring import BitMap

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.consent import Objection
from vfs_volatile.core.history import Cause
from vfs_volatile.core.pages import PageSpan, page_set
from vfs_volatile.core.range_state import Drain
from vfs_volatile.fs.inode import Inode
from vfs_volatile.fs.journal import ANSWER_BYTES, Journal, within
from vfs_volatile.fs.polls import Polls
from vfs_volatile.processes.identity import ProcessId, command_of
from vfs_volatile.units import PAGE_SIZE

_MOST_BLOCKERS = 8
"""Of one range; the others are counted."""
_MOST_BLOCKED = 1000
"""Files of which it is kept in mind who blocks them."""
_STALE_SECONDS = 10.0
"""A block that was not met again for so long gives way to a new one."""

Blocker = dict[str, object]
"""One process that forbids a purge, for JSON."""


class _Blocked:
    """A file that somebody keeps from being purged."""

    def __init__(
        self, space: AddressSpace, span: PageSpan, blockers: list[Blocker], cause: Cause
    ) -> None:
        self.space = space
        self.span = span
        """Of the range that a purge had to leave first."""
        self.blockers = blockers
        self.cause = cause
        self.since = self.last = time.time()
        """When a purge met it first, and last."""

    def is_by(self, blockers: list[Blocker]) -> bool:
        """Are these the same processes, for the same reasons?"""
        return list(map(_identity, self.blockers)) == list(map(_identity, blockers))


class News:
    """What others are told of purges."""

    def __init__(self, inodes: Mapping[int, Inode], journal: Journal, polls: Polls) -> None:
        # -- dependencies --
        self._inodes = inodes
        self._journal = journal
        self._polls = polls
        # -- mutable --
        self._blocked: OrderedDict[int, _Blocked] = OrderedDict()
        """By inode, the one met last at the end."""

    def purged(self, drain: Drain, cause: Cause) -> None:
        """A purge has ended: touching its pages shows it."""
        inode = self._inodes.get(drain.space.ino)
        if inode is None or not drain.purged:
            return
        inode.purges += 1
        self._polls.wake(inode.number)
        first, last = drain.purged.min(), drain.purged.max()
        start, length = first * PAGE_SIZE, (last + 1 - first) * PAGE_SIZE
        size = len(drain.purged) * PAGE_SIZE
        self._journal.record("purge", drain.space, [start], [length], bytes=size, cause=cause)

    def kept(
        self, space: AddressSpace, span: PageSpan, found: Sequence[Objection], cause: Cause
    ) -> None:
        """Pages of ``span`` were not purged, for these reasons.

        A purger that is over its budget tries again and again, so only what is new is recorded.
        """
        blockers = blockers_of(found, page_set(span))
        now = time.time()
        known = self._blocked.get(space.ino)
        if known is not None and known.is_by(blockers) and now - known.last < _STALE_SECONDS:
            known.last = now
            self._blocked.move_to_end(space.ino)
            return
        if known is None and not self._has_room(now):
            return
        self._blocked[space.ino] = _Blocked(space, span, blockers, cause)
        self._blocked.move_to_end(space.ino)
        start, length = span.first * PAGE_SIZE, (span.end - span.first) * PAGE_SIZE
        self._journal.record("block", space, [start], [length], cause=cause, by=blockers)

    def freed(self, ino: int) -> None:
        """Nobody forbids to purge this file any more."""
        self._blocked.pop(ino, None)

    def ended(self, space: AddressSpace, purged: int) -> None:
        """Nobody has the file open any more, and so its marks have ended; ``purged`` bytes."""
        self._journal.record("unmark", space, purged=purged, cause="last-close")

    def blocked(self) -> bytes:
        """JSON of the volatile files that could not be purged, the last first; as many as fit."""
        for ino, known in list(self._blocked.items()):
            if not known.space.volatility.pages:
                self.freed(ino)
        texts, _ = within(map(self._blocked_text, reversed(self._blocked)), ANSWER_BYTES)
        return f"[{', '.join(texts)}]".encode()

    def _blocked_text(self, ino: int) -> str:
        known = self._blocked[ino]
        inode = self._inodes.get(ino)
        return json.dumps(
            {
                "inode": ino,
                "path": inode.path_text if inode is not None else None,
                "start": known.span.first * PAGE_SIZE,
                "length": (known.span.end - known.span.first) * PAGE_SIZE,
                "since": round(known.since, 3),
                "last": round(known.last, 3),
                "cause": known.cause,
                "by": known.blockers,
            }
        )

    def _has_room(self, now: float) -> bool:
        if len(self._blocked) < _MOST_BLOCKED:
            return True
        ino, oldest = next(iter(self._blocked.items()))
        if now - oldest.last < _STALE_SECONDS:
            return False
        del self._blocked[ino]
        return True


def blockers_of(found: Sequence[Objection], pages: BitMap) -> list[Blocker]:
    """Who forbids to purge ``pages``, for JSON: the first few, and how many more there are."""
    met = [(one, one.pages & pages) for one in found if not one.pages.isdisjoint(pages)]
    blockers = [_blocker(one, hit) for one, hit in met[:_MOST_BLOCKERS]]
    if len(met) > _MOST_BLOCKERS:
        blockers.append({"rule": "more", "count": len(met) - _MOST_BLOCKERS})
    return blockers


def _identity(blocker: Blocker) -> tuple[object, ...]:
    return blocker["rule"], blocker.get("pid"), blocker.get("addresses")


def _blocker(objection: Objection, pages: BitMap) -> Blocker:
    mapper, process = objection.mapper, objection.process
    pid = mapper.pid if mapper is not None else None
    if isinstance(process, ProcessId):
        pid = process.pid
    first, last = pages.min(), pages.max()
    blocker: Blocker = {
        "rule": objection.rule,
        "pid": pid,
        "command": command_of(pid) if pid else None,
        "start": first * PAGE_SIZE,
        "length": (last + 1 - first) * PAGE_SIZE,
    }
    if mapper is not None and (place := mapper.place_of(pages)) is not None:
        blocker["addresses"] = place.addresses
    return blocker
