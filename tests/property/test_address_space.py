"""The address_space against a model, in any order of calls, on two kinds of store.

A state machine drives two files that share one memory. After every step each page, range, count and
the order of purging are compared with ``tests/support/model.py``, and an account that knows nothing
of purging (``tests/support/witness.py``) is asked for the two promises that matter most: *a purged
page is never reported intact*, and *an intact page is never lost*.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from typing import TypeVar
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)
from pyroaring import BitMap

from tests.property.strategies import (
    FILES,
    MAX_PAGES,
    behaviors,
    borders,
    extents,
    files,
    page_spans,
    ranges,
    rows,
    some_bytes,
)
from tests.support.model import ModelFile
from tests.support.model_memory import ModelError, ModelMemory
from tests.support.space import sought
from tests.support.stores import FakeStore
from tests.support.witness import Witness, pages_of
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.pages import PageSpan, PageStore, runs
from vfs_volatile.core.range_state import Drain
from vfs_volatile.core.reclaim import Victim, choose
from vfs_volatile.errors import SyscallError
from vfs_volatile.store import arena
from vfs_volatile.units import PAGE_SIZE

T = TypeVar("T")


def outcome(call: Callable[[], T]) -> T | str:
    """What ``call`` returns, or the errno with which it fails."""
    try:
        return call()
    except (SyscallError, ModelError) as error:
        return f"errno {error.errno}"


def seek(offset: int, whence: int, file: AddressSpace | ModelFile) -> int:
    return (
        file.seek(offset, whence) if isinstance(file, ModelFile) else sought(file, offset, whence)
    )


def read(offset: int, length: int, file: AddressSpace | ModelFile) -> bytes:
    """What a file says it holds; where it says that lies, the same must be."""
    data = file.read(offset, length)
    if isinstance(file, AddressSpace) and (found := file.locate(offset, length)) is not None:
        assert os.pread(found.fd, found.length, found.offset) == data
    return data


def columns(spans: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Their starts and their lengths."""
    return [start for start, _ in spans], [length for _, length in spans]


def page_numbers(spans: list[PageSpan]) -> list[int]:
    return [page for span in spans for page in range(*span)]


class Machine(RuleBasedStateMachine):
    """Every call on the address_spaces, each beside its model and its witness."""

    drains = Bundle("drains")

    def make_stores(self) -> Callable[[], PageStore]:
        """How a file gets its store."""
        raise NotImplementedError

    @initialize(
        size=st.sampled_from([3, 6, 40]),
        budget=st.integers(0, 8),
        zero_by_default=st.booleans(),
        sizes=st.tuples(borders, borders),
        sparse=st.booleans(),
        marks=st.tuples(st.none() | behaviors, st.none() | behaviors),
    )
    def mount(
        self,
        size: int,
        budget: int,
        zero_by_default: bool,
        sizes: tuple[int, ...],
        sparse: bool,
        marks: tuple[int | None, ...],
    ) -> None:
        """Files may begin with data, or a hole, and marked as a whole."""
        self.woken = self.pressed = False
        self.tag = 0
        self.memory = Memory(size, budget, zero_by_default=zero_by_default, on_pressure=self._wake)
        self.model_memory = ModelMemory(size, budget, zero_by_default=zero_by_default)
        make_store = self.make_stores()
        self.spaces = [AddressSpace(ino, self.memory, make_store()) for ino in range(FILES)]
        self.models = [ModelFile(ino, self.model_memory) for ino in range(FILES)]
        self.witnesses = [Witness(space) for space in self.spaces]
        self.open: list[tuple[int, Drain, int]] = []
        for file, (length, behavior) in enumerate(zip(sizes, marks, strict=True)):
            if sparse:
                self.truncate(file, length)
            elif length:
                self.write(file, (0, length))
            if behavior is not None:
                self.mark(file, (0, 0), behavior)

    def _wake(self) -> None:
        self.woken = True

    def _both(
        self, file: int, call: Callable[[AddressSpace], T], model_call: Callable[[ModelFile], T]
    ) -> T | str:
        """The outcome of the same call on the file and on its model, which must be one."""
        result = outcome(lambda: call(self.spaces[file]))
        assert result == outcome(lambda: model_call(self.models[file]))
        return result

    def _data(self, length: int) -> bytes:
        self.tag = self.tag % 255 + 1
        return bytes([self.tag]) * length

    # ---- data ----

    @rule(file=files, extent=some_bytes)
    def write(self, file: int, extent: tuple[int, int]) -> None:
        offset, length = extent
        data = self._data(length)
        done = self._both(file, lambda s: s.write(offset, data), lambda m: m.write(offset, data))
        if isinstance(done, int):
            self.witnesses[file].stored(offset, data[:done])

    @rule(file=files, extent=some_bytes)
    def write_back(self, file: int, extent: tuple[int, int]) -> None:
        """Of what there is no room for, the kernel learns page by page."""
        offset, length = extent
        if self.models[file].absent(offset, offset + length) > self.model_memory.room:
            length = min(length, PAGE_SIZE - offset % PAGE_SIZE)
        data = self._data(length)
        failed = self._both(
            file, lambda s: s.write_back(offset, data), lambda m: m.write_back(offset, data)
        )
        if not failed:
            self.witnesses[file].stored_by_mapping(offset, data)

    @rule(file=files, size=borders | st.just(MAX_PAGES * PAGE_SIZE))
    def truncate(self, file: int, size: int) -> None:
        self._both(file, lambda s: s.truncate(size), lambda m: m.truncate(size))
        self.witnesses[file].resized(size)

    @rule(file=files, extent=some_bytes)
    def punch_hole(self, file: int, extent: tuple[int, int]) -> None:
        self._both(file, lambda s: s.punch_hole(*extent), lambda m: m.punch_hole(*extent))
        self.witnesses[file].zeroed(*extent)

    @rule(file=files, extent=some_bytes, keep=st.booleans())
    def allocate(self, file: int, extent: tuple[int, int], keep: bool) -> None:
        failed = self._both(
            file,
            lambda s: s.allocate(*extent, keep_size=keep),
            lambda m: m.allocate(*extent, keep_size=keep),
        )
        if not failed and not keep:
            self._grew(file, sum(extent))

    @rule(file=files, extent=some_bytes, keep=st.booleans())
    def zero_range(self, file: int, extent: tuple[int, int], keep: bool) -> None:
        failed = self._both(
            file,
            lambda s: s.zero_range(*extent, keep_size=keep),
            lambda m: m.zero_range(*extent, keep_size=keep),
        )
        if not failed:
            self.witnesses[file].zeroed(*extent)
            if not keep:
                self._grew(file, sum(extent))

    def _grew(self, file: int, end: int) -> None:
        witness = self.witnesses[file]
        witness.resized(max(end, len(witness.content)))

    @rule(file=files, extent=extents)
    def ask(self, file: int, extent: tuple[int, int]) -> None:
        offset, length = extent
        self._both(file, partial(read, offset, length), partial(read, offset, length))
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            self._both(file, partial(seek, offset, whence), partial(seek, offset, whence))
        self._both(file, lambda s: s.purged_bytes(*extent), lambda m: m.purged_bytes(*extent))
        self._both(file, lambda s: tuple(s.next_run(offset)), lambda m: m.next_run(offset))

    # ---- volatility ----

    @rule(file=files, extent=ranges, behavior=behaviors)
    def mark(self, file: int, extent: tuple[int, int], behavior: int) -> None:
        self._both(file, lambda s: s.mark(*extent, behavior), lambda m: m.mark(*extent, behavior))

    @precondition(lambda self: self.memory.volatile > 0)
    @rule(file=files, extent=ranges, record_lost=st.booleans(), drop_first=st.booleans())
    def unmark(
        self, file: int, extent: tuple[int, int], record_lost: bool, drop_first: bool
    ) -> None:
        """As the daemon does it: after the purges there, with or without one of its own."""
        if drop_first:
            zeroed = self.spaces[file].zeroed_by_unmark(*extent)
            self._begin(file, list(runs(zeroed)), self.memory.newest_age)
        if self.models[file].draining(*extent):
            for opened in [opened for opened in self.open if opened[0] == file]:
                self._end(opened)
        purged = pages_of(self.spaces[file].purged_spans())
        found = self._both(
            file,
            lambda s: s.unmark(*extent, record_lost=record_lost),
            lambda m: m.unmark(*extent, record_lost=record_lost),
        )
        assert isinstance(found, int)
        self.witnesses[file].unmarked(*extent, purged, found)

    @rule(file=files, extents=rows | st.lists(ranges, max_size=3), behavior=behaviors)
    def mark_many(self, file: int, extents: list[tuple[int, int]], behavior: int) -> None:
        self._both(
            file,
            lambda s: s.mark_many(*columns(extents), behavior),
            lambda m: [m.mark(*extent, behavior) for extent in extents],
        )

    @precondition(lambda self: self.memory.volatile > 0)
    @rule(file=files, extents=rows)
    def unmark_many(self, file: int, extents: list[tuple[int, int]]) -> None:
        for opened in [opened for opened in self.open if opened[0] == file]:
            self._end(opened)
        purged = pages_of(self.spaces[file].purged_spans())
        found = self._both(
            file,
            lambda s: s.unmark_many(*columns(extents)),
            lambda m: [m.unmark(*extent, record_lost=False) for extent in extents],
        )
        assert isinstance(found, list)
        for extent, bytes_found in zip(extents, found, strict=True):
            self.witnesses[file].unmarked(*extent, purged, bytes_found)

    @precondition(lambda self: any(any(space.lost_spans()) for space in self.spaces))
    @rule(file=files)
    def acknowledge_lost(self, file: int) -> None:
        self.spaces[file].acknowledge_lost()
        self.models[file].acknowledge_lost()

    # ---- purging ----

    @precondition(lambda self: self.memory.volatile > 0)
    @rule(target=drains, file=files, extent=ranges, marks_ago=st.integers(0, 2))
    def begin_forced_purge(
        self, file: int, extent: tuple[int, int], marks_ago: int
    ) -> tuple[int, Drain, int]:
        """Decided ``marks_ago`` marks ago: it leaves alone what was marked since."""
        return self._begin_forced(file, extent, marks_ago)

    @precondition(lambda self: self.memory.volatile > 0)
    @rule(file=files, extent=ranges, dirty=extents)
    def forced_purge(self, file: int, extent: tuple[int, int], dirty: tuple[int, int]) -> None:
        """From begin to end; the kernel writes back meanwhile what was dirty."""
        opened = self._begin_forced(file, extent, 0)
        if dirty[1]:
            self.write_back(file, dirty)
        self._end(opened)

    @rule(opened=consumes(drains))
    def end_purge(self, opened: tuple[int, Drain, int]) -> None:
        if opened in self.open:
            self._end(opened)

    @precondition(lambda self: self.memory.volatile > 0)
    @rule(
        need=st.integers(0, MAX_PAGES),
        barred=st.dictionaries(files, st.lists(page_spans, max_size=2)),
        budget=st.integers(0, 8),
        at_once=st.booleans(),
    )
    def reclaim(
        self, need: int, barred: dict[int, list[PageSpan]], budget: int, at_once: bool
    ) -> None:
        self.memory.set_budget(budget)
        self.model_memory.set_budget(budget)
        forbidden = {file: set(page_numbers(spans)) for file, spans in barred.items()}
        sets = {file: BitMap(pages) for file, pages in forbidden.items()}
        victims = choose(self.memory.queue, need, sets)
        assert [
            (victim.entry.space.ino, list(range(*victim.entry.span)), page_numbers(victim.spans))
            for victim in victims
        ] == self.model_memory.choose(need, forbidden)
        before = self.memory.resident
        for victim in victims:
            self._purge(victim, at_once=at_once)
        assert before - self.memory.resident == sum(victim.resident for victim in victims)

    def _purge(self, victim: Victim, *, at_once: bool) -> None:
        opened = self._begin(victim.entry.space.ino, victim.spans, victim.entry.age)
        if at_once:
            self._end(opened)

    def _begin_forced(
        self, file: int, extent: tuple[int, int], marks_ago: int
    ) -> tuple[int, Drain, int]:
        span = self.spaces[file].span_of(*extent)
        assert list(range(*span)) == self.models[file].purgeable(*extent)
        return self._begin(file, [span], self.memory.newest_age - marks_ago)

    def _begin(self, file: int, spans: list[PageSpan], newest: int) -> tuple[int, Drain, int]:
        space = self.spaces[file]
        volatile = pages_of(space.volatile_spans())
        met = page_numbers(spans)
        opened = file, space.begin_purge(spans, newest), self.models[file].begin_purge(met, newest)
        self.witnesses[file].purge_began(opened[1], set(met), volatile)
        self.open.append(opened)
        return opened

    def _end(self, opened: tuple[int, Drain, int]) -> None:
        file, drain, model_drain = opened
        self.open.remove(opened)
        self.spaces[file].end_purge(drain)
        self.models[file].end_purge(model_drain)
        self.witnesses[file].purge_ended(drain)

    # ---- what holds after every step ----

    @invariant()
    def a_purged_page_is_never_reported_intact(self) -> None:
        for witness in self.witnesses:
            witness.check_never_reported_intact()

    @invariant()
    def an_intact_page_is_never_lost(self) -> None:
        for witness in self.witnesses:
            witness.check_never_lost()

    @invariant()
    def all_else_is_as_in_the_model(self) -> None:
        for space, model in zip(self.spaces, self.models, strict=True):
            space.check()
            self._compare_pages(space, model)
            self._compare_spans(space, model)
            self._compare_next(space, model)
        self._compare_counts()
        self._compare_queue()

    @invariant()
    def the_purger_is_woken_when_there_is_work(self) -> None:
        pressed = self.memory.excess > 0 and len(self.memory.queue) > 0
        assert self.woken or self.pressed or not pressed
        self.pressed, self.woken = pressed, False

    @staticmethod
    def _compare_pages(space: AddressSpace, model: ModelFile) -> None:
        assert space.size == model.size
        assert set(space.resident) == {n for n, page in model.pages.items() if page.resident}
        whole = outcome(partial(space.read, 0, space.size))
        assert whole == outcome(partial(model.read, 0, model.size))
        for number in range(MAX_PAGES + 1):
            offset = number * PAGE_SIZE
            there = outcome(partial(space.read, offset, PAGE_SIZE))
            assert there == outcome(partial(model.read, offset, PAGE_SIZE))
            draining = bool(model.page(number).drains)
            assert space.draining(PageSpan(number, number + 1)) == draining

    @staticmethod
    def _compare_spans(space: AddressSpace, model: ModelFile) -> None:
        assert list(space.volatile_spans()) == model.volatile_spans()
        assert list(space.purged_spans()) == model.purged_spans()
        assert list(space.lost_spans()) == model.lost_spans()

    @staticmethod
    def _compare_next(space: AddressSpace, model: ModelFile) -> None:
        """NEXT lists every run, and comes to an end."""
        start = 0
        for _ in range(MAX_PAGES + 1):
            run = outcome(partial(space.next_run, start))
            assert run == outcome(partial(model.next_run, start))
            if isinstance(run, str):
                return
            start = run.start + run.length
        raise AssertionError("NEXT does not come to an end")

    def _compare_counts(self) -> None:
        memory, model = self.memory, self.model_memory
        assert memory.resident == model.resident
        assert memory.volatile == model.volatile
        assert memory.ranges == sum(len(space.volatility.ranges) for space in self.spaces)
        assert memory.purged == model.purged
        assert memory.purged_ever == model.purged_ever
        assert memory.highest_resident == model.highest_resident
        assert (memory.excess, memory.room) == (model.excess, model.room)

    def _compare_queue(self) -> None:
        assert [(entry.space.ino, list(range(*entry.span))) for entry in self.memory.queue] == [
            (file.ino, run) for file, run in self.model_memory.queue()
        ]


class OnFakeStore(Machine):
    def make_stores(self) -> Callable[[], PageStore]:
        return FakeStore

    @precondition(lambda self: self.memory.volatile > 0)
    @rule(file=files, extent=ranges, cut=borders, frees=st.integers(0, 2))
    def unmark_in_steps(self, file: int, extent: tuple[int, int], cut: int, frees: int) -> None:
        """As the daemon does it for very many ranges; the store may refuse to free something."""
        space = self.spaces[file]
        assert isinstance(space.store, FakeStore)
        for opened in [opened for opened in self.open if opened[0] == file]:
            self._end(opened)
        before = list(space.purged_spans())
        store = space.store
        store.frees = frees
        with contextlib.suppress(OSError):
            for step in (extent, (cut, 0)):
                space.clean_for_unmark([step])
                space.end_intact(*step)
        store.frees = None
        assert list(space.purged_spans()) == before, "nobody was told of them"
        for step in (extent, (cut, 0)):
            self.unmark_many(file, [step])

    @invariant()
    def the_store_holds_the_resident_pages_and_no_more(self) -> None:
        for space in self.spaces:
            assert isinstance(space.store, FakeStore)
            assert set(space.store.pages) == set(space.resident)


class OnArena(Machine):
    """With chunks of two pages, so that hardly anything stays within one."""

    def make_stores(self) -> Callable[[], PageStore]:
        self.small_chunks = mock.patch.object(arena, "_CHUNK", 2 * PAGE_SIZE)
        self.small_chunks.start()
        self.arena = arena.Arena()
        return self.arena.make_store

    def teardown(self) -> None:
        self.arena.close()
        self.small_chunks.stop()


TestOnFakeStore = OnFakeStore.TestCase
TestOnArena = OnArena.TestCase
