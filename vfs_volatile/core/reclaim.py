"""Choosing what to purge: priority, then age of the mark, oldest first (rule 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from pyroaring import BitMap

from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import count, page_set, runs
from vfs_volatile.core.ranges import PageSpan, VolatileRange

Barred = Mapping[int, Sequence[PageSpan]]
"""Inode -> pages that may not be purged (their private mappers forbid it)."""


class Victim(NamedTuple):
    """Pages of one range, chosen together."""

    entry: VolatileRange
    spans: list[PageSpan]
    resident: int
    """Pages of memory that purging it frees."""


def overlaps_any(span: PageSpan, others: Sequence[PageSpan]) -> bool:
    """Does ``span`` share a page with one of ``others``?"""
    return any(span.overlaps(other) for other in others)


def without(pages: BitMap, spans: Sequence[PageSpan]) -> BitMap:
    """``pages`` but those in ``spans``, as a new set."""
    left = pages.copy()
    for span in spans:
        left.remove_range(span.first, span.end)
    return left


def choose(memory: Memory, need: int, barred: Barred) -> list[Victim]:
    """The victims that free ``need`` pages, in the order of purging; fewer if there are no more.

    A FULL range goes whole or not at all; of a PARTIAL one only what is needed, lowest first.
    """
    victims = []
    for entry in memory.queue:
        if need <= 0:
            break
        victim = _victim(entry, need, barred.get(entry.space.ino, ()))
        if victim is not None:
            victims.append(victim)
            need -= victim.resident
    return victims


def _victim(entry: VolatileRange, need: int, barred: Sequence[PageSpan]) -> Victim | None:
    resident = entry.space.resident
    if not entry.partial:
        if overlaps_any(entry.span, barred):
            return None
        return Victim(entry, [entry.span], count(resident, entry.span))
    pages = without(resident & page_set(entry.span), barred)
    chosen = BitMap(islice(pages, need))
    return Victim(entry, list(runs(chosen)), len(chosen)) if chosen else None


def still_allowed(victim: Victim, barred: Sequence[PageSpan]) -> list[PageSpan]:
    """What of ``victim`` may go now that the mappings have been looked at.

    The range may have been cut or unmarked meanwhile: a purge up to the age of its mark takes
    only what is left. ``barred``: the private mappings of its file.
    """
    if not victim.entry.partial:
        return [] if overlaps_any(victim.entry.span, barred) else victim.spans
    return [run for span in victim.spans for run in runs(without(page_set(span), barred))]
