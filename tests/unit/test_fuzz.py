"""Random bytes as clients may send them; ``make fuzz`` does the same by coverage, for hours."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fuzz import one_input

WORDS = st.one_of(
    st.sampled_from([0, 1, 4095, 4096, 32768, 1 << 44, (1 << 63), (1 << 64) - 1]),
    st.integers(0, (1 << 64) - 1),
)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    one_input(data)


@settings(deadline=None)
@given(st.sampled_from([0, 3]), WORDS, WORDS, st.integers(0, 3), st.integers(0, 0x7FF))
def test_any_words(kind: int, start: int, length: int, mode: int, behavior: int) -> None:
    one_input(bytes([kind]) + struct.pack("=QQIIQ", start, length, mode, behavior, 0))


@settings(deadline=None)
@given(
    st.integers(0, 3),
    st.integers(0, 0x7FF),
    st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=20),
    st.integers(0, (1 << 32) - 1),
)
def test_any_vector(
    mode: int, behavior: int, ranges: list[tuple[int, int, int]], count: int
) -> None:
    head = struct.pack("=IIIIQ", min(count, len(ranges)), mode, behavior, 0, 0)
    one_input(b"\1" + head + b"".join(struct.pack("=QQQ", *entry) for entry in ranges))


@settings(deadline=None)
@given(st.text("0123456789+,;KMGalpriotyfuzesbg=", max_size=60))
def test_any_text(text: str) -> None:
    one_input(b"\2" + text.encode())
