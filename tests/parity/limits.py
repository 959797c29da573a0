"""A test for each row of ``docs/limits.md``, so that the list stays true."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.parity.sides import Sides

ROWS: list[str] = []
"""First cells of the rows that some test proves."""

SCENES: dict[str, Callable[[Path], object]] = {}
"""By row: what is played."""


def limit(row: str, *, ours: object, tmpfs: object) -> Callable[..., Callable[[Sides], None]]:
    """A test that a scene ends so on our mount, and so on tmpfs, as the row ``row`` says."""
    ROWS.append(row)

    def decorate(scene: Callable[[Path], object]) -> Callable[[Sides], None]:
        def test(sides: Sides) -> None:
            assert (scene(sides.ours), scene(sides.tmpfs)) == (ours, tmpfs)

        test.__name__ = scene.__name__
        SCENES[row] = scene
        return test

    return decorate
