"""The rules of volatile ranges, page by page: slow, plain, and written without a look at the code.

One record per page, and loops over all of them. Rule numbers are those of "Semantics of ranges" in
``docs/semantics.md``. What it says is what the address_space must do.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from tests.support.model_memory import Mark, ModelError, ModelMemory, Page
from vfs_volatile.abi.ioctls import VRANGE_SIGBUS, VRANGE_ZERO
from vfs_volatile.units import PAGE_SIZE

ByteSpan = tuple[int, int]


@dataclass(frozen=True)
class Chunk:
    """The part of a page that a range of bytes meets."""

    number: int
    start: int
    """Bytes from the start of the page."""
    stop: int
    whole: bool
    """No byte of the file in this page lies outside the range."""

    @property
    def offset(self) -> int:
        """Bytes from the start of the file."""
        return self.number * PAGE_SIZE + self.start


class ModelFile:
    """One file."""

    def __init__(self, ino: int, memory: ModelMemory) -> None:
        self.ino = ino
        self.memory = memory
        self.size = 0
        self.pages: dict[int, Page] = {}
        memory.files.append(self)

    # ---- data ----

    def read(self, offset: int, length: int) -> bytes:
        pieces = []
        for chunk in self._chunks(offset, min(offset + length, self.size)):
            if self._denied(chunk.number):
                raise ModelError(errno.ENODATA)
            pieces.append(self.page(chunk.number).data[chunk.start : chunk.stop])
        return b"".join(pieces)

    def write(self, offset: int, data: bytes) -> int:
        """write(2), as far as it gets (rules 4, 5)."""
        end = offset + len(data)
        done = offset
        for chunk in self._chunks(offset, end, max(self.size, end)):
            failure = self._why_not(chunk)
            if failure and done == offset:
                raise ModelError(failure)
            if failure:
                break
            done = chunk.number * PAGE_SIZE + chunk.stop
            page = self.page(chunk.number)
            self._put(chunk, data[chunk.offset - offset : done - offset])
            if chunk.whole:
                page.purged = page.lost = False
                page.drains.clear()
        self.size = max(self.size, done)
        return done - offset

    def write_back(self, offset: int, data: bytes) -> None:
        """The kernel writes back what was stored through a mapping (rules 5, 10, 11).

        It would be lost if refused, so it may exceed the size while something volatile can go.
        """
        for chunk in self._chunks(offset, min(offset + len(data), self.size)):
            page = self.page(chunk.number)
            if page.drains:
                self._lose(page)
            elif not self._denied(chunk.number):
                no_room = self.memory.room < 1 and not self.memory.queue()
                if no_room and not page.resident:
                    raise ModelError(errno.ENOSPC)
                piece = data[chunk.offset - offset :][: chunk.stop - chunk.start]
                self._put(chunk, piece)

    def truncate(self, size: int) -> None:
        if size <= self.size:
            for number in [n for n in self.pages if n * PAGE_SIZE >= size]:
                self._forget_data(self.pages.pop(number))
            for chunk in self._chunks(size, self.size):
                self._zero(chunk)
        self.size = size

    def punch_hole(self, offset: int, length: int) -> None:
        """Zero, intact, as volatile as before (rule 7); only a page covered to its end is freed."""
        for chunk in self._chunks(offset, offset + length):
            page = self.page(chunk.number)
            if chunk.stop - chunk.start == PAGE_SIZE:
                self._forget_data(page)
            else:
                self._zero(chunk)
            if chunk.whole:
                page.purged = page.lost = False

    def allocate(self, offset: int, length: int, *, keep_size: bool) -> None:
        chunks = list(self._chunks(offset, offset + length))
        pages = [self.page(chunk.number) for chunk in chunks]
        missing = [page for page in pages if not page.resident and not page.purged]
        if len(missing) > self.memory.room:
            raise ModelError(errno.ENOSPC)
        self._hold(missing)
        if not keep_size:
            self.size = max(self.size, offset + length)

    def zero_range(self, offset: int, length: int, *, keep_size: bool) -> None:
        if self.absent(offset, offset + length) > self.memory.room:
            raise ModelError(errno.ENOSPC)
        self.punch_hole(offset, length)
        pages = [self.page(chunk.number) for chunk in self._chunks(offset, offset + length)]
        self._hold([page for page in pages if not page.purged])
        if not keep_size:
            self.size = max(self.size, offset + length)

    def seek(self, offset: int, whence: int) -> int:
        """Purged pages show as holes, and so does the end of file (rule 7)."""
        if not 0 <= offset < self.size:
            raise ModelError(errno.ENXIO)
        for chunk in self._chunks(offset, self.size):
            page = self.page(chunk.number)
            is_data = page.resident and not page.purged
            if is_data == (whence == os.SEEK_DATA):
                return chunk.offset
        if whence == os.SEEK_HOLE:
            return self.size
        raise ModelError(errno.ENXIO)

    # ---- volatility ----

    def mark(self, start: int, length: int, behavior: int) -> int:
        """Pages wholly inside; what is volatile already stays as it is (rule 2)."""
        end = self._end(start, length)
        new = [
            self.page(chunk.number)
            for chunk in self._chunks(start, end)
            if chunk.whole and self.page(chunk.number).mark is None
        ]
        if new:
            mark = self.memory.new_mark(behavior)
            for page in new:
                page.mark = mark
        return self.purged_bytes(start, length)

    def unmark(self, start: int, length: int, *, record_lost: bool) -> int:
        """Every page met (rule 3)."""
        found = self.purged_bytes(start, length)
        for chunk in self._chunks(start, self._end(start, length)):
            page = self.page(chunk.number)
            if page.purged:
                self._forget_data(page)
                page.lost |= record_lost
            page.become_nonvolatile()
        return found

    def purged_bytes(self, start: int, length: int) -> int:
        """Of exactly this range."""
        return sum(
            chunk.stop - chunk.start
            for chunk in self._chunks(start, self._end(start, length))
            if self.page(chunk.number).purged
        )

    def acknowledge_lost(self) -> None:
        for page in self.pages.values():
            page.lost = False

    def next_run(self, start: int) -> tuple[int, int, int, int]:
        """(start, length, behavior, state) of the first run that ends after ``start``."""
        for run in self._runs(lambda page: page.mark and (page.mark, page.purged)):
            first, length = self._bytes(run)
            if first + length > start:
                state = 3 if self.pages[run[0]].purged else 1
                return first, length, self.mark_of(run[0]).behavior, state
        raise ModelError(errno.ENXIO)

    def volatile_spans(self) -> list[ByteSpan]:
        return [self._bytes(run) for run in self.ranges()]

    def purged_spans(self) -> list[ByteSpan]:
        return [self._bytes(run) for run in self._runs(lambda page: page.purged)]

    def lost_spans(self) -> list[ByteSpan]:
        return [self._bytes(run) for run in self._runs(lambda page: page.lost)]

    # ---- purging ----

    def purgeable(self, start: int, length: int) -> list[int]:
        """The pages that a forced purge of these bytes takes, if they are volatile."""
        end = self._end(start, length)
        return [chunk.number for chunk in self._chunks(start, end) if chunk.whole]

    def zeroed_by_unmark(self, start: int, length: int) -> set[int]:
        """Purged pages that an unmark makes zero, and that may be written to before."""
        chunks = self._chunks(start, self._end(start, length))
        numbers = [chunk.number for chunk in chunks]
        return {n for n in numbers if self.page(n).purged and not self._denied(n)}

    def begin_purge(self, numbers: Collection[int], newest: int) -> int:
        """Returns the number of the purge. A hole has nothing to lose (rule 11)."""
        drain = next(self.memory.drain_numbers)
        for number in numbers:
            page = self.page(number)
            if page.mark and page.mark.age <= newest:
                if page.resident:
                    self._lose(page)
                page.drains.add(drain)
        return drain

    def end_purge(self, drain: int) -> None:
        for page in self.pages.values():
            page.drains.discard(drain)

    def draining(self, start: int, length: int) -> bool:
        chunks = self._chunks(start, self._end(start, length))
        return any(self.page(chunk.number).drains for chunk in chunks)

    # ---- helpers ----

    def page(self, number: int) -> Page:
        return self.pages.setdefault(number, Page())

    def mark_of(self, number: int) -> Mark:
        mark = self.page(number).mark
        assert mark is not None
        return mark

    def ranges(self) -> list[list[int]]:
        """Neighbours of one mark are one range."""
        return self._runs(lambda page: page.mark)

    def absent(self, start: int, end: int) -> int:
        """How many pages of memory the bytes ``[start, end)`` lack."""
        return sum(not self.page(chunk.number).resident for chunk in self._chunks(start, end))

    def _runs(self, kind: Callable[[Page], object]) -> list[list[int]]:
        """Runs of pages with the same true ``kind``."""
        found: list[list[int]] = []
        for number in sorted(self.pages):
            this = kind(self.pages[number])
            if not this:
                continue
            if found and found[-1][-1] == number - 1 and kind(self.pages[number - 1]) == this:
                found[-1].append(number)
            else:
                found.append([number])
        return found

    def _bytes(self, run: list[int]) -> ByteSpan:
        start = run[0] * PAGE_SIZE
        return start, min((run[-1] + 1) * PAGE_SIZE, self.size) - start

    def _end(self, start: int, length: int) -> int:
        return max(start, min(start + length, self.size) if length else self.size)

    def _chunks(self, start: int, end: int, size: int | None = None) -> Iterator[Chunk]:
        size = self.size if size is None else size
        while start < end:
            number, first = divmod(start, PAGE_SIZE)
            stop = min(PAGE_SIZE, first + end - start)
            reaches = stop == PAGE_SIZE or number * PAGE_SIZE + stop >= size
            yield Chunk(number, first, stop, whole=first == 0 and reaches)
            start = (number + 1) * PAGE_SIZE

    def _denied(self, number: int) -> bool:
        """Is touching this page an error (rule 4)?"""
        page = self.page(number)
        if not page.purged:
            return False
        behavior = self.mark_of(number).behavior
        if behavior & VRANGE_SIGBUS:
            return True
        return not behavior & VRANGE_ZERO and not self.memory.zero_by_default

    def _why_not(self, chunk: Chunk) -> int | None:
        """The errno for which a write(2) stops at this page."""
        if self._denied(chunk.number) and not chunk.whole:
            return errno.ENODATA
        if not self.page(chunk.number).resident and self.memory.room < 1:
            return errno.ENOSPC
        return None

    def _hold(self, pages: list[Page]) -> None:
        for page in pages:
            page.resident = True
        self.memory.note_highest()

    def _put(self, chunk: Chunk, piece: bytes) -> None:
        page = self.page(chunk.number)
        page.data = page.data[: chunk.start] + piece + page.data[chunk.stop :]
        page.resident = True
        self.memory.note_highest()

    def _zero(self, chunk: Chunk) -> None:
        page = self.page(chunk.number)
        zeros = bytes(chunk.stop - chunk.start)
        page.data = page.data[: chunk.start] + zeros + page.data[chunk.stop :]

    def _forget_data(self, page: Page) -> None:
        page.data = bytes(PAGE_SIZE)
        page.resident = False

    def _lose(self, page: Page) -> None:
        """Its data are gone, and its owner must hear of it."""
        self._forget_data(page)
        self.memory.purged_ever += not page.purged
        page.purged = True
