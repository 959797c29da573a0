"""``abi.anonymous`` and ``libfvrange/protocol.h`` say the same; the C compiler is asked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE
from vfs_volatile.abi import anonymous as wire

NATIVE = Path(wire.__file__).parents[1] / "native" / "libfvrange"
NUMBERS = (
    *("ANON_ATTACH", "ANON_FORK", "ANON_ALLOC", "ANON_FREE"),
    *("ANON_MARK", "ANON_MARKS", "ANON_FETCH", "ANON_REPORT"),
)
CONSTANTS = {
    "ANON_VERSION": wire.VERSION,
    "ANON_CHUNK": wire.CHUNK_PAGES,
    "ANON_RUNS": wire.MAX_RUNS,
    "ANON_RANGES": wire.MAX_RANGES,
    "ANON_LAST": wire.LAST,
    "ANON_LOOK": wire.OrderKind.LOOK,
    "ANON_DROP": wire.OrderKind.DROP,
    "ANON_ZERO": wire.OrderKind.ZERO,
}
PROGRAM = """
#include <stdio.h>
#include <string.h>
#include "protocol.h"

int main(void)
{
    struct anon_marks marks;
    struct anon_mark mark = {1, 2, {3, 4, 5, 0}};
    static struct anon_report report;

    %s
    memset(&marks, 0, sizeof marks);
    marks.mode = 1, marks.behavior = 2, marks.count = 2;
    marks.range[1] = (struct anon_range){7, 8, 9, 0};
    report = (struct anon_report){.order = 1, .region = 2, .first = 3, .pages = 4, .flags = 5};
    report.held[0] = 6, report.exclusive[1] = 7, report.purged[ANON_CHUNK / 8 - 1] = 8;
    fwrite("\\n", 1, 1, stdout);
    fwrite(&mark, sizeof mark, 1, stdout);
    fwrite(&marks, sizeof marks, 1, stdout);
    fwrite(&report, sizeof report, 1, stdout);
    return 0;
}
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    work = tmp_path_factory.mktemp("abi")
    names = [*NUMBERS, *CONSTANTS]
    lines = "\n    ".join(f'printf("%llu ", (unsigned long long){name});' for name in names)
    source = work / "say.c"
    source.write_text(PROGRAM.replace("%s", lines, 1))
    subprocess.run(["gcc", f"-I{NATIVE}", source, "-o", work / "say"], check=True, timeout=PATIENCE)
    return subprocess.run([work / "say"], check=True, capture_output=True, timeout=PATIENCE).stdout


def test_numbers_and_constants_are_the_same(printed: bytes) -> None:
    said = [int(word) for word in printed.partition(b"\n")[0].split()]
    assert said == [*(getattr(wire, name) for name in NUMBERS), *CONSTANTS.values()]
    assert set(said[: len(NUMBERS)]) == wire.COMMANDS


def test_structs_are_read_as_they_are_written(printed: bytes) -> None:
    rest = printed.partition(b"\n")[2]
    sizes = [command >> 16 & 0x3FFF for command in (wire.ANON_MARK, wire.ANON_MARKS)]
    mark, marks = rest[: sizes[0]], rest[sizes[0] : sum(sizes)]
    assert wire.Marks.unpack_one(mark) == (1, 2, [(3, 4, 5)])
    assert wire.Marks.unpack(marks) == (1, 2, [(0, 0, 0), (7, 8, 9)])
    report = wire.Report.unpack(rest[sum(sizes) :])
    assert report[:5] == (1, 2, 3, 4, 5)
    assert (report.held[0], report.exclusive[1], report.purged[-1]) == (6, 7, 8)


def test_no_struct_is_larger_than_an_ioctl_may_be() -> None:
    assert all(command >> 16 & 0x3FFF < 1 << 14 for command in wire.COMMANDS)
    order = wire.pack_order(1, wire.OrderKind.DROP, 2, [(0, 1)] * wire.MAX_RUNS)
    assert len(order) == wire.ANON_FETCH >> 16 & 0x3FFF
