"""Events in words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from vfs_volatile.cli.wording import behavior_words, blockers_line, clock, printable, short, span_of


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (1, "1"), (1024, "1K"), (1025, "1025"), (3 << 20, "3M"), (5 << 30, "5G")],
)
def test_sizes_are_exact_and_short(count: int, text: str) -> None:
    assert short(count) == text


def test_an_offset_is_a_size_and_an_address_an_address() -> None:
    assert span_of({"start": 4 << 20, "length": 8192}) == "4M+8K"
    own = {"process": {"pid": 5, "command": "a"}, "start": 0x7F00_0000_0000, "length": 8192}
    assert span_of(own) == "0x7f0000000000+8K"


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert printable("a\x1b]0;x\x07\x9b\n\udc80ä") == "a\\x1b]0;x\\x07\\x9b\\n\udc80ä"


def test_behavior_in_words() -> None:
    assert behavior_words(0) == "full"
    assert behavior_words(1 | 2 | 3 << 8) == "partial zero priority 3"
    assert behavior_words(4) == "full sigbus"


def test_the_clock_counts_milliseconds() -> None:
    assert clock(1.9995) == time.strftime("%H:%M:%S", time.localtime(1)) + ".999"


def test_those_who_block() -> None:
    by: list[Mapping[str, Any]] = [
        {"rule": "private-mapping", "pid": 5, "command": "a\nb", "addresses": [0x1000, 0x2000]},
        {"rule": "unreadable", "pid": None, "command": None},
        {"rule": "held", "pid": 6, "command": None},
        {"rule": "not-agreed", "pid": 7, "command": "c"},
        {"rule": "more", "count": 3},
    ]
    assert blockers_line(by).split("; ") == [
        r"mapped private by a\nb[5] at 1000-2000",
        "perhaps mapped by a process out of sight, whose mappings cannot be read",
        "held by [6]",
        "mapped by c[7], who has not agreed",
        "and 3 more",
    ]
