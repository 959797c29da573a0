"""Random sequences on both sides: what state machines of hypothesis share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from hypothesis.stateful import RuleBasedStateMachine

from tests.parity.sides import Sides, attempt
from tests.support.mount import Mount


class _Side(Protocol):
    def end(self) -> list[object]:
        """Everything that can be seen in the end; it goes away."""


S = TypeVar("S", bound=_Side)


class TwoSides(RuleBasedStateMachine, Generic[S]):
    """Every rule does the same on both sides: ours and a tmpfs."""

    numbers = count()

    def __init__(self, sides: Sides, mount: Mount, make: Callable[[Path], S]) -> None:
        super().__init__()
        mount.rearm()
        number = str(next(self.numbers))
        self.both = [make(sides.ours / number), make(sides.tmpfs / number)]

    def same(self, call: Callable[[S], object]) -> None:
        ours, tmpfs = (attempt(call, side) for side in self.both)
        assert ours == tmpfs

    def teardown(self) -> None:
        ours, tmpfs = (side.end() for side in self.both)
        assert ours == tmpfs
