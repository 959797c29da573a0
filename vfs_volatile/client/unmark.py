"""Unmark a span of a file and learn *which* bytes were purged, not only how many.

One VRANGE_NONVOLATILE answers with a sum. This asks run by run instead: NEXT gives runs that are in
one state, so the sum for a run says whether all of it or nothing of it was purged.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from vfs_volatile.abi.ioctls import STATE_PURGED, U64_MAX, VRANGE_NONVOLATILE
from vfs_volatile.client.calls import fvrange, fvrange_next
from vfs_volatile.units import PAGE_SIZE

_LEAST_STEP = 256 * PAGE_SIZE
_STEPS = 64
"""An intact run is unmarked in steps of a 64th of what remains, so that a purge which races with
one step leaves little in doubt, while a terabyte still takes few calls."""


class Span(NamedTuple):
    """Bytes of a file."""

    start: int
    length: int


def unmark_runs(fd: int, start: int, length: int) -> Iterator[Span]:
    """End volatility of ``length`` bytes from ``start`` (0 = to the end of file).

    Yields the spans that were purged and hold zeros now: whole pages, as unmarking takes every page
    it meets, cut at the end of file. A purge that races with it is never missed: if one comes
    between NEXT and the unmark of a step, that step is yielded whole, with pages of it that may
    be intact. ``fd`` must be open for writing. Raises OSError.
    """
    position = start - start % PAGE_SIZE
    end = -(-(start + length) // PAGE_SIZE) * PAGE_SIZE if length else U64_MAX
    while (step := _next_step(fd, position, end)) is not None:
        if fvrange(fd, *step, VRANGE_NONVOLATILE):
            yield step
        position = step.start + step.length
    # What somebody marked behind our back ends here; if it is purged already, all is in doubt.
    if fvrange(fd, start, length, VRANGE_NONVOLATILE):
        yield Span(start, min(end, os.fstat(fd).st_size) - start)


def _next_step(fd: int, position: int, end: int) -> Span | None:
    """The next bytes to unmark in one call, asked anew each time; None if no more are volatile."""
    run = next(fvrange_next(fd, position), None)
    if run is None or run.start >= end:
        return None
    start = max(run.start, position)
    length = min(run.start + run.length, end) - start
    if run.state != STATE_PURGED:
        length = min(length, max(_LEAST_STEP, length // _STEPS // PAGE_SIZE * PAGE_SIZE))
    return Span(start, length)
