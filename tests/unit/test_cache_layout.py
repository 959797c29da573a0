"""What the file of a VolatileCache looks like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfs_volatile.client.cache.layout import (
    BUCKET_BYTES,
    FREE_TAG,
    LEAST_SIZE,
    MAX_SIZE,
    PRIORITIES,
    SLOT_BYTES,
    SLOTS,
    Age,
    Filling,
    Geometry,
    Slot,
    State,
    choose_slot,
    find_slot,
    pack_age,
    unpack_ages,
)
from vfs_volatile.errors import CacheFormatError
from vfs_volatile.units import PAGE_SIZE

GEOMETRY = Geometry.of(64 << 20, None)
TAG = b"12345678"


def slot(tag: bytes, clock: int = 0, priority: int = 0) -> bytes:
    return Slot(tag, b"checksum", 7, 100, clock, priority).pack()


@given(st.integers(LEAST_SIZE, MAX_SIZE), st.none() | st.integers(1, 1 << 30))
def test_the_parts_follow_each_other_and_are_read_back(size: int, entries: int | None) -> None:
    geometry = Geometry.of(size, entries)
    assert vars(Geometry.read(geometry.constants)) == vars(geometry)
    edges = [geometry.ages_at, geometry.index_at, geometry.segments_at, geometry.segment_bytes]
    assert edges[:3] == sorted(edges[:3])
    assert not any(edge % PAGE_SIZE for edge in edges)
    assert geometry.ages_at + 8 * geometry.segments <= geometry.index_at
    assert geometry.bucket_at(-1 % (1 << 64)) + BUCKET_BYTES <= geometry.segments_at
    assert geometry.bucket_at(geometry.buckets - 1) + BUCKET_BYTES <= geometry.segments_at
    assert geometry.segment_at(geometry.segments) == geometry.file_bytes
    assert geometry.size <= size < geometry.size + geometry.segment_bytes
    assert geometry.segments // PRIORITIES >= 2
    if entries is not None:
        assert geometry.buckets * SLOTS >= entries


@pytest.mark.parametrize(
    ("size", "entries", "why"),
    [(LEAST_SIZE - 1, None, "size"), (MAX_SIZE + 1, None, "size"), (LEAST_SIZE, 0, "entries")],
)
def test_sizes_that_make_no_cache_are_refused(size: int, entries: int | None, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Geometry.of(size, entries)


@pytest.mark.parametrize("at", range(48))
def test_a_head_with_one_wrong_byte_is_refused(at: int) -> None:
    head = bytearray(GEOMETRY.constants)
    head[at] ^= 1
    with pytest.raises(CacheFormatError):
        Geometry.read(bytes(head))


def test_a_state_comes_back_as_it_was() -> None:
    filling: list[Filling | None] = [None] * PRIORITIES
    filling[3] = Filling(0, 32, 0)
    filling[7] = Filling(5, 8192, 4096)
    state = State(1 << 40, filling)
    found = State.unpack(GEOMETRY.constants + state.pack())
    assert (found.clock, found.filling) == (state.clock, state.filling)
    found.check(GEOMETRY)


@pytest.mark.parametrize(
    "filling",
    [
        Filling(GEOMETRY.segments, 0, 0),
        Filling(0, GEOMETRY.segment_bytes + 16, 0),
        Filling(0, 0, 16),
    ],
)
def test_a_state_that_no_writer_leaves_is_refused(filling: Filling) -> None:
    with pytest.raises(CacheFormatError, match="damaged"):
        State(0, [filling]).check(GEOMETRY)


def test_ages_are_in_the_order_of_the_mount() -> None:
    ages = [
        Age(taken=False, priority=0, clock=0),
        Age(taken=True, priority=0, clock=1),
        Age(taken=True, priority=0, clock=2),
        Age(taken=True, priority=7, clock=1),
    ]
    assert unpack_ages(b"".join(map(pack_age, ages))) == ages
    assert [number for _, number in sorted(zip(ages, range(4), strict=True))] == [0, 1, 2, 3]


def test_a_slot_is_found_by_its_tag_and_by_nothing_that_looks_like_it() -> None:
    liar = Slot(b"another!", TAG, 7, 100, 0, 0).pack()
    bucket = (liar + slot(TAG)).ljust(BUCKET_BYTES, b"\0")
    assert find_slot(bucket, TAG) == SLOT_BYTES
    assert find_slot(liar.ljust(BUCKET_BYTES, b"\0"), TAG) == -1
    assert find_slot(bytes(BUCKET_BYTES), TAG) == -1


def test_a_key_keeps_its_slot_also_when_others_are_free() -> None:
    bucket = (slot(FREE_TAG) + slot(TAG)).ljust(BUCKET_BYTES, b"\0")
    assert choose_slot(bucket, TAG, 9) == SLOT_BYTES


def test_a_new_key_takes_a_free_slot() -> None:
    bucket = (slot(b"another!") + slot(b"one more")).ljust(BUCKET_BYTES, b"\0")
    assert choose_slot(bucket, TAG, 9) == 2 * SLOT_BYTES


def test_in_a_full_bucket_the_oldest_of_the_lowest_priority_goes() -> None:
    slots = [slot(b"tag %4d" % n, clock=n, priority=1) for n in range(SLOTS)]
    assert choose_slot(b"".join(slots), TAG, SLOTS) == 0
    slots[9] = slot(b"younger!", clock=SLOTS, priority=0)
    assert choose_slot(b"".join(slots), TAG, SLOTS) == 9 * SLOT_BYTES


def test_the_oldest_is_known_when_the_clock_has_gone_round() -> None:
    young, old = slot(b"young...", clock=5), slot(b"old.....", clock=(1 << 32) - 5)
    assert choose_slot(young * (SLOTS - 1) + old, TAG, 6) == (SLOTS - 1) * SLOT_BYTES
