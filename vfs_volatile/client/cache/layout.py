"""What is where in the file of a cache, and what it looks like there. Pure.

::

    0       constants: magic, version, geometry, checksum       never changes
    128     state: clock, and for each priority the segment that is being filled
    4096    ages: for each segment, when it was taken, and its priority
    ..      index: buckets of 16 slots
    ..      segments

All numbers are little-endian. Each part begins at a page. A store that lies in one page is never
left half done by a process that dies; it may be *seen* half done.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import NamedTuple, Self

from vfs_volatile.abi.ioctls import PRIORITY_MAX
from vfs_volatile.errors import CacheFormatError
from vfs_volatile.units import PAGE_SIZE

PRIORITIES = PRIORITY_MAX + 1
STATE_AT = 128
HEAD_BYTES = 512
"""Constants and state: what a writer reads first."""
SLOTS = 16
"""Slots of a bucket. With 16 a key seldom finds its bucket full before most of the index is."""
RECORD_ALIGNMENT = 16
MAX_SIZE = RECORD_ALIGNMENT << 32
"""Bytes that 32 bits of units reach."""

_MAGIC = b"vfsVCACH"
_VERSION = 1
_CONSTANTS = struct.Struct("<8sIIQQQ")
_CHECK_BYTES = 8
_STATE = struct.Struct(f"<Q{3 * PRIORITIES}I")
_AGE = struct.Struct("<Q")
_SLOT = struct.Struct("<8s8sIIII")
_SLOT_PLACE = struct.Struct("<8x8sII")

SLOT_BYTES = _SLOT.size
BUCKET_BYTES = SLOTS * SLOT_BYTES

_LEAST_SEGMENT = 16 * PAGE_SIZE
_MOST_SEGMENT = 1 << 20
_SEGMENTS_WANTED = 64
"""Segments are smaller than 1 MiB rather than fewer than this."""
LEAST_SIZE = 16 * _LEAST_SEGMENT
_LARGE_PARTS = 9
"""A value takes a ninth of the segments at most: at least one such run is not being filled then."""
_MOST_RECORD = 1 << 30
_ENTRY_BYTES = PAGE_SIZE
"""Room in the index for so many bytes of values: fits entries of half this size and more."""


class Geometry:
    """The sizes of the parts, and where they are."""

    def __init__(self, segment_bytes: int, segments: int, buckets: int) -> None:
        self.segment_bytes = segment_bytes
        self.segments = segments
        self.buckets = buckets
        self.size = segments * segment_bytes
        """Bytes for records."""
        self.longest_record = min(segments // _LARGE_PARTS * segment_bytes, _MOST_RECORD)
        self.ages_at = PAGE_SIZE
        self.index_at = _page_up(self.ages_at + segments * _AGE.size)
        self.index_end = self.index_at + buckets * BUCKET_BYTES
        self.segments_at = _page_up(self.index_end)
        self.file_bytes = self.segments_at + self.size
        self.constants = self._constants()
        """How the file begins: STATE_AT bytes."""

    @classmethod
    def of(cls, size: int, entries: int | None) -> Self:
        """For ``size`` bytes of records and an index of ``entries`` slots. Raises ValueError."""
        if not LEAST_SIZE <= size <= MAX_SIZE:
            raise ValueError(f"size {size} is not between {LEAST_SIZE} and {MAX_SIZE} bytes")
        if entries is None:
            entries = size // _ENTRY_BYTES
        if entries < 1:
            raise ValueError(f"entries {entries} is less than 1")
        wanted = size // _SEGMENTS_WANTED // PAGE_SIZE * PAGE_SIZE
        segment = max(_LEAST_SEGMENT, min(wanted, _MOST_SEGMENT))
        return cls(segment, size // segment, -(-entries // SLOTS))

    @classmethod
    def read(cls, head: bytes) -> Self:
        """What the constants say. Raises CacheFormatError for what is none of ours."""
        packed, check = head[: _CONSTANTS.size], head[_CONSTANTS.size :][:_CHECK_BYTES]
        if not packed.startswith(_MAGIC):
            raise CacheFormatError("is not the file of a VolatileCache")
        if sha256(packed).digest()[:_CHECK_BYTES] != check:
            raise CacheFormatError("is damaged: the checksum of its head is wrong")
        _, version, page, segment, segments, buckets = _CONSTANTS.unpack(packed)
        if version != _VERSION or page != PAGE_SIZE:
            raise CacheFormatError(
                f"is a cache of version {version} for pages of {page} bytes;"
                f" this is version {_VERSION} for pages of {PAGE_SIZE}"
            )
        return cls(segment, segments, buckets)

    def segment_at(self, segment: int) -> int:
        return self.segments_at + segment * self.segment_bytes

    def bucket_at(self, number: int) -> int:
        """Of any number, as a hash is."""
        return self.index_at + number % self.buckets * BUCKET_BYTES

    def _constants(self) -> bytes:
        numbers = self.segment_bytes, self.segments, self.buckets
        packed = _CONSTANTS.pack(_MAGIC, _VERSION, PAGE_SIZE, *numbers)
        return (packed + sha256(packed).digest()[:_CHECK_BYTES]).ljust(STATE_AT, b"\0")


class Filling(NamedTuple):
    """The segment that takes the records of one priority; plain memory from ``marked`` on."""

    segment: int
    used: int
    """Bytes handed out to records."""
    marked: int
    """Bytes marked volatile: whole pages, none of which is ever written again."""


class State:
    """What writers hand to each other."""

    def __init__(self, clock: int, filling: list[Filling | None]) -> None:
        self.clock = clock
        """Counts the sets: ages of slots and segments."""
        self.filling = filling
        """By priority."""

    @classmethod
    def unpack(cls, head: bytes) -> Self:
        clock, *numbers = _STATE.unpack_from(head, STATE_AT)
        return cls(
            clock,
            [
                Filling(numbers[at] - 1, numbers[at + 1], numbers[at + 2]) if numbers[at] else None
                for at in range(0, 3 * PRIORITIES, 3)
            ],
        )

    def check(self, geometry: Geometry) -> None:
        """Raise CacheFormatError for what no writer leaves."""
        for filling in self.filling:
            if filling is not None and not (
                filling.segment < geometry.segments
                and filling.marked <= filling.used <= geometry.segment_bytes
            ):
                raise CacheFormatError("is damaged: it fills a segment that there is not")

    def pack(self) -> bytes:
        numbers: list[int] = []
        for filling in self.filling:
            if filling is None:
                numbers += (0, 0, 0)
            else:
                numbers += (filling.segment + 1, filling.used, filling.marked)
        return _STATE.pack(self.clock, *numbers)


class Age(NamedTuple):
    """Of a segment; the order of the mount: what may go first is less."""

    taken: bool
    """False if it was never used."""
    priority: int
    clock: int


def pack_age(age: Age) -> bytes:
    return _AGE.pack((age.clock << 4 | age.priority << 1 | age.taken) & 0xFFFF_FFFF_FFFF_FFFF)


def unpack_ages(packed: bytes) -> list[Age]:
    return [
        Age(bool(number & 1), number >> 1 & PRIORITY_MAX, number >> 4)
        for (number,) in _AGE.iter_unpack(packed)
    ]


class Slot(NamedTuple):
    """Where the record of a key is."""

    tag: bytes
    """8 bytes of the key's hash; zeros in a free slot."""
    checksum: bytes
    """8 bytes of the SHA-256 of the whole record."""
    unit: int
    """Offset in the file / RECORD_ALIGNMENT."""
    length: int
    """Bytes of the record."""
    clock: int
    """When it was set: 32 bits of State.clock."""
    priority: int

    @classmethod
    def unpack(cls, bucket: bytes, at: int = 0) -> Self:
        return cls._make(_SLOT.unpack_from(bucket, at))

    def pack(self) -> bytes:
        return _SLOT.pack(*self)


FREE_TAG = bytes(8)
NO_SLOT = bytes(SLOT_BYTES)


def read_slot(bucket: bytes, at: int) -> tuple[bytes, int, int]:
    """(checksum, unit, length) of a slot: all that a get needs, at half the cost."""
    found: tuple[bytes, int, int] = _SLOT_PLACE.unpack_from(bucket, at)
    return found


def find_slot(bucket: bytes, tag: bytes) -> int:
    """Where in ``bucket`` the slot with ``tag`` begins; -1 for none."""
    at = bucket.find(tag)
    while at % SLOT_BYTES and at >= 0:  # these bytes, but not as a tag
        at = bucket.find(tag, at + 1)
    return at


def choose_slot(bucket: bytes, tag: bytes, clock: int) -> int:
    """The slot for a new record of ``tag``: its own, a free one, or that of least worth."""
    for wanted in (tag, FREE_TAG):
        at = find_slot(bucket, wanted)
        if at >= 0:
            return at
    return min(range(0, BUCKET_BYTES, SLOT_BYTES), key=lambda at: _worth(bucket, at, clock))


def _worth(bucket: bytes, at: int, clock: int) -> tuple[int, int]:
    """Priority, then youth: clocks of 32 bits go round."""
    slot = Slot.unpack(bucket, at)
    return slot.priority, -((clock - slot.clock) & 0xFFFF_FFFF)


def _page_up(offset: int) -> int:
    return -(-offset // PAGE_SIZE) * PAGE_SIZE
