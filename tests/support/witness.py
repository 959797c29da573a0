"""An account of one file that knows nothing of purging: what its users wrote, and which purges
met which page. Enough to tell whether a purged page passes for intact, or an intact one is lost.
"""

from __future__ import annotations

from collections.abc import Iterable

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.byte_spans import ByteSpan
from vfs_volatile.core.range_state import Drain
from vfs_volatile.errors import SyscallError
from vfs_volatile.units import PAGE_SIZE


def pages_met(start: int, end: int) -> set[int]:
    """The pages that share a byte with ``[start, end)``."""
    return {at // PAGE_SIZE for at in (*range(start, end, PAGE_SIZE), end - 1) if start < end}


def pages_whole(start: int, end: int, size: int) -> set[int]:
    """Those of them of which no byte within the file of ``size`` bytes lies outside."""
    return {
        page
        for page in pages_met(start, end)
        if start <= page * PAGE_SIZE and min(size, (page + 1) * PAGE_SIZE) <= end
    }


def pages_of(spans: Iterable[ByteSpan]) -> set[int]:
    return {page for start, length in spans for page in pages_met(start, start + length)}


class Witness:
    """Told of everything that is done to ``space``, it asks only what a user can ask."""

    def __init__(self, space: AddressSpace) -> None:
        self.space = space
        self.content = bytearray()
        """The file as it would be if nothing were ever purged."""
        self.suspects: set[int] = set()
        """Pages that a purge took since their owner last wrote, zeroed or unmarked them."""
        self.open: dict[Drain, set[int]] = {}

    # ---- what happens ----

    def stored(self, offset: int, data: bytes) -> None:
        """write(2) said that it stored ``data``."""
        end = offset + len(data)
        self.resized(max(len(self.content), end))
        self.content[offset:end] = data
        self._absolve(pages_whole(offset, end, len(self.content)), also_open=True)

    def stored_by_mapping(self, offset: int, data: bytes) -> None:
        """Written back from a mapping: a purge under way may take it with it."""
        end = min(offset + len(data), len(self.content))
        if offset < end:
            self.content[offset:end] = data[: end - offset]
            for pages in self.open.values():
                self.suspects |= pages & pages_met(offset, end)

    def resized(self, size: int) -> None:
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))
        end = -(-size // PAGE_SIZE)
        beyond = {page for page in self.suspects.union(*self.open.values()) if page >= end}
        self._absolve(beyond, also_open=True)

    def zeroed(self, offset: int, length: int) -> None:
        end = min(offset + length, len(self.content))
        if offset < end:
            self.content[offset:end] = bytes(end - offset)
            self._absolve(pages_whole(offset, end, len(self.content)), also_open=False)

    def purge_began(self, drain: Drain, pages: set[int], volatile: set[int]) -> None:
        """A purge may take of ``pages`` only what was said to be volatile."""
        self.open[drain] = pages & volatile
        self.suspects |= pages & volatile

    def purge_ended(self, drain: Drain) -> None:
        del self.open[drain]

    def unmarked(self, start: int, length: int, purged_before: set[int], found: int) -> None:
        """An unmark reported ``found`` bytes; what it did not report must be as it was."""
        end = min(start + length, len(self.content)) if length else len(self.content)
        reported = pages_met(start, end) & purged_before
        within = sum(
            min(end, (page + 1) * PAGE_SIZE) - max(start, page * PAGE_SIZE) for page in reported
        )
        assert found == within, "an unmark reported other bytes than were purged"
        for page in reported:
            stop = min(len(self.content), (page + 1) * PAGE_SIZE)
            self.content[page * PAGE_SIZE : stop] = bytes(stop - page * PAGE_SIZE)
        self._absolve(pages_met(start, end), also_open=True)

    # ---- what must hold ----

    def check_never_reported_intact(self) -> None:
        """Whatever a user would not find as it was written is reported as purged."""
        for page in self._pages() - pages_of(self.space.purged_spans()):
            assert self._seen(page) == self._written(page), f"page {page} passes for intact"

    def check_never_lost(self) -> None:
        """What no purge has met is there, and nobody says it were purged."""
        purged = pages_of(self.space.purged_spans())
        for page in self._pages() - self.suspects:
            assert page not in purged, f"page {page} was not purged, but is said to be"
            assert self._seen(page) == self._written(page), f"page {page} is lost"

    # ---- helpers ----

    def _absolve(self, pages: set[int], *, also_open: bool) -> None:
        self.suspects -= pages
        if also_open:
            for drain in self.open:
                self.open[drain] -= pages

    def _pages(self) -> set[int]:
        return pages_met(0, len(self.content))

    def _written(self, page: int) -> bytes:
        return bytes(self.content[page * PAGE_SIZE : (page + 1) * PAGE_SIZE])

    def _seen(self, page: int) -> bytes | None:
        """What reading the page gives; None for an error."""
        try:
            return self.space.read(page * PAGE_SIZE, PAGE_SIZE)
        except SyscallError:
            return None
