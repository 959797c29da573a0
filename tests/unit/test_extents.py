"""Where the bytes of a file lie, and what may be read around them."""

from __future__ import annotations

import errno
import os

from hypothesis import given
from hypothesis import strategies as st

from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.errors import SyscallError
from vfs_volatile.store.arena import Arena
from vfs_volatile.units import PAGE_SIZE

P = PAGE_SIZE
SPANS = st.one_of(
    st.tuples(st.integers(0, 8).map(P.__mul__), st.integers(1, 8).map(P.__mul__)),
    st.tuples(st.integers(0, 8 * P), st.integers(1, 8 * P)),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "truncate", "mark and purge", "unmark"]),
        SPANS,
    ),
    max_size=12,
)


@given(STEPS)
def test_what_is_around_an_extent_reads_as_reading_it_would(
    steps: list[tuple[str, tuple[int, int]]],
) -> None:
    arena = Arena()
    space = AddressSpace(1, Memory(100, 100), arena.make_store())
    other = arena.make_store()
    for number, (step, (start, length)) in enumerate(steps, 1):
        match step:
            case "write":
                _try_write(space, start, bytes([number]) * length)
            case "truncate":
                space.truncate(start)
                other.write(0, b"o" * P)
            case "mark and purge":
                space.mark(start, length, 0)
                drain = space.begin_purge([space.span_of(start, length)], space.memory.newest_age)
                space.end_purge(drain)
            case "unmark":
                space.unmark(start, length)
        for offset in range(0, space.size, P):
            _check(space, offset)
    space.close()
    other.close()
    arena.close()


def _try_write(space: AddressSpace, start: int, data: bytes) -> None:
    try:
        space.write(start, data)
    except SyscallError as error:
        assert error.errno == errno.ENODATA  # a purged page, in part


def _check(space: AddressSpace, offset: int) -> None:
    try:
        found = space.locate(offset, P)
    except SyscallError:
        return
    if found is None:
        return
    start = offset - found.before
    length = found.before + found.length + found.after
    assert start >= 0
    assert start + length <= space.size
    assert os.pread(found.fd, length, found.offset - found.before) == space.read(start, length)
