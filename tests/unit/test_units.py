"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfs_volatile.cgroups import memory_limit
from vfs_volatile.units import PAGE_SIZE, format_size, pages_for, parse_size, total_memory

SUFFIXES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@settings(deadline=None)
@given(
    number=st.integers(0, 1 << 64),
    suffix=st.sampled_from(sorted(SUFFIXES)),
    space=st.sampled_from(["", " "]),
)
def test_a_number_with_a_suffix_is_that_many_bytes(number: int, suffix: str, space: str) -> None:
    expected = number * SUFFIXES[suffix]
    assert parse_size(f"{number}{space}{suffix}") == expected
    assert parse_size(f" {number}{space}{suffix}iB ") == expected


@pytest.mark.parametrize("percent", [0, 1, 25, 100, 150])
def test_a_percentage_is_a_share_of_memory(percent: int) -> None:
    assert parse_size(f"{percent}%") == total_memory() * percent // 100


def test_memory_is_what_the_kernel_says() -> None:
    with open("/proc/meminfo", encoding="ascii") as lines:
        total = next(line for line in lines if line.startswith("MemTotal:"))
    machine = int(total.split()[1]) * 1024
    assert total_memory() == min(machine, memory_limit() or machine)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "K", "%", "-1", "+1", "1.5G", "1e6", "0x10", "1k", "1KB", "1 0", "1K1", "25 %"),
        *("1%K", "1P", "all", "\u0661", "1\n2", "1_000"),
    ],
)
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (64 << 10, "64.0 KiB"),
        (3 << 29, "1.5 GiB"),
        (5 << 40, "5.0 TiB"),
        (3000 << 40, "3000.0 TiB"),
    ],
)
def test_sizes_are_shown_with_the_largest_fitting_unit(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@settings(deadline=None)
@given(st.integers(0, 1 << 64))
def test_pages_for_is_the_least_number_that_holds_the_bytes(size_bytes: int) -> None:
    pages = pages_for(size_bytes)
    assert pages * PAGE_SIZE >= size_bytes
    assert (pages - 1) * PAGE_SIZE < size_bytes
