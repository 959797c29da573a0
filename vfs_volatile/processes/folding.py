"""What one process has mapped, in as little as can be: it may be tens of thousands of mappings.

All mappings of a file that are private become one set of pages, and all that are shared. That is
done on the thread that looks, so that whoever serves the mount meets two sets for each process.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import groupby, islice
from typing import NamedTuple

from pyroaring import BitMap

from vfs_volatile.core.consent import Mapper, Place, Process
from vfs_volatile.core.pages import LAST_PAGE, PageSpan, add_runs
from vfs_volatile.processes.maps import Columns, mapped_pages
from vfs_volatile.units import PAGE_SIZE

_MOST_PLACES = 16
"""Mappings of a set of which the addresses are told."""
_ALL = PageSpan(0, LAST_PAGE)

_SET_BYTES, _PLACE_BYTES, _CONTAINER_BYTES = 500, 250, 100
"""Of memory: of a set, of each place, of each container beside what it holds; rather too much."""

Kind = tuple[int, bool]
"""An inode, and whether it is mapped private."""


class Mapped(NamedTuple):
    """What a process has mapped of the files of a mount."""

    mappers: Sequence[tuple[int, Mapper]] = ()
    """Each with its inode."""
    size: int = 0
    """Bytes of memory that this takes, about."""


class Fold:
    """All mappings of one kind."""

    __slots__ = ("pages", "places")

    def __init__(self) -> None:
        self.pages = BitMap()
        self.places: list[Place] = []

    def add(self, starts: Sequence[int], ends: Sequence[int], offsets: Sequence[int]) -> None:
        """Add mappings: columns of them (:data:`Columns`)."""
        self._add_places(starts, ends, offsets)
        firsts = [offset // PAGE_SIZE for offset in offsets]
        stops = [
            first + (end - start) // PAGE_SIZE
            for first, start, end in zip(firsts, starts, ends, strict=True)
        ]
        # A set takes pages in their order many times faster. As many runs have begun and not ended
        # before each page if both columns are sorted alone, so they cover the same pages.
        firsts.sort()
        stops.sort()
        if stops[-1] > LAST_PAGE:  # a file has no pages beyond
            del firsts[bisect_left(firsts, LAST_PAGE) :]
            stops = [min(end, LAST_PAGE) for end in stops[: len(firsts)]]
        some = BitMap()
        add_runs(some, firsts, stops)
        self.pages |= some

    def size(self) -> int:
        """In bytes of memory, about."""
        held = self.pages.get_statistics()
        return (
            _SET_BYTES
            + len(self.places) * _PLACE_BYTES
            + held["n_containers"] * _CONTAINER_BYTES
            + held["n_bytes_array_containers"]
            + held["n_bytes_run_containers"]
            + held["n_bytes_bitset_containers"]
        )

    def _add_places(
        self, starts: Sequence[int], ends: Sequence[int], offsets: Sequence[int]
    ) -> None:
        for start, end, offset in islice(
            zip(starts, ends, offsets, strict=True), _MOST_PLACES - len(self.places)
        ):
            span = mapped_pages(start, end, offset).clip(_ALL)
            self.places.append(Place(span, (start, end)))


def fold(
    found: Iterable[Columns],
    require_memory: Callable[[], None],
    wanted: Set[int] | None = None,
) -> dict[Kind, Fold]:
    """All that ``found`` tells of a process, or what it tells of the inodes ``wanted``.

    Raises what ``require_memory`` raises, which is called before some are taken (AT_ONCE).
    """
    folds: defaultdict[Kind, Fold] = defaultdict(Fold)
    for columns in found:
        require_memory()
        if wanted is not None and wanted.isdisjoint(columns[3]):
            continue
        for (ino, shared), rows in _by_kind(columns):
            if wanted is None or ino in wanted:
                folds[ino, not shared].add(*rows)
    return folds


def _by_kind(columns: Columns) -> Iterator[tuple[tuple[int, int], list[list[int]]]]:
    """Of each inode, shared or not, the starts, ends and offsets."""
    *rows, inodes, shared = columns
    kinds = set(zip(inodes, shared, strict=True))
    if len(kinds) == 1:
        yield kinds.pop(), rows
        return
    keys = [ino << 1 | one for ino, one in zip(inodes, shared, strict=True)]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    for key, some in groupby(order, key=keys.__getitem__):
        of_kind = list(some)
        yield (key >> 1, key & 1), [[column[number] for number in of_kind] for column in rows]


def mapped_by(process: Process | None, pid: int, folds: Mapping[Kind, Fold]) -> Mapped:
    """What the process that ``folds`` are of has mapped."""
    mappers = [
        (ino, Mapper(process, one.pages, private, pid, one.places))
        for (ino, private), one in folds.items()
        if one.pages
    ]
    return Mapped(mappers, sum(one.size() for one in folds.values()))
