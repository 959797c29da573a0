"""The contract in Python: equal to the C header, strict about syntax, light to import."""

from __future__ import annotations

import errno
import json
import os
import resource
import struct
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vfs_volatile
from tests.support.waiting import PATIENCE
from vfs_volatile import fvrange, fvrange_next, fvrange_purge, vrange_priority
from vfs_volatile.abi import ioctls
from vfs_volatile.abi.ioctls import U64_MAX, FvrangeArgs, FvrangeInfo, FvrangeVec
from vfs_volatile.abi.xattrs import Span, format_ranges, parse_mark, parse_ranges

PACKAGE = Path(vfs_volatile.__file__).parent
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror"]

NAMES = [
    *("VRANGE_NONVOLATILE", "VRANGE_VOLATILE"),
    *("VRANGE_FULL", "VRANGE_PARTIAL", "VRANGE_ZERO", "VRANGE_SIGBUS"),
    *("FVRANGE_IOC_FVRANGE", "FVRANGE_IOC_MVRANGE", "FVRANGE_IOC_NEXT"),
    *("FVRANGE_IOC_PURGE", "FVRANGE_IOC_VEC"),
]

PROGRAM = """
#include "fvrange.h"

#define NUMBER(name) printf("\\"%s\\": %lu,\\n", #name, (unsigned long)(name))

int main(void)
{
    struct fvrange_args args = {1, 2, 3, 4, 5};
    struct fvrange_info info = {6, 7, 8, 9, 10};
    unsigned char bytes[sizeof args + sizeof info];

    memcpy(bytes, &args, sizeof args);
    memcpy(bytes + sizeof args, &info, sizeof info);
    printf("{\\n");
NUMBERS
    NUMBER(sizeof(struct fvrange_vec));
    NUMBER(VRANGE_PRIORITY(5));
    printf("\\"bytes\\": [");
    for (size_t at = 0; at < sizeof bytes; at++)
        printf("%s%u", at > 0 ? "," : "", bytes[at]);
    printf("]}\\n");
    return 0;
}
"""

CALLS = """
#include "fvrange.h"
#include <sys/mman.h>

static void tell(int result)
{
    printf("%d %d\\n", result, errno);
}

int main(int argc, char **argv)
{
    uint64_t purged = 77;
    int fd = open(argv[argc - 1], O_RDWR);
    char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *gap = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    tell(fvrange(fd, 0, 0, VRANGE_VOLATILE, VRANGE_FULL, &purged));
    tell(fvrange(-1, 0, 0, VRANGE_VOLATILE, VRANGE_FULL, NULL));
    tell(mvrange_fd(fd, map, 4096, VRANGE_VOLATILE, VRANGE_FULL, &purged));
    tell(mvrange(map, 4096, VRANGE_VOLATILE, VRANGE_FULL, &purged));
    tell(mvrange(gap, 4096, VRANGE_VOLATILE, VRANGE_FULL, &purged));
    munmap(gap, 4096);
    tell(mvrange(gap, 4096, VRANGE_VOLATILE, VRANGE_FULL, &purged));
    unlink(argv[argc - 1]);
    tell(mvrange(map, 4096, VRANGE_VOLATILE, VRANGE_FULL, &purged));
    return purged == 77 ? 0 : 1;
}
"""


def compile_c(source: str, directory: Path, standard: str = "-std=c11") -> Path:
    """The program of ``source``, which must compile without a warning."""
    program = directory / "program"
    command = ["gcc", standard, *WARNINGS, "-I", str(PACKAGE), "-x", "c", "-", "-o", str(program)]
    subprocess.run(command, input=source, text=True, check=True, timeout=PATIENCE)
    return program


def test_python_and_the_c_header_say_the_same(tmp_path: Path) -> None:
    numbers = "\n".join(f"    NUMBER({name});" for name in NAMES)
    program = compile_c(PROGRAM.replace("NUMBERS", numbers), tmp_path)
    told = json.loads(
        subprocess.run([program], capture_output=True, check=True, timeout=PATIENCE).stdout
    )

    assert {name: told[name] for name in NAMES} == {name: getattr(ioctls, name) for name in NAMES}
    assert told["VRANGE_PRIORITY(5)"] == vrange_priority(5)
    assert told["sizeof(struct fvrange_vec)"] == 12312
    packed = FvrangeArgs(1, 2, 3, 4, 5).pack() + FvrangeInfo(6, 7, 8, 9, 10).pack()
    assert bytes(told["bytes"]) == packed


def test_the_numbers_are_those_of_the_contract() -> None:
    assert ioctls.FVRANGE_IOC_FVRANGE == 0xC020F501
    assert ioctls.FVRANGE_IOC_MVRANGE == 0xC020F502
    assert ioctls.FVRANGE_IOC_NEXT == 0xC020F503
    assert ioctls.FVRANGE_IOC_PURGE == 0xC020F504
    assert ioctls.FVRANGE_IOC_VEC == 0xF018F505


def test_c_calls_fail_with_the_errno_of_the_contract_outside_a_mount(tmp_path: Path) -> None:
    name = tmp_path / "a name\nin two lines"  # /proc/self/maps escapes the newline
    name.write_bytes(bytes(4096))
    program = compile_c(CALLS, tmp_path, "-std=gnu11")
    done = subprocess.run(
        [program, name], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, "a failed call wrote to *purged"
    expected = ["ENOTTY", "EBADF", "ENOTTY", "EINVAL", "EINVAL", "ENOMEM", "ENOENT"]
    found = [line.split() for line in done.stdout.splitlines()]
    assert [errno.errorcode[int(number)] for _, number in found] == expected
    assert {result for result, _ in found} == {"-1"}


def test_python_calls_fail_outside_a_mount(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        for call in (
            lambda: fvrange(file, 0, 0, ioctls.VRANGE_VOLATILE),
            lambda: fvrange_purge(file),
            lambda: list(fvrange_next(file.fileno())),
        ):
            with pytest.raises(OSError, match="Inappropriate ioctl") as caught:
                call()
            assert caught.value.errno == errno.ENOTTY


@pytest.mark.parametrize(
    "arguments",
    [(-1, 0, 1), (0, -1, 1), (1 << 64, 0, 1), (0, 0, -1), (0, 0, 1 << 32), (0, 0, 1, -1)],
)
def test_numbers_that_no_struct_holds_are_einval(arguments: tuple[int, ...]) -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        fvrange(0, *arguments)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("n", [-1, 8, 1 << 32])
def test_priorities_are_0_to_7(n: int) -> None:
    with pytest.raises(ValueError, match="not between 0 and 7"):
        vrange_priority(n)


# ---- xattr syntax ----

offsets = st.integers(0, U64_MAX)
spans = st.tuples(offsets, offsets).map(lambda ends: (min(ends), max(ends) - min(ends)))


@settings(deadline=None)
@given(st.lists(spans, min_size=1))
def test_ranges_survive_a_round_trip(wanted: list[Span]) -> None:
    assert parse_ranges(format_ranges(wanted)) == wanted


def test_ranges_take_suffixes_and_all() -> None:
    assert parse_ranges("all") == [(0, 0)]
    assert parse_ranges("4K+1M,1G+0") == [(4096, 1 << 20), (1 << 30, 0)]
    assert format_ranges([]) == ""


def test_a_value_holds_64_kib_of_ranges_and_no_more_are_asked_for() -> None:
    full = [*[(0, 1)] * 16383, (0, 12)]
    assert len(format_ranges(full)) == 64 << 10
    with pytest.raises(ValueError, match="too many"):
        format_ranges([*full[:-1], (0, 123)])
    wide = iter([(1 << 50, 4096)] * 20_000)
    with pytest.raises(ValueError, match="too many"):
        format_ranges(wide)
    assert len(list(wide)) > 16_000, "as many as fit, not as might fit if they were short"


BAD_RANGES = [
    *("", " ", ",", "+", "0", "0+", "+1", "0-1", "-1+1", "0+-1", "0++1", "0+1+2"),
    *("0+1,", ",0+1", "0+1,,2+1", "0+1 ,2+1", " 0+1", "0+1 ", "0+1\n", "0 +1", "0+ 1"),
    *("0+1T", "0+1k", "0+1KB", "0+1KiB", "0+1%", "0x0+1", "0+1.5", "0+1e3", "1_0+1", "\u0661+1"),
    *("ALL", "all,0+1", "0+1,all", "all;", "all ", "a", "0+1;full", "0\x00+1"),
    *(f"{1 << 64}+0", f"0+{1 << 64}", f"{U64_MAX}+1", f"{1 << 60}K+0", "1" * 5000 + "+1"),
]


@pytest.mark.parametrize("text", BAD_RANGES)
def test_bad_ranges_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_ranges(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", ([(0, 0)], 0)),
        ("0+4K;full", ([(0, 4096)], 0)),
        ("0+1;partial", ([(0, 1)], ioctls.VRANGE_PARTIAL)),
        ("all;priority=0;zero", ([(0, 0)], ioctls.VRANGE_ZERO)),
        (
            "0+1,5+6;sigbus;partial;priority=7",
            ([(0, 1), (5, 6)], ioctls.VRANGE_SIGBUS | ioctls.VRANGE_PARTIAL | 0x700),
        ),
    ],
)
def test_marks_take_options(text: str, expected: tuple[list[Span], int]) -> None:
    assert parse_mark(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", ";", ";full", "all;", "all;;full", "all;Full", "all; full", "all;full;", "all;x"),
        *("all;zero;sigbus", "all;full;partial", "all;full;full", "all;zero;zero"),
        *("all;priority", "all;priority=", "all;priority=8", "all;priority=-1", "all;priority=01"),
        *("all;priority=1;priority=2", "full;all", "all,full"),
    ],
)
def test_bad_marks_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_mark(text)


# ---- the package ----


def test_import_needs_the_standard_library_alone_and_is_quick() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import vfs_volatile;"
        "[getattr(vfs_volatile, name) for name in vfs_volatile.__all__];"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    foreign = set(done.stdout.split()) - set(sys.stdlib_module_names) - {"vfs_volatile"}
    assert foreign <= {"__main__"}
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 0.5, "an import that a program does not notice"


def test_a_program_loads_what_it_uses_alone() -> None:
    """The calls of fvrange.h need none of these, and each takes milliseconds."""
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import vfs_volatile;"
        "vfs_volatile.fvrange; print(*sys.modules)"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert not set(done.stdout.split()) & {"ctypes", "dataclasses", "hashlib", "inspect", "pickle"}


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert vfs_volatile.__version__ == project["version"]


def test_public_names_exist_and_types_are_declared() -> None:
    assert all(hasattr(vfs_volatile, name) for name in vfs_volatile.__all__)
    assert os.path.exists(PACKAGE / "py.typed")


@pytest.mark.parametrize("span", [(-1, 0), (0, U64_MAX + 1), (0.5, 0), ("0", 0)])
def test_what_no_struct_holds_is_refused_alike(span: tuple[int, int]) -> None:
    for call in (FvrangeArgs(*span), FvrangeVec.of(0, 0, [span])):
        with pytest.raises(struct.error):
            call.pack()


@given(st.lists(st.tuples(*[st.integers(0, U64_MAX // 512)] * 3), max_size=512))
def test_many_ranges_come_out_as_they_went_in(rows: list[tuple[int, int, int]]) -> None:
    spans, purged = [row[:2] for row in rows], [row[2] for row in rows]
    raw = FvrangeVec.of(1, 2, spans)._replace(purged=purged).pack()
    assert len(raw) == ioctls.FVRANGE_VEC_BYTES
    found = FvrangeVec.unpack(raw)
    assert list(zip(found.starts, found.lengths, strict=True)) == spans
    assert (found.purged, found.counted, found.mode, found.behavior) == (purged, len(rows), 1, 2)
