"""Anonymous memory: which pages of which processes may be dropped, and what they hold in all.

A file system does not see such memory. Each process says what it holds; this keeps the marks of
each, and knows who shares a page with whom. fork(2) lets parent and child share all pages; the
first store of either copies the page (COW) and ends the sharing. Rules, from the thread of 2013:

1. A mark belongs to one process. fork copies it, with its age.
2. A page that several processes share goes only if all of them have marked it, and then from all.
3. A page that one process holds alone goes when that process has marked it.

What a process said may be old. That is safe: between two forks pages only ever become less shared,
and a fork is told before it happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pyroaring import BitMap

from vfs_volatile.core.memory import Memory
from vfs_volatile.core.mending import change
from vfs_volatile.core.pages import PageSpan, page_set, runs
from vfs_volatile.core.ranges import VolatileRange
from vfs_volatile.core.volatility import Volatility

if TYPE_CHECKING:
    from vfs_volatile.core.lineage import Lineage

Together = dict[VolatileRange, BitMap]
"""Ranges of several processes and their pages that go at once or not at all."""


class AnonymousSpace:
    """One allocation as one process has it: to the purge queue, as the address_space of a file."""

    __slots__ = (
        "answers", "exclusive", "groups", "ino", "lineage", "resident", "unknown", "volatility",
    )  # fmt: skip

    def __init__(self, key: int, lineage: Lineage) -> None:
        # -- dependencies --
        self.lineage = lineage
        # -- constant --
        self.ino = key
        """A key: it stands where a file has its inode number."""
        # -- mutable --
        self.resident = BitMap()
        """Pages that the process said it holds."""
        # INVARIANT: resident.
        self.exclusive = BitMap()
        """Those that no other process shares."""
        self.unknown = BitMap()
        """Pages it may hold and has not told of since it was born, or has last forked."""
        # INVARIANT: a partition of all pages of the allocation; no set is empty.
        self.groups: dict[int, BitMap] = {}
        """By group: two processes can share a page only where both are in one group."""
        self.answers = True
        """Can the process be asked? If not, nothing that it holds is dropped anywhere."""
        self.volatility = Volatility(lineage.memory, self.resident)

    @property
    def memory(self) -> Memory:
        """What it counts into."""
        return self.lineage.memory

    @property
    def held(self) -> int:
        """Pages of memory, those that it shares included."""
        return len(self.resident)

    # ---- what the process says ----

    @change
    def mark(self, span: PageSpan, behavior: int) -> None:
        """VOLATILE; pages that are volatile already stay as they are."""
        self.volatility.mark(self, span, behavior)

    @change
    def unmark(self, span: PageSpan) -> None:
        """NONVOLATILE; the process itself knows what was purged."""
        self.volatility.unmark(span)

    @change
    def report(self, span: PageSpan, held: BitMap, exclusive: BitMap, purged: BitMap) -> None:
        """What the process holds of ``span``, alone or not, and what it has dropped of it.

        To be followed by told_all().
        """
        self.exclusive -= page_set(span)
        old = self.resident & page_set(span)
        self.resident -= old - held
        self.resident |= held
        self.exclusive |= held & exclusive
        self.unknown -= page_set(span)
        self.volatility.said(span, purged)

    @change
    def told_all(self) -> None:
        """Whatever had changed since the last time has been told."""
        self.unknown.clear()
        self.lineage.recount()

    def mend(self, newest: int) -> None:
        """As in :mod:`~vfs_volatile.core.mending`: the lineage as a whole."""
        self.lineage.mend(newest)

    def mend_marks(self, newest: int) -> None:
        """The same for what this process said. Of it some may be missing, so nobody is sure."""
        everything = PageSpan(0, self.lineage.pages)
        self.unknown = page_set(everything)
        self.exclusive &= self.resident
        volatility = self.volatility
        healed = volatility.mend_ranges(self.lineage.pages, newest)
        healed |= (volatility.purged & self.resident) - volatility.purged_reading_zero(everything)
        volatility.forget_purged(*runs(healed))  # the process itself knows
        volatility.mend_order(self)

    # ---- what may go ----

    def together(self, entry: VolatileRange, pages: BitMap) -> Together | None:
        """All that goes when ``pages`` of ``entry``, a range of this process, go.

        The same pages of those who share them, and all of a FULL range that loses one. None if one
        of them may not go: not marked, marked so that its turn comes later, or of a process
        that cannot be asked. So a page has the place of the last of the marks on it.
        """
        if not self.answers:
            return None
        going: Together = {entry: pages}
        todo: list[tuple[AnonymousSpace, BitMap]] = [(self, pages)]
        while todo:
            at, added = todo.pop()
            for space, shared in at.sharers(added):
                for partner, taken in space.marks_on(shared):
                    if partner > entry:
                        return None
                    shared -= taken
                    new = space.whole(partner, taken) - going.get(partner, BitMap())
                    if new:
                        going[partner] = going.get(partner, BitMap()) | new
                        todo.append((space, new))
                if shared or not space.answers:
                    return None
        return going

    def sharers(self, pages: BitMap) -> Iterator[tuple[AnonymousSpace, BitMap]]:
        """Who else may hold some of ``pages`` of this process, and which."""
        if len(self.lineage.members) == 1:
            return
        pages = pages - self.exclusive
        for other in self.lineage.members:
            if other is not self and pages:
                common = BitMap()
                for group, mine in self.groups.items():
                    if group in other.groups:
                        common |= pages & mine & other.groups[group]
                common &= (other.resident | other.unknown) - other.exclusive
                if common:
                    yield other, common

    def allowed(self, pages: BitMap) -> BitMap:
        """Those of ``pages`` that may go now, page by page: marked by all who share them."""
        marked = BitMap()
        for _, taken in self.marks_on(pages):
            marked |= taken
        for other, shared in self.sharers(marked):
            if other.answers:
                for _, taken in other.marks_on(shared):
                    shared -= taken
            marked -= shared
        return marked

    def marks_on(self, pages: BitMap) -> Iterator[tuple[VolatileRange, BitMap]]:
        """The ranges of this process that cover some of ``pages``, and which."""
        if pages:
            for entry in self.volatility.ranges.overlapping(PageSpan(pages.min(), pages.max() + 1)):
                taken = pages & page_set(entry.span)
                if taken:
                    yield entry, taken

    def whole(self, entry: VolatileRange, pages: BitMap) -> BitMap:
        """What goes of ``entry`` when ``pages`` of it do."""
        if entry.partial:
            return pages
        return pages | (self.resident & page_set(entry.span))

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold."""
        everything = page_set(PageSpan(0, self.lineage.pages))
        assert self.exclusive <= self.resident <= everything, "holds what it has not"
        union = BitMap()
        for pages in self.groups.values():
            assert pages, "an empty group"
            assert union.isdisjoint(pages), "a page in two groups"
            union |= pages
        assert union == everything, "a page in no group"
        self.volatility.check(everything)


def in_parts(
    space: AnonymousSpace, entry: VolatileRange, pages: BitMap, barred: Mapping[int, BitMap]
) -> Iterator[Together]:
    """As much of ``pages`` of ``entry`` as may go, in as few parts as that takes.

    Of a FULL range that is all or nothing. ``barred``: by space, what is to stay in any case.
    """
    found = space.together(entry, pages)
    if found is not None and not _meets(found, barred):
        yield found
    elif entry.partial and len(pages) > 1:
        middle = pages[len(pages) // 2]
        below = page_set(PageSpan(0, middle))
        yield from in_parts(space, entry, pages & below, barred)
        yield from in_parts(space, entry, pages - below, barred)


def _meets(together: Together, barred: Mapping[int, BitMap]) -> bool:
    return any(
        entry.space.ino in barred and pages.intersect(barred[entry.space.ino])
        for entry, pages in together.items()
    )
