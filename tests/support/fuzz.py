"""What clients may send, decoded and carried out on a file that exists in memory alone.

    python -m tests.support.fuzz [options of libFuzzer]     # atheris: by coverage, for hours

``make fuzz`` runs that; a test runs :func:`one_input` on random bytes.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from importlib import import_module
from typing import Any

from tests.support.stores import FakeStore
from vfs_volatile.abi import ioctls, xattrs
from vfs_volatile.abi.ioctls import FvrangeArgs, FvrangeInfo, FvrangeVec
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.memory import Memory
from vfs_volatile.errors import SyscallError
from vfs_volatile.fs.control import check_range
from vfs_volatile.units import PAGE_SIZE, parse_size

PAGES = 8
_VEC_BYTES = 24 + ioctls.VEC_MAX * 24


def one_input(data: bytes) -> None:
    """The first byte chooses how the others come in. Raises whatever is a bug."""
    space = AddressSpace(1, Memory(100, 100), FakeStore())
    space.write(0, b"x" * (PAGES * PAGE_SIZE - 100))
    kind, raw = data[:1], data[1:]
    with contextlib.suppress(SyscallError):
        match kind[0] % 4 if kind else 0:
            case 0:
                _args(space, raw[:32].ljust(32, b"\0"))
            case 1:
                _vec(space, raw.ljust(_VEC_BYTES, b"\0")[:_VEC_BYTES])
            case 2:
                _text(space, raw.decode("latin-1"))
            case _:
                space.mark(0, 0, 0)
                space.next_run(FvrangeInfo.unpack(raw[:32].ljust(32, b"\0")).start)
    space.check()
    assert space.size == PAGES * PAGE_SIZE - 100


def _args(space: AddressSpace, raw: bytes) -> None:
    args = FvrangeArgs.unpack(raw)
    check_range(args.start, args.length, args.mode, args.behavior)
    _carry_out(space, args.start, args.length, args.mode, args.behavior)


def _vec(space: AddressSpace, raw: bytes) -> None:
    vec = FvrangeVec.unpack(raw)
    for start, length in zip(vec.starts, vec.lengths, strict=True):
        check_range(start, length, vec.mode, vec.behavior)
    for start, length in zip(vec.starts, vec.lengths, strict=True):
        _carry_out(space, start, length, vec.mode, vec.behavior)


def _text(space: AddressSpace, text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_size(text) >= 0
    try:
        spans, behavior = xattrs.parse_mark(text)
    except ValueError:
        return
    for span in spans:
        check_range(*span, ioctls.VRANGE_VOLATILE, behavior)
        _carry_out(space, *span, ioctls.VRANGE_VOLATILE, behavior)
    assert xattrs.parse_ranges(xattrs.format_ranges(spans)) == spans


def _carry_out(space: AddressSpace, start: int, length: int, mode: int, behavior: int) -> None:
    if mode == ioctls.VRANGE_VOLATILE:
        found = space.mark(start, length, behavior)
        drain = space.begin_purge([space.span_of(start, length)], space.memory.newest_age)
        space.end_purge(drain)
    else:
        found = space.unmark(start, length)
    assert 0 <= found <= space.size
    assert struct.pack("=Q", found)


if __name__ == "__main__":
    atheris: Any = import_module("atheris")  # installed by make fuzz alone

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
