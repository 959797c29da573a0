"""A file that processes reach without us, against one record a page that sees everything.

Processes store at any moment, also between the steps of ours; what they store is told to the model
and not to the address_space. Two promises must hold all the same: *a page that was purged is
reported, however often it was stored since*, and *what no purge took is never lost*.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.property.strategies import MAX_PAGES, extents, ranges, some_bytes
from tests.support.space import sought
from tests.support.stores import FakeDirectStore, FakeStore
from vfs_volatile.abi.ioctls import VRANGE_PARTIAL, VRANGE_ZERO, vrange_priority
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.held import present
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan
from vfs_volatile.core.reclaim import Round
from vfs_volatile.errors import SyscallError
from vfs_volatile.store.detached import DetachedFile, DetachedTmpfs
from vfs_volatile.units import PAGE_SIZE, pages_for

_EVERYTHING = PageSpan(0, MAX_PAGES + 1)


@dataclass
class Page:
    data: bytes = bytes(PAGE_SIZE)
    held: bool = False
    """Does it take memory?"""
    volatile: bool = False
    purged: bool = False


class Machine(RuleBasedStateMachine):
    def make_store(self) -> FakeDirectStore | DetachedFile:
        raise NotImplementedError

    def held_pages(self) -> int:
        """What the mount counts, all files together."""
        raise NotImplementedError

    def load(self, number: int) -> None:
        """Load from a page, through a mapping."""
        raise NotImplementedError

    @initialize(budget=st.integers(0, 4), keeps=st.booleans(), size=st.integers(0, MAX_PAGES))
    def mount(self, budget: int, keeps: bool, size: int) -> None:
        self.tag = 0
        self.memory = Memory(40, budget, zero_by_default=True)
        self.space = AddressSpace(1, self.memory, FakeStore())
        self.space.truncate(size * PAGE_SIZE)
        self.store = self.make_store()
        self.space.go_direct(self.store)
        self.space.keeps_pages = keeps
        self.size = size * PAGE_SIZE
        self.pages = [Page() for _ in range(MAX_PAGES + 1)]

    # ---- what processes do, unseen ----

    @rule(extent=some_bytes)
    def store_unseen(self, extent: tuple[int, int]) -> None:
        self._store(extent)

    def _store(self, extent: tuple[int, int]) -> None:
        offset, length = extent
        self.tag = self.tag % 255 + 1
        self.store.write(offset, bytes([self.tag]) * length)
        for number, start, stop in _pieces(offset, length):
            page = self.pages[number]
            page.data = page.data[:start] + bytes([self.tag]) * (stop - start) + page.data[stop:]
            page.held = True
        self.size = max(self.size, offset + length)

    @rule(number=st.integers(0, MAX_PAGES))
    def load_unseen(self, number: int) -> None:
        """A load through a mapping fills a hole with zeros."""
        if number < pages_for(self.size):
            self.load(number)
            self.pages[number].held = True

    @rule(number=st.integers(0, MAX_PAGES))
    def remove_unseen(self, number: int) -> None:
        """madvise(2) MADV_REMOVE: whoever does this wants zeros."""
        if number < pages_for(self.size):
            self.store.drop(PageSpan(number, number + 1))
            self.pages[number].data = bytes(PAGE_SIZE)
            self.pages[number].held = False

    # ---- what is asked of us ----

    @rule(extent=ranges, behavior=st.sampled_from([0, VRANGE_PARTIAL, vrange_priority(3)]))
    def mark(self, extent: tuple[int, int], behavior: int) -> None:
        found = self.space.mark(*extent, behavior | VRANGE_ZERO)
        for number in self._covered(*extent):
            self.pages[number].volatile = True
        assert found == self._purged_bytes(*extent)

    @rule(extent=ranges)
    def unmark(self, extent: tuple[int, int]) -> None:
        assert not self.space.zeroed_by_unmark(*extent)
        expected = self._purged_bytes(*extent)
        assert self.space.unmark(*extent) == expected
        start, length = extent
        for number, *_ in _pieces(start, self._end(start, length) - start):
            page = self.pages[number]
            if page.purged:
                page.data, page.held = bytes(PAGE_SIZE), self.space.keeps_pages
            page.volatile = page.purged = False

    @rule(extent=ranges)
    def purge(self, extent: tuple[int, int]) -> None:
        drain = self.space.begin_purge([self.space.span_of(*extent)], self.memory.newest_age)
        for number in self._covered(*extent):
            if self.pages[number].volatile:
                self._lose(number)
        assert not drain.pages
        self.space.end_purge(drain)

    @rule(extent=ranges, stored=some_bytes)
    def purge_while_somebody_stores(self, extent: tuple[int, int], stored: tuple[int, int]) -> None:
        """Between our look and the drop: what comes to a hole then is not dropped unreported."""
        covered = {n for n in self._covered(*extent) if self.pages[n].volatile}
        if isinstance(self.store, FakeDirectStore):
            self.store.before_drop = partial(self._store, stored)
        before = set(self.space.volatility.purged)
        drain = self.space.begin_purge([self.space.span_of(*extent)], self.memory.newest_age)
        self.space.end_purge(drain)
        if isinstance(self.store, FakeDirectStore):
            self.store.before_drop = None
        assert set(self.space.volatility.purged) - before == set(drain.purged) - before
        assert set(drain.purged) <= covered
        for number in drain.purged:
            self._lose(number)

    @rule(need=st.integers(1, MAX_PAGES))
    def reclaim(self, need: int) -> None:
        """As the purger: what it takes is what it says, and it stops for want of work alone."""
        self.memory.counted(self.held_pages())
        self.space.look_for_refilled()
        this = Round(self.memory)
        while need > 0 and not this.finished:
            for victim in this.choose(need):
                drain = self.space.begin_purge(victim.spans, victim.entry.age)
                assert drain.dropped == victim.resident
                need -= drain.dropped
                for span in victim.spans:
                    for number in range(*span):
                        self._lose(number)
        if need > 0:
            assert not any(page.volatile and page.held for page in self.pages)

    @rule(size=st.integers(0, MAX_PAGES * PAGE_SIZE))
    def truncate(self, size: int) -> None:
        self.space.truncate(size)
        for number, page in enumerate(self.pages):
            start = max(0, size - number * PAGE_SIZE)
            if size < self.size and start < PAGE_SIZE:
                page.data = page.data[:start] + bytes(PAGE_SIZE - start)
            if number >= pages_for(size):
                self.pages[number] = Page()
        self.size = size

    @rule(extent=some_bytes)
    def punch(self, extent: tuple[int, int]) -> None:
        self.space.punch_hole(*extent)
        offset, length = extent
        for number, start, stop in _pieces(offset, length):
            page = self.pages[number]
            page.data = page.data[:start] + bytes(stop - start) + page.data[stop:]
            if stop - start == PAGE_SIZE:
                inside = number < pages_for(self.size)
                page.held = self.space.keeps_pages and inside and (page.held or page.purged)
            last = number == pages_for(self.size) - 1 and offset + length >= self.size
            if start == 0 and (stop == PAGE_SIZE or last):
                page.purged = False

    @rule(extent=some_bytes)
    def allocate(self, extent: tuple[int, int]) -> None:
        self.space.allocate(*extent, keep_size=False)
        self.size = max(self.size, sum(extent))
        for number, *_ in _pieces(*extent):
            self.pages[number].held |= not self.pages[number].purged

    @rule()
    def look(self) -> None:
        self.space.look(_EVERYTHING)
        self.memory.counted(self.held_pages())
        assert set(self.space.resident) == {n for n, page in enumerate(self.pages) if page.held}
        assert (self.memory.resident, self.memory.unseen) == (self.held_pages(), 0)

    @rule(extent=extents)
    def ask(self, extent: tuple[int, int]) -> None:
        offset = extent[0]
        for whence, wanted in ((os.SEEK_DATA, True), (os.SEEK_HOLE, False)):
            expected: int | str = self.size if whence == os.SEEK_HOLE else "ENXIO"
            for number in range(offset // PAGE_SIZE, pages_for(self.size)):
                page = self.pages[number]
                if (page.held and not page.purged) == wanted:
                    expected = max(offset, number * PAGE_SIZE)
                    break
            if offset >= self.size:
                expected = "ENXIO"
            try:
                found: int | str = sought(self.space, offset, whence)
            except SyscallError:
                found = "ENXIO"
            assert found == expected

    # ---- what holds after every step ----

    @invariant()
    def a_purged_page_is_reported_and_no_other(self) -> None:
        purged = {n for n, page in enumerate(self.pages) if page.purged}
        assert set(self.space.volatility.purged) == purged
        assert self.space.size == self.size

    @invariant()
    def nothing_is_lost(self) -> None:
        whole = b"".join(page.data for page in self.pages)[: self.size]
        assert self.store.read(0, self.size) == whole

    @invariant()
    def memory_is_counted(self) -> None:
        held = {n for n, page in enumerate(self.pages) if page.held}
        runs = present(self.store, _EVERYTHING)
        assert {page for run in runs for page in range(*run)} == held
        assert self.held_pages() == len(held)
        self.space.check()
        self.memory.counted(len(held))
        if set(self.space.resident) <= held:
            assert self.memory.resident == len(held)

    # ---- helpers ----

    def _lose(self, number: int) -> None:
        page = self.pages[number]
        page.purged |= page.held
        page.data, page.held = bytes(PAGE_SIZE), False

    def _end(self, start: int, length: int) -> int:
        return max(start, min(start + length, self.size) if length else self.size)

    def _covered(self, start: int, length: int) -> list[int]:
        end = self._end(start, length)
        return [
            number
            for number, first, stop in _pieces(start, end - start)
            if first == 0 and (stop == PAGE_SIZE or number * PAGE_SIZE + stop == self.size)
        ]

    def _purged_bytes(self, start: int, length: int) -> int:
        pieces = _pieces(start, self._end(start, length) - start)
        return sum(stop - first for number, first, stop in pieces if self.pages[number].purged)


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int, int]]:
    """Bytes cut at the borders of pages, as (page, start, stop) within each."""
    end = offset + length
    while offset < end:
        number, start = divmod(offset, PAGE_SIZE)
        stop = min(PAGE_SIZE, start + end - offset)
        yield number, start, stop
        offset += stop - start


class OnFakeStore(Machine):
    def make_store(self) -> FakeDirectStore:
        return FakeDirectStore()

    def held_pages(self) -> int:
        assert isinstance(self.store, FakeDirectStore)
        return len(self.store.pages)

    def load(self, number: int) -> None:
        assert isinstance(self.store, FakeDirectStore)
        if number not in self.store.pages:
            self.store.allocate(PageSpan(number, number + 1))


class OnTmpfs(Machine):
    def make_store(self) -> DetachedFile:
        self.tmpfs = DetachedTmpfs(64)
        return self.tmpfs.make_file(1)

    def held_pages(self) -> int:
        return self.tmpfs.held_pages()

    def load(self, number: int) -> None:
        assert isinstance(self.store, DetachedFile)
        with mmap.mmap(self.store.fileno(), self.store.size(), access=mmap.ACCESS_READ) as mapped:
            assert mapped[number * PAGE_SIZE] == self.pages[number].data[0]

    def teardown(self) -> None:
        if hasattr(self, "tmpfs"):
            self.tmpfs.close()


_FEWER = settings(max_examples=settings().max_examples // 4)

TestOnFakeStore = OnFakeStore.TestCase
TestOnFakeStore.settings = OnTmpfs.TestCase.settings = _FEWER
TestOnTmpfs = pytest.mark.skipif(os.geteuid() != 0, reason="makes a tmpfs")(OnTmpfs.TestCase)
