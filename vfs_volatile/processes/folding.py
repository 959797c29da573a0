"""What one process has mapped, in as little as can be: it may be tens of thousands of mappings.

All mappings of a file that are private become one set of pages, and all that are shared. That is
done on the thread that looks, so that whoever serves the mount meets two sets for each process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from pyroaring import BitMap

from vfs_volatile.core.consent import Mapper, Place, Process
from vfs_volatile.core.pages import LAST_PAGE, PageSpan, add_runs
from vfs_volatile.processes.maps import Found, mapped_pages

T = TypeVar("T")
_AT_ONCE = 1000
"""Mappings that are added to a set in one go."""
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

    __slots__ = ("_ends", "_firsts", "pages", "places")

    def __init__(self) -> None:
        self.pages = BitMap()
        self.places: list[Place] = []
        self._firsts: list[int] = []
        self._ends: list[int] = []
        """Runs that are not in ``pages`` yet."""

    def add(self, span: PageSpan, start: int, end: int) -> None:
        if len(self.places) < _MOST_PLACES:
            self.places.append(Place(span, (start, end)))
        self._firsts.append(span.first)
        self._ends.append(span.end)
        if len(self._firsts) == _AT_ONCE:
            self.settle()

    def settle(self) -> None:
        """Make ``pages`` complete."""
        add_runs(self.pages, self._firsts, self._ends)
        self._firsts.clear()
        self._ends.clear()

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


def fold(found: Iterable[Found], require_memory: Callable[[], None]) -> dict[Kind, Fold]:
    """All that ``found`` tells of a process.

    Raises what ``require_memory`` raises, which is called before each thousand.
    """
    folds: defaultdict[Kind, Fold] = defaultdict(Fold)
    for start, end, offset, ino, shared in _asking(found, require_memory):
        span = mapped_pages(start, end, offset).clip(_ALL)
        if span:  # a file has no pages beyond
            folds[ino, not shared].add(span, start, end)
    for one in _asking(folds.values(), require_memory):
        one.settle()
    return folds


def _asking(rows: Iterable[T], require_memory: Callable[[], None]) -> Iterator[T]:
    """``rows``; asks before each thousand."""
    for number, row in enumerate(rows):
        if number % _AT_ONCE == 0:
            require_memory()
        yield row


def mapped_by(process: Process | None, pid: int, folds: Mapping[Kind, Fold]) -> Mapped:
    """What the process that ``folds`` are of has mapped."""
    mappers = [
        (ino, Mapper(process, one.pages, private, pid, one.places))
        for (ino, private), one in folds.items()
    ]
    return Mapped(mappers, sum(one.size() for one in folds.values()))
