"""VolatileCache, the mapping itself."""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Callable, Hashable, Iterator
from hashlib import sha256
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from vfs_volatile.client.cache.codec import (
    decode_key,
    decode_value,
    encode_key,
    encode_value,
)
from vfs_volatile.client.cache.layout import (
    BUCKET_BYTES,
    FREE_TAG,
    NO_SLOT,
    PRIORITIES,
    RECORD_ALIGNMENT,
    SLOT_BYTES,
    STATE_AT,
    Slot,
    State,
    choose_slot,
    find_slot,
    read_slot,
)
from vfs_volatile.client.cache.shared_file import SharedFile

T = TypeVar("T")
_MISSING = object()
_TAG_BYTES = 8
_CHECKSUM_BYTES = 8


class CacheStats(NamedTuple):
    """What this object has seen since it was made."""

    hits: int
    misses: int
    lost: int
    """Looks at a key that found its data gone: dropped by the mount, or written over."""
    sets: int


class VolatileCache:
    """A mapping in a file of a mount, shared between processes, whose entries may vanish.

    ::

        with VolatileCache("/mnt/cache") as cache:
            cache["answer"] = 42
            cache.get("answer")                      # 42, or None if the mount dropped it
            cache.get_or_create(url, lambda: fetch(url))

    Keys are bytes, str, int, float, bool, None and tuples of these; 1, 1.0 and True are three keys.
    Values that are not bytes are pickled: **who may write the file can run code in whoever
    reads it**; it is made for its owner alone (mode 0600).

    All methods may be called from several threads and processes, and from children after fork.
    They raise OSError when the mount is gone (ENOTCONN), and ValueError after :meth:`close`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        size: int | None = None,
        entries: int | None = None,
    ) -> None:
        """Open the cache in file ``path`` or, if that is a directory, in ``path/volatile.cache``.

        What is not there is made: for ``size`` bytes (default 1 GiB) and about ``entries`` keys
        (default: one for 4 KiB of size). The file takes memory as it fills; what the mount's
        budget does not allow is dropped. An index of 32 bytes a key is not.

        Raises OSError (ENOTTY: not on a vfs-volatile mount), CacheFormatError (a file that is no
        cache, or damaged), ValueError (size or entries that it was not made with).
        """
        self._file = SharedFile(os.fspath(path), size, entries)
        self._geometry = self._file.geometry
        self._longest_record = self._file.geometry.longest_record
        self._read = self._file.memory.read
        self._hits = self._misses = self._lost = self._sets = 0
        # The collector may run it in the midst of a set through another object for the same file:
        # to wait for that would be to wait for ever.
        self._finalizer = weakref.finalize(self, self._file.close, wait=False)

    @property
    def path(self) -> str:
        """The file."""
        return self._file.path

    @property
    def size(self) -> int:
        """Bytes for entries; a single one may take a ninth of it, and 1 GiB."""
        return self._geometry.size

    # ---- one key ----

    def get(self, key: Hashable, default: Any = None) -> Any:
        """The value of ``key``, or ``default``."""
        found = self._find(encode_key(key))
        return default if found is None else decode_value(*found)

    def __getitem__(self, key: Hashable) -> Any:
        found = self._find(encode_key(key))
        if found is None:
            raise KeyError(key)
        return decode_value(*found)

    def __contains__(self, key: Hashable) -> bool:
        """Is it there now? It may be gone when it is asked for."""
        return self._find(encode_key(key)) is not None

    def set(self, key: Hashable, value: Any, *, priority: int = 0) -> None:
        """Store ``value``; when this returns no process gets an older one.

        ``priority`` 0 to 7: entries of 0 are dropped first. Raises ValueError (too large).
        """
        prefix = encode_key(key)
        kind, body = encode_value(value)
        with self._file.writing() as state:
            self._put(state, prefix, (kind, body), priority)

    def __setitem__(self, key: Hashable, value: Any) -> None:
        self.set(key, value)

    def add(self, key: Hashable, value: Any, *, priority: int = 0) -> bool:
        """Store ``value`` if ``key`` is not there. Returns whether it was stored."""
        prefix = encode_key(key)
        kind, body = encode_value(value)
        with self._file.writing() as state:
            if self._look(prefix) is not None:
                return False
            self._put(state, prefix, (kind, body), priority)
        return True

    def get_or_create(self, key: Hashable, builder: Callable[[], T], *, priority: int = 0) -> T:
        """The value of ``key``; if it is not there, that of ``builder()``, which is stored.

        At any time one thread of one process builds for a key; others wait for it. When it
        raises, or its process dies, the next one builds. A value too large to be stored is
        returned all the same. Two builders that ask for each other's keys wait forever; one that
        asks for its own raises RuntimeError.
        """
        prefix = encode_key(key)
        found = self._find(prefix)
        if found is not None:
            return decode_value(*found)  # type: ignore[no-any-return]  # whatever was stored
        with self._file.building(sha256(prefix).digest()[2 * _TAG_BYTES :]):
            found = self._look(prefix)
            if found is not None:
                return decode_value(*found)  # type: ignore[no-any-return]
            value = builder()
            kind, body = encode_value(value)
            if self._length(prefix, body) <= self._longest_record:
                with self._file.writing() as state:
                    self._put(state, prefix, (kind, body), priority)
            return value

    def touch(self, key: Hashable) -> bool:
        """Store the entry anew, so that it is among the last of its priority to be dropped.

        Returns False if it is gone.
        """
        prefix = encode_key(key)
        tag, bucket_at = self._place_of(prefix)
        with self._file.writing() as state:
            bucket = self._bucket(bucket_at)
            found = self._look(prefix)
            at = find_slot(bucket, tag)
            if found is None or at < 0:
                return False
            record, start = found
            value = record[start : start + 1], record[start + 1 :]
            self._put(state, prefix, value, Slot.unpack(bucket, at).priority)
        return True

    def pop(self, key: Hashable, default: Any = None) -> Any:
        """Take the entry out, and return its value, or ``default``."""
        found = self._take(encode_key(key))
        return default if found is None else decode_value(*found)

    def delete(self, key: Hashable) -> bool:
        """Take the entry out. Returns whether it was there."""
        return self._take(encode_key(key)) is not None

    def __delitem__(self, key: Hashable) -> None:
        if not self.delete(key):
            raise KeyError(key)

    # ---- all keys ----

    def __iter__(self) -> Iterator[Hashable]:
        """The keys that are there, in no order. Reads every entry."""
        index = range(self._geometry.index_at, self._geometry.index_end, BUCKET_BYTES)
        for bucket_at in index:
            bucket = self._bucket(bucket_at)
            for at in range(0, len(bucket), SLOT_BYTES):
                free = bucket.startswith(FREE_TAG, at)
                record = None if free else self._record(bucket, at)
                if record is not None:
                    yield decode_key(record)

    def __len__(self) -> int:
        """How many entries are there now. Reads every entry."""
        return sum(1 for _ in self)

    def clear(self) -> None:
        """Take all entries out, and give their memory back."""
        with self._file.writing() as state:
            self._file.clear(state)

    # ---- the object ----

    def stats(self) -> CacheStats:
        """Counts of this object; threads that count at the same time may lose one."""
        return CacheStats(self._hits, self._misses, self._lost, self._sets)

    def close(self) -> None:
        """Mark what was written as volatile, and let go of the file. Twice is once."""
        self._finalizer.detach()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        """Pickled, it is opened by whoever unpickles it."""
        return type(self), (self.path,)

    # ---- helpers ----

    def _find(self, prefix: bytes) -> tuple[bytes, int] | None:
        """As :meth:`_look`, and count."""
        found = self._look(prefix)
        if found is None:
            self._misses += 1
        else:
            self._hits += 1
        return found

    def _look(self, prefix: bytes) -> tuple[bytes, int] | None:
        """(record, where its value begins) of the key that ``prefix`` encodes."""
        tag, bucket_at = self._place_of(prefix)
        bucket = self._bucket(bucket_at)
        while (at := find_slot(bucket, tag)) >= 0:
            record = self._record(bucket, at)
            if record is not None and record.startswith(prefix):
                return record, len(prefix)
            before, bucket = bucket, self._bucket(bucket_at)
            if bucket == before:  # else a writer was at it while we looked
                self._lost += 1
                return None
        return None

    def _record(self, bucket: bytes, at: int) -> bytes | None:
        """The bytes that the slot at ``at`` names, if they are what was stored for it."""
        checksum, unit, length = read_slot(bucket, at)
        if length > self._longest_record:
            return None
        record = self._read(unit * RECORD_ALIGNMENT, length)
        return record if sha256(record).digest()[:_CHECKSUM_BYTES] == checksum else None

    def _bucket(self, at: int) -> bytes:
        bucket = self._read(at, BUCKET_BYTES)
        return bucket if len(bucket) == BUCKET_BYTES else bytes(BUCKET_BYTES)

    def _place_of(self, prefix: bytes) -> tuple[bytes, int]:
        """(tag, offset of the bucket) of a key."""
        hashed = sha256(prefix).digest()
        number = int.from_bytes(hashed[_TAG_BYTES : 2 * _TAG_BYTES], "little")
        return hashed[:_TAG_BYTES], self._geometry.bucket_at(number)

    def _put(self, state: State, prefix: bytes, value: tuple[bytes, bytes], priority: int) -> None:
        """Store an entry, as a writer. Its slot comes last: it makes the old entry unreachable."""
        if not 0 <= priority < PRIORITIES:
            raise ValueError(f"priority {priority} is not between 0 and {PRIORITIES - 1}")
        kind, body = value
        length = self._length(prefix, body)
        if length > self._longest_record:
            raise ValueError(
                f"a value of {len(body)} bytes is too large;"
                f" a cache of this size takes {self._longest_record} bytes at most"
            )
        state.clock += 1
        offset, to_mark = self._file.log.place(state, length, priority)
        tag, bucket_at = self._place_of(prefix)
        hashed = sha256(prefix + kind)
        hashed.update(body)
        unit, clock = offset // RECORD_ALIGNMENT, state.clock & 0xFFFF_FFFF
        slot = Slot(tag, hashed.digest()[:_CHECKSUM_BYTES], unit, length, clock, priority)
        slot_at = bucket_at + choose_slot(self._bucket(bucket_at), tag, slot.clock)
        try:
            self._file.store(
                [
                    (STATE_AT, [state.pack()]),
                    (offset, [prefix, kind, body]),
                    (slot_at, [slot.pack()]),
                ]
            )
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self._forget(slot_at)  # an entry that was dropped as soon as it was set
        if to_mark is not None:
            self._file.log.mark(to_mark, priority)
        self._sets += 1

    def _take(self, prefix: bytes) -> tuple[bytes, int] | None:
        """Find an entry, and make it unreachable."""
        tag, bucket_at = self._place_of(prefix)
        with self._file.writing():
            found = self._look(prefix)
            at = find_slot(self._bucket(bucket_at), tag)
            if at >= 0:
                self._forget(bucket_at + at)
        return found

    def _forget(self, slot_at: int) -> None:
        """Make an entry unreachable, as a writer. Its page is there, or has no entries."""
        if any(self._read(slot_at, SLOT_BYTES)):
            self._file.store([(slot_at, [NO_SLOT])])

    @staticmethod
    def _length(prefix: bytes, body: bytes) -> int:
        return len(prefix) + 1 + len(body)
