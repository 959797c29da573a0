"""What ``top`` draws, at every size."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from vfs_volatile.cli.top_sample import Sample, line
from vfs_volatile.cli.top_view import State, draw

MIB = 1 << 20
STATS = {"size": 512 * MIB, "budget": 64 * MIB, "resident": 48 * MIB, "volatile": 40 * MIB}


def sample(files: int = 3, blocked: int = 1, purges: int = 3, **stats: int) -> Sample:
    by = [{"rule": "private-mapping", "pid": 12, "command": "cook", "addresses": [4096, 8192]}]
    return Sample(
        time=1_700_000_000.5,
        stats={**STATS, "purged": 8 * MIB, **stats},
        rates={"purged_ever": 3.0 * MIB, "unmarked_purged": 0.0, "marks": 12.4, "unmarks": 7.0},
        files=[_file(number) for number in range(files)],
        blocked=[
            {"path": f"kept{n}", "start": 0, "length": MIB, "last": 1_700_000_000.0, "by": by}
            for n in range(blocked)
        ],
        purges=[
            {"path": f"gone{n}", "start": 0, "length": MIB, "bytes": MIB, "cause": "budget",
             "time": 1_700_000_000.0}
            for n in range(purges)
        ],
        blocks=[],
        purging=[0.0, 1.0, 3.0],
    )  # fmt: skip


def _file(number: int) -> dict[str, Any]:
    return {
        "path": f"[bold]dir/file{number}", "resident": 2 * MIB, "volatile": 5 * MIB,
        "purged": 4 * MIB, "opens": 2,
    }  # fmt: skip


def drawn(
    what: Sample, width: int = 100, height: int = 30, *, paused: bool = False, color: bool = False
) -> list[str]:
    """The lines on a terminal of that size."""
    out = io.StringIO()
    console = Console(
        file=out, width=width, height=height, force_terminal=True, highlight=False,
        color_system="standard" if color else None, legacy_windows=False,
    )  # fmt: skip
    console.print(draw(what, State("/mnt/cache", paused=paused), width, height), end="")
    return out.getvalue().removesuffix("\n").split("\n")


def row(lines: list[str], word: str) -> str:
    (found,) = [text for text in lines if word in text]
    return " ".join(found.split())


def test_the_header_tells_memory_and_speeds() -> None:
    lines = drawn(sample())
    assert lines[0].split()[0] == "/mnt/cache"
    assert lines[1].endswith("48.0 MiB of 64.0 MiB")
    assert row(lines, "may go ") == (
        "█ 16.0 MiB stays ▓ 32.0 MiB may go ░ 16.0 MiB free purged 8.0 MiB size 512.0 MiB"
    )
    assert row(lines, "marks/s").startswith("purged 3.0 MiB/s ▁▃█ ")
    assert "12 marks/s 7 unmarks/s" in row(lines, "marks/s")


def test_the_bar_shows_what_stays_what_may_go_and_what_is_free() -> None:
    bar = drawn(sample())[1]
    cells = len(bar) - len(" " + " 48.0 MiB of 64.0 MiB")
    assert bar.count("█") == pytest.approx(cells / 4, abs=1)
    assert bar.count("▓") == pytest.approx(cells / 2, abs=1)
    assert bar.count("░") == pytest.approx(cells / 4, abs=1)


def test_above_the_budget_the_bar_is_full_and_red() -> None:
    lines = drawn(sample(resident=80 * MIB), color=True)
    assert "░" not in lines[1]
    assert "\x1b[31m" in lines[1]
    assert "\x1b[31m" not in drawn(sample(), color=True)[1]


def test_files_blocks_and_purges_are_listed() -> None:
    lines = drawn(sample())
    assert row(lines, "file0") == "1.0 MiB 2.0 MiB 4.0 MiB 2 [bold]dir/file0"
    assert row(lines, "kept0") == ("kept0 0+1M now mapped private by cook[12] at 1000-2000")
    assert row(lines, "gone2").endswith("1.0 MiB budget gone2 0+1M")
    assert row(lines, " quit ") == "q quit p pause s files by volatile"


def test_a_pause_is_told() -> None:
    lines = drawn(sample(), paused=True)
    assert "PAUSED" in lines[0]
    assert "go on" in lines[-1]


def test_without_color_nothing_is_colored() -> None:
    assert "\x1b[3" not in "".join(drawn(sample()))


@settings(max_examples=50)
@given(
    st.integers(1, 200), st.integers(1, 70),
    st.integers(0, 50), st.integers(0, 40), st.integers(0, 100),
)  # fmt: skip
def test_it_fits_every_terminal(
    width: int, height: int, files: int, blocked: int, purges: int
) -> None:
    lines = drawn(sample(files, blocked, purges), width, height)
    assert len(lines) <= height
    assert all(len(text) <= width for text in lines)


def test_there_is_room_for_some_of_each() -> None:
    lines = "\n".join(drawn(sample(50, 40, 100), height=24))
    for word in ("file0", "kept0", "gone0"):
        assert word in lines


def test_an_empty_mount_can_be_drawn() -> None:
    lines = drawn(sample(0, 0, 0, resident=0, budget=0, volatile=0, purged=0))
    assert "0 B of 0 B" in lines[1]


def test_the_same_as_one_line() -> None:
    text = line(sample())
    assert text.endswith(
        "resident 48.0 MiB of 64.0 MiB, 32.0 MiB may go, 8.0 MiB purged; 3.0 MiB/s purged,"
        " 0 B/s found purged, 12 marks/s, 7 unmarks/s, 1 files blocked"
    )
