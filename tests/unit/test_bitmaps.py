"""Bitmaps of libfvrange become the same sets of pages, however full they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from vfs_volatile.core.pages import PageSpan
from vfs_volatile.fs.bitmaps import pages_in

LENGTH = 32768

firsts = st.sampled_from([0, LENGTH, 2 * LENGTH, 5 * LENGTH])


def slow(raw: bytes, span: PageSpan) -> BitMap:
    """Bit by bit."""
    bits = int.from_bytes(raw, "little")
    return BitMap(span.first + at for at in range(span.end - span.first) if bits >> at & 1)


@given(firsts, st.binary(max_size=40), st.integers(1, 320))
def test_few_pages(first: int, start: bytes, length: int) -> None:
    span = PageSpan(first, first + length)
    raw = start.ljust(LENGTH // 8, b"\0")
    assert pages_in(raw, span) == slow(raw[:40], span)


def test_many_pages_none_and_all() -> None:
    for byte in (b"\0", b"\x55", b"\xfe", b"\xff"):
        for first in (0, LENGTH, 7 * LENGTH):
            for length in (LENGTH, LENGTH - 3):
                span = PageSpan(first, first + length)
                bits = [bit for bit in range(8) if byte[0] >> bit & 1]
                expected = BitMap(
                    first + at + bit
                    for at in range(0, length, 8)
                    for bit in bits
                    if at + bit < length
                )
                assert pages_in(byte * (LENGTH // 8), span) == expected
