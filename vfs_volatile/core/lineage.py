"""One allocation of anonymous memory and its copies by fork(2): what they hold in all.

The rules are those of :mod:`~vfs_volatile.core.anonymous`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count as numbers

from pyroaring import BitMap

from vfs_volatile.core.anonymous import AnonymousSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.mending import change
from vfs_volatile.core.pages import PageSpan, page_set


class Lineage:
    """One allocation and what forks made of it: the same pages in several processes."""

    def __init__(self, memory: Memory, pages: int, keys: Iterator[int]) -> None:
        # -- dependencies --
        self.memory = memory
        self._keys = keys
        """Gives each member a number that no file and no other member has."""
        # -- constant --
        self.pages = pages
        # -- mutable --
        self.members: list[AnonymousSpace] = []
        self._groups = numbers()
        # INVARIANT: what memory.resident counts for it.
        self.charged = 0
        """Pages of memory that it is in all: a shared one counts once."""
        self._outside: AnonymousSpace | None = None
        """One that is about to join the members, or has just left them."""

    @change
    def first(self) -> AnonymousSpace:
        """The memory of the process that allocates it."""
        space = AnonymousSpace(next(self._keys), self)
        space.groups[next(self._groups)] = page_set(PageSpan(0, self.pages))
        self.members.append(space)
        return space

    @change
    def fork(self, parent: AnonymousSpace) -> AnonymousSpace:
        """``parent``'s process is about to fork: the memory of the child.

        What the parent has said it holds alone is shared with this child alone; all else, also
        what it has got since, with whoever it may share it with now.
        """
        self._settle_groups(parent)
        alone = parent.exclusive.copy()
        if alone:
            rest = {group: pages - alone for group, pages in parent.groups.items()}
            groups = {group: pages for group, pages in rest.items() if pages}
            groups[next(self._groups)] = alone
            parent.groups = groups
        child = self._outside = AnonymousSpace(next(self._keys), self)
        child.groups = {group: pages.copy() for group, pages in parent.groups.items()}
        child.resident |= parent.resident
        for space in (parent, child):
            space.exclusive.clear()
            space.unknown = page_set(PageSpan(0, self.pages))
        child.volatility.inherit(child, parent.volatility)
        self._settle([*self.members, child])
        self._outside = None
        return child

    @change
    def leave(self, space: AnonymousSpace) -> None:
        """A process has freed the memory, or has ended."""
        self._outside = space
        self._settle([member for member in self.members if member is not space])
        space.volatility.unmark(PageSpan(0, self.pages))
        self._outside = None

    @change
    def recount(self) -> None:
        """What the members hold may have changed: charge memory with it."""
        self._settle(self.members)

    def mend(self, newest: int) -> None:
        """As in :mod:`~vfs_volatile.core.mending`. A fork that failed has no child."""
        if self._outside is not None and self._outside not in self.members:
            self._outside.volatility.mend_ranges(0, 0)
            self._outside.volatility.mend_order(self._outside)
        self._outside = None
        for space in self.members:
            space.mend_marks(newest)
        self._settle(self.members)

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        assert self.charged == _count(self.members), "charged with another number of pages"
        for space in self.members:
            space.check()

    # ---- helpers ----

    def _settle(self, members: list[AnonymousSpace]) -> None:
        """From now on ``members`` are in it."""
        held = _count(members)
        self.members = members
        self.memory.charge(self, held - self.charged)

    def _settle_groups(self, space: AnonymousSpace) -> None:
        """Groups that nobody else is in any more become one, so that they stay few."""
        others = {group for other in self.members if other is not space for group in other.groups}
        lone = [group for group in space.groups if group not in others]
        if len(lone) > 1:
            groups = {group: space.groups[group] for group in space.groups if group in others}
            groups[lone[0]] = BitMap().union(*(space.groups[group] for group in lone))
            space.groups = groups


def _count(members: list[AnonymousSpace]) -> int:
    """Pages of memory that ``members`` of one lineage are in all."""
    if len(members) == 1:
        return len(members[0].resident)
    shared: dict[int, BitMap] = {}
    held = 0
    for space in members:
        held += len(space.exclusive)
        not_alone = space.resident - space.exclusive
        for group, pages in space.groups.items():
            shared.setdefault(group, BitMap()).update(pages & not_alone)
    return held + sum(map(len, shared.values()))
