"""How long something took, each time: counted in classes, as Prometheus wants its histograms."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds up to which each class goes; there is one more for all that is longer."""


class Durations:
    """A histogram of seconds."""

    def __init__(self) -> None:
        self._classes = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        """All together."""

    def add(self, seconds: float) -> None:
        self._classes[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    @property
    def count(self) -> int:
        return sum(self._classes)

    def up_to(self) -> list[tuple[str, int]]:
        """(bound, how many took so long at most) for each class, the last without a bound."""
        bounds = [*map(str, BOUNDS), "+Inf"]
        return list(zip(bounds, accumulate(self._classes), strict=True))
