"""The same as test_no_memory.py for anonymous memory: what a call that failed leaves behind.

A process that is told ENOMEM does not expect to lose what it asked to mark, and asks again for all
else. So nothing may go that it holds, and what it shares counts as shared.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
from pyroaring import BitMap

from tests.support.no_memory import NoMemory
from vfs_volatile.abi.ioctls import VRANGE_PARTIAL
from vfs_volatile.core.anonymous import AnonymousSpace
from vfs_volatile.core.lineage import Lineage
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan, page_set

PAGES = 16
ALL = PageSpan(0, PAGES)


class Family:
    """A parent and a child that share half of their pages, and have marked some of them."""

    def __init__(self) -> None:
        self.memory = Memory(100, 100)
        self.lineage = Lineage(self.memory, PAGES, count(-1, -1))
        self.parent = self.lineage.first()
        self.tell(self.parent, alone=range(12))
        self.parent.mark(PageSpan(0, 4), 0)
        self.parent.mark(PageSpan(6, 10), VRANGE_PARTIAL)
        self.child = self.lineage.fork(self.parent)
        self.tell(self.parent, alone=range(4), shared=range(4, 12))
        self.tell(self.child, alone=range(4, 6), shared=range(6, 12), purged=[1])
        self.child.mark(PageSpan(11, 15), 0)

    def tell(
        self,
        space: AnonymousSpace,
        *,
        alone: range = range(0),
        shared: range = range(0),
        purged: list[int] | range = range(0),
    ) -> None:
        held = BitMap(alone) | BitMap(shared)
        space.report(ALL, held, BitMap(alone), BitMap(purged))
        space.told_all()

    def volatile(self) -> list[set[int]]:
        return [
            {page for entry in space.volatility.ranges for page in range(*entry.span)}
            for space in (self.parent, self.child)
        ]

    def check(self) -> None:
        self.lineage.check()
        spaces = self.lineage.members
        memory = self.memory
        assert memory.in_doubt is None
        assert memory.resident == self.lineage.charged
        assert memory.volatile == sum(space.volatility.pages for space in spaces)
        assert memory.ranges == sum(len(space.volatility.ranges) for space in spaces)
        assert memory.purged == sum(len(space.volatility.purged) for space in spaces)
        entries = [entry for space in spaces for entry in space.volatility.ranges]
        queued = [e for e in entries if not e.space.resident.isdisjoint(page_set(e.span))]
        assert list(memory.queue) == sorted(queued)
        assert len(memory.queue) == len(queued)


CALLS: dict[str, Callable[[Family], object]] = {
    "allocate": lambda family: Lineage(family.memory, PAGES, count(-10, -1)).first(),
    "mark": lambda family: family.child.mark(PageSpan(1, 12), 0),
    "unmark": lambda family: family.parent.unmark(PageSpan(2, 8)),
    "tell": lambda family: family.tell(family.child, shared=range(2, 8), purged=range(11, 13)),
    "fork": lambda family: family.lineage.fork(family.parent),
    "end": lambda family: family.lineage.leave(family.child),
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_goes_without_consent(no_memory: NoMemory, name: str) -> None:
    before = Family()
    done = Family()
    CALLS[name](done)
    alone = [BitMap(range(4)), BitMap(range(4, 6))]
    failed = 0
    for number, family in no_memory.failures(Family, CALLS[name]):
        failed += 1
        what = f"{name}, allocation {number}"
        begun = family.memory.in_doubt is not None and name != "allocate"
        no_memory.refusing(number, family.memory.mend)  # which then is still to be done
        family.memory.mend()
        family.check()
        assert set(family.lineage.members) <= {family.parent, family.child}, what
        for now, old in zip(family.volatile(), before.volatile(), strict=True):
            assert now <= old, f"{what}: volatile, though the mark has failed"
        for space, certain in zip((family.parent, family.child), alone, strict=True):
            assert space.exclusive <= certain, f"{what}: not alone"
        if name in ("mark", "unmark", "fork"):
            assert family.child.resident == before.child.resident, what
        for space in family.lineage.members:
            assert not begun or space.unknown == page_set(ALL), f"{what}: it may hold more"
        CALLS[name](family)
        family.check()
    assert failed > 5, "it needs memory"
