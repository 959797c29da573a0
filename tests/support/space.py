"""One file without a mount: an address_space on a store that can be made to fail."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.stores import FakeStore
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.core.page_state import Run
from vfs_volatile.core.range_state import Drain
from vfs_volatile.errors import SyscallError
from vfs_volatile.units import PAGE_SIZE

P = PAGE_SIZE
ZEROS = bytes(P)


class File(AddressSpace):
    """Page 0 is full of a, page 1 of b, and so on; the only file of a mount of ``size`` pages."""

    __slots__ = ()

    def __init__(self, pages: int = 0, *, size: int = 100, zero_by_default: bool = False) -> None:
        super().__init__(1, Memory(size, size, zero_by_default=zero_by_default), FakeStore())
        for page in range(pages):
            self.write(page * P, letter(page) * P)

    @property
    def fake(self) -> FakeStore:
        assert isinstance(self.store, FakeStore)
        return self.store

    def begin(self, start: int = 0, length: int = 0) -> Drain:
        """Begin a forced purge of bytes."""
        return self.begin_purge([self.span_of(start, length)], self.memory.newest_age)

    def purge(self, start: int = 0, length: int = 0) -> None:
        self.end_purge(self.begin(start, length))

    def intact(self, *pages: int) -> bool:
        """Are these pages as they were written at first?"""
        return all(self.read(page * P, P) == letter(page) * P for page in pages)

    def every_run(self) -> list[Run]:
        """All that NEXT tells."""
        found: list[Run] = []
        start = 0
        while True:
            try:
                run = self.next_run(start)
            except SyscallError as error:
                assert error.errno == errno.ENXIO
                return found
            assert run.start + run.length > start, "NEXT does not come to an end"
            start = run.start + run.length
            found.append(run)


def letter(page: int) -> bytes:
    return bytes([ord("a") + page])


def fails(number: int, call: Callable[..., Any], *args: Any, **options: Any) -> None:
    """``call`` raises SyscallError with this errno."""
    with pytest.raises(SyscallError) as failure:
        call(*args, **options)
    assert failure.value.errno == number


def refused(number: int, call: Callable[..., Any], *args: Any, **options: Any) -> None:
    """``call`` raises OSError with this errno: the store would not do it."""
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        call(*args, **options)


def sought(space: AddressSpace, offset: int, whence: int, steps: list[None] | None = None) -> int:
    """What lseek(2) answers; ``steps`` gets an entry for each turn of others."""
    seeking = space.seeking(offset, whence)
    while True:
        try:
            turn = next(seeking)
        except StopIteration as found:
            return int(found.value)
        if steps is not None:
            steps.append(turn)


def every_second_page_purged(number: int) -> File:
    """A file of ``number`` ranges of a page each, purged, and as many pages between them."""
    made = File(size=4 * number)
    made.truncate(2 * number * P)
    for page in range(0, 2 * number, 2):
        made.write(page * P, b"x" * P)
        made.mark(page * P, P, 0)
    made.purge()
    return made
