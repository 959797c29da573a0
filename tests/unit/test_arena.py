"""The arena of page data against a plain dict of pages, and where its memory goes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.stores import FakeStore
from vfs_volatile.core.pages import MAX_BYTES, PageSpan
from vfs_volatile.store import arena as arena_module
from vfs_volatile.store.arena import CHUNKS_AT_ONCE, Arena, ArenaStore
from vfs_volatile.units import PAGE_SIZE

P = PAGE_SIZE
CHUNK = arena_module._CHUNK
CHUNK_PAGES = CHUNK // P
TERA = 1 << 40


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena()
    yield made
    made.close()


@pytest.fixture
def store(arena: Arena) -> ArenaStore:
    return arena.make_store()


def held(arena: Arena) -> int:
    """Pages of memory that the arena holds."""
    return os.fstat(arena.fd).st_blocks * 512 // P


# ---- against the fake ----

near = st.builds(
    lambda page, delta: max(0, page * P + delta), st.integers(0, 6), st.sampled_from([0, 0, 1, -1])
)
steps = st.tuples(
    st.sampled_from(["write", "zero", "drop", "truncate", "allocate"]),
    st.integers(0, 1),
    near,
    near,
)


@given(st.lists(steps, max_size=20))
def test_two_files_hold_what_two_dicts_hold(todo: list[tuple[str, int, int, int]]) -> None:
    """With chunks of two pages, so that most of it crosses a border."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arena_module, "_CHUNK", 2 * P)
        arena = Arena()
        files = [(arena.make_store(), FakeStore()) for _ in range(2)]
        for tag, (name, file, one, other) in enumerate(todo, start=1):
            for store in files[file]:
                _do(store, name, min(one, other), max(one, other), bytes([tag]))
        for store, fake in files:
            assert store.read(0, 8 * P) == fake.read(0, 8 * P)
            for offset in range(0, 7 * P, P // 2):
                assert store.read(offset, P) == fake.read(offset, P)
        assert held(arena) <= sum(len(fake.pages) for _, fake in files)
        for store, _ in files:
            store.close()
        assert held(arena) == 0
        arena.close()


def _do(store: ArenaStore | FakeStore, name: str, start: int, end: int, byte: bytes) -> None:
    match name:
        case "write":
            store.write(start, byte * (end - start))
        case "zero":
            store.zero(start, end - start)
        case "drop":
            store.drop(PageSpan(start // P, end // P))
        case "truncate":
            store.truncate(start)
        case "allocate":
            # Only absent pages are ever allocated: so make them absent.
            span = PageSpan(start // P, end // P)
            store.drop(span)
            store.allocate(span)


# ---- borders of chunks ----


@pytest.mark.parametrize("offset", [CHUNK - 1, CHUNK - P, CHUNK - 3 * P - 5, 3 * CHUNK - 1])
def test_data_across_a_border(store: ArenaStore, offset: int) -> None:
    data = os.urandom(6 * P + 3)
    store.write(offset, data)
    assert store.read(offset, len(data)) == data
    assert store.read(offset - 2, len(data) + 4) == b"\0\0" + data + b"\0\0"


class LentBytes:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.moved = 0

    def __len__(self) -> int:
        return len(self._data)

    def fetch(self) -> memoryview:
        return memoryview(self._data)

    def move(self, fd: int, offset: int) -> int:
        self.moved = os.pwrite(fd, self._data, offset)
        return self.moved


@pytest.mark.parametrize(("offset", "moved"), [(0, 3 * P), (CHUNK - 3 * P, 3 * P), (CHUNK - P, 0)])
def test_lent_data_are_moved_into_a_chunk(store: ArenaStore, offset: int, moved: int) -> None:
    lent = LentBytes(os.urandom(3 * P))
    assert store.write(offset, lent) == 3 * P
    assert store.read(offset, 3 * P) == lent.fetch()
    assert lent.moved == moved


def test_data_over_many_chunks(store: ArenaStore) -> None:
    store.write(CHUNK - 1, memoryview(b"x" * (2 * CHUNK + 2)))
    assert store.read(CHUNK - 2, 3) == b"\0xx"
    assert store.read(3 * CHUNK - 1, 3) == b"xx\0"
    assert store.read(2 * CHUNK - 1, 2) == b"xx"


@pytest.mark.parametrize("before", [1, 2, P])
@pytest.mark.parametrize("after", [1, 2, P])
def test_neighbours_in_a_file_need_not_be_neighbours_in_the_arena(
    store: ArenaStore, before: int, after: int
) -> None:
    store.write(CHUNK, b"b" * P)
    store.write(CHUNK - P, b"a" * P)
    assert store.read(CHUNK - before, before + after) == b"a" * before + b"b" * after
    assert store.read(CHUNK - before, before) == b"a" * before


def test_zeroing_across_borders_leaves_the_bytes_around(arena: Arena, store: ArenaStore) -> None:
    store.write(0, b"x" * (2 * CHUNK))
    store.zero(CHUNK - 1, 2)
    assert store.read(CHUNK - 2, 4) == b"x\0\0x"
    assert held(arena) == 2 * CHUNK_PAGES
    store.drop(PageSpan(1, 2 * CHUNK_PAGES - 1))
    assert store.read(P - 1, 2) == b"x\0"
    assert store.read(2 * CHUNK - P - 1, 2) == b"\0x"
    assert held(arena) == 2


@pytest.mark.parametrize("size", [0, 1, P, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - P])
def test_truncate_frees_all_beyond(arena: Arena, store: ArenaStore, size: int) -> None:
    store.write(0, b"x" * (2 * CHUNK))
    store.truncate(size)
    assert held(arena) == -(-size // P)
    assert store.read(max(0, size - 1), 5) == (b"x" if size else b"") + bytes(5 - bool(size))
    assert store.read(size, 3 * CHUNK - size).count(0) == 3 * CHUNK - size


# ---- where memory goes ----


def test_what_was_never_stored_reads_zero_and_holds_nothing(
    arena: Arena, store: ArenaStore
) -> None:
    assert store.read(5 * TERA - 7, 3 * P) == bytes(3 * P)
    store.zero(0, TERA)
    store.drop(PageSpan(0, TERA // P))
    assert held(arena) == 0


def test_a_chunk_used_again_holds_nothing(arena: Arena) -> None:
    first = arena.make_store()
    first.write(0, b"secret" * P)
    first.write(5 * CHUNK, b"secret" * P)
    first.close()
    assert held(arena) == 0
    second = arena.make_store()
    second.write(7, b"x")
    second.write(CHUNK + 7, b"y")
    assert second.read(0, 2 * CHUNK).strip(b"\0").replace(b"\0", b"") == b"xy"
    assert arena._top == 2 * CHUNK, "freed chunks were not used again"


def test_files_do_not_see_each_other(arena: Arena) -> None:
    files = [arena.make_store() for _ in range(5)]
    for number, store in enumerate(files):
        store.write(CHUNK - 3, bytes([number + 1]) * 6)
    files[2].truncate(0)
    for number, store in enumerate(files):
        assert store.read(CHUNK - 3, 6) == (bytes([number + 1]) if number != 2 else b"\0") * 6


def test_allocated_pages_are_held_and_read_zero(arena: Arena, store: ArenaStore) -> None:
    store.allocate(PageSpan(CHUNK_PAGES - 2, CHUNK_PAGES + 3))
    assert held(arena) == 5
    assert store.read(CHUNK - 2 * P, 5 * P) == bytes(5 * P)
    store.drop(PageSpan(CHUNK_PAGES - 1, CHUNK_PAGES + 1))
    assert held(arena) == 3


@pytest.mark.parametrize("offset", [TERA, 5 * TERA + 3, MAX_BYTES - P])
def test_a_byte_at_terabytes_costs_a_page(arena: Arena, store: ArenaStore, offset: int) -> None:
    store.write(offset, b"far")
    assert store.read(offset - 1, 5) == b"\0far\0"
    assert held(arena) <= 2
    store.zero(1, offset)
    assert store.read(offset, 3) == b"\0ar"
    store.truncate(offset)
    assert held(arena) == (1 if offset % P else 0)
    store.truncate(1)
    assert held(arena) == 0


def test_a_store_that_cannot_hold_more_says_so(arena: Arena, store: ArenaStore) -> None:
    arena._top = (1 << 63) - 1
    with pytest.raises(OSError):  # noqa: PT011  # whichever errno memfds have for that
        store.write(0, b"x")


def test_many_chunks_are_freed_when_their_file_is_cut_already(
    arena: Arena, store: ArenaStore
) -> None:
    """In steps: gigabytes take half a second."""
    asked = []
    arena.when_left = lambda: asked.append(held(arena))
    number = 3 * CHUNKS_AT_ONCE
    for chunk in range(number):
        store.write(chunk * CHUNK, b"x")
    store.close()
    assert asked == [number]
    other = arena.make_store()
    other.write(0, b"y")
    assert other.read(0, P) == b"y".ljust(P, b"\0"), "a chunk was given that holds something"
    left = [held(arena)]
    while arena.free_some(CHUNKS_AT_ONCE):
        left.append(held(arena))
    assert left == [number + 1, number + 1 - CHUNKS_AT_ONCE, number + 1 - 2 * CHUNKS_AT_ONCE]
    assert held(arena) == 1
    other.close()
    assert held(arena) == 0


def test_what_the_system_does_not_free_now_goes_with_the_next(
    arena: Arena, store: ArenaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(offset: int, length: int) -> None:
        raise OSError

    number = CHUNKS_AT_ONCE + 1
    for chunk in range(number):
        store.write(chunk * CHUNK, b"x")
    other = arena.make_store()
    for chunk in range(number):
        other.write(chunk * CHUNK, b"x")
    with monkeypatch.context() as patch:
        patch.setattr(arena, "punch", refuse)
        store.close()
    assert held(arena) == 2 * number
    other.close()
    assert held(arena) == 0
