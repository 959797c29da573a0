"""The C headers, as a user's program includes them, and the examples that come with them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

import vfs_volatile
from tests.support.fvrange import PAGE
from tests.support.mount import Mount, MountFactory, run
from tests.support.waiting import PATIENCE, eventually

HEADERS = Path(vfs_volatile.__file__).parent
EXAMPLES = HEADERS / "examples"
SUPPORT = Path(__file__).parents[1] / "support"
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror")
SANITIZERS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

C_COMPILERS = [("gcc", "-std=gnu11"), ("gcc", "-std=c11", "-D_XOPEN_SOURCE=700")]
CXX_COMPILERS = [("g++", "-std=c++17", "-x", "c++")]
if shutil.which("clang"):  # not needed, but its warnings are others
    C_COMPILERS.append(("clang", "-std=gnu11"))
    CXX_COMPILERS.append(("clang++", "-std=c++17", "-x", "c++"))


def build(compiler: Sequence[str], sources: Sequence[Path | str], program: Path) -> Path:
    """Compile and link as the documentation says, and with all warnings as errors."""
    flags = run("cflags").stdout.split()
    done = subprocess.run(
        [*compiler, *WARNINGS, *flags, *sources, "-pthread", "-o", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return program


def play(program: Path, *arguments: object, seconds: float = PATIENCE) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)."""
    done = subprocess.run(
        [program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        # The sanitizer's stacks for signals are in the way of a program's own.
        env={**os.environ, "ASAN_OPTIONS": "use_sigaltstack=0"},
    )
    return done.returncode, done.stdout, done.stderr


# ---- cflags ----


def test_cflags_lead_to_the_headers() -> None:
    done = run("cflags")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"-I{HEADERS}\n"


# ---- the headers ----


@pytest.mark.parametrize("compiler", [*C_COMPILERS, *CXX_COMPILERS], ids=" ".join)
@pytest.mark.parametrize("header", ["fvrange.h", "fvrange_guard.h"])
def test_a_header_alone_is_enough(compiler: Sequence[str], header: str, tmp_path: Path) -> None:
    source = tmp_path / "alone.c"
    source.write_text(f'#include "{header}"\nint main(void) {{ return 0; }}\n')
    build(compiler, [source], tmp_path / "alone")


def test_without_posix_the_guard_says_what_to_do(tmp_path: Path) -> None:
    source = tmp_path / "bare.c"
    source.write_text('#include "fvrange_guard.h"\n')
    done = subprocess.run(
        ["gcc", "-std=c11", f"-I{HEADERS}", "-fsyntax-only", source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "compile with -std=gnu11" in done.stderr
    source.write_text('#include "fvrange.h"\n')
    subprocess.run(["gcc", "-std=c11", f"-I{HEADERS}", "-fsyntax-only", source], check=True)


# ---- the examples ----


@pytest.mark.parametrize("sanitizers", [("-O2",), SANITIZERS], ids=["plain", "sanitized"])
@pytest.mark.parametrize("name", ["thumbnails", "workers"])
def test_an_example(
    name: str, sanitizers: tuple[str, ...], mount: MountFactory, tmp_path: Path
) -> None:
    compiler = (*C_COMPILERS[0], *sanitizers)
    program = build(compiler, [EXAMPLES / f"{name}.c"], tmp_path / name)
    mounted = mount(budget="6M")

    def is_purged_while_it_runs() -> bool:
        """Not if all purges wait for a process that cannot be looked at yet (mappings.py)."""
        code, printed, complaint = play(program, mounted.path / "cache")
        assert (code, complaint) == (0, "")
        counts = [int(number) for number in re.findall(r"\d+", printed)]
        assert len(counts) == 2
        return all(count > 50 for count in counts)

    assert eventually(is_purged_while_it_runs), "some were found, and some were purged"


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == {"thumbnails.c", "workers.c"}


@pytest.mark.parametrize("name", ["thumbnails", "workers"])
def test_an_example_says_how_to_be_called(name: str, tmp_path: Path) -> None:
    program = build(C_COMPILERS[0], [EXAMPLES / f"{name}.c"], tmp_path / name)
    assert play(program)[0] == 2
    code, _, complaint = play(program, tmp_path / "file")
    assert code == 1
    assert complaint.endswith(": Inappropriate ioctl for device\n")


# ---- the guard and anonymous memory ----

ANONYMOUS = """
#include <stdio.h>
#include <sys/xattr.h>
#include "fvrange_anon.h"
#include "fvrange_guard.h"

static void load(void *address) { (void)*(volatile char *)address; }

int main(int argc, char **argv)
{
    char *memory;
    void *fault = NULL;
    int before, after;

    if (argc != 2 || fvrange_attach(argv[1]) < 0)
        return 1;
    memory = fvrange_anon_alloc(8192);
    if (memory == NULL)
        return 1;
    memset(memory, 'a', 8192);
    if (mvrange(memory, 8192, VRANGE_VOLATILE, VRANGE_PARTIAL, NULL) < 0)
        return 1;
    before = fvrange_guard(memory, 8192, load, memory + 4100, &fault);
    if (setxattr(argv[1], "user.vfs_volatile.purge", "all", 3, 0) < 0)
        return 1;
    after = fvrange_guard(memory, 8192, load, memory + 4100, &fault);
    printf("%d %d %td\\n", before, after == SIGBUS, (char *)fault - memory);
    return 0;
}
"""


def test_the_guard_serves_anonymous_memory_too(mount: MountFactory, tmp_path: Path) -> None:
    source = tmp_path / "anonymous.c"
    source.write_text(ANONYMOUS)
    libraries = run("cflags", "--libs").stdout.split()
    program = build(C_COMPILERS[0], [source, *libraries], tmp_path / "anonymous")
    assert play(program, mount().path) == (0, "0 1 4100\n", "")


# ---- the guard: last, as the mount that its tests share is watched from the first of them on ----

PROMISES = {
    "comes_to_its_end": 0,
    "ends_at_the_address": 0,
    "restores_errno_and_mask": 0,
    "nests": 0,
    "nests_over_files": 0,
    "serves_threads": 0,
    "passes_on": 0,
    "passes_on_to_a_simple_handler": 0,
    "ignores_what_was_ignored": 0,
    "dies_of_a_touch_outside": -signal.SIGBUS,
    "dies_of_a_touch_though_ignored": -signal.SIGBUS,
    "dies_of_a_signal": -signal.SIGBUS,
}
GUARD_COMPILERS = {
    "C": (*C_COMPILERS[0], "-O0"),
    "C optimized": (*C_COMPILERS[0], "-O3"),
    "C sanitized": (*C_COMPILERS[0], *SANITIZERS),
    "C++ optimized": (*CXX_COMPILERS[0], "-O2"),
}


@pytest.fixture(scope="module", params=GUARD_COMPILERS)
def guard(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sources = [SUPPORT / "guard.c", SUPPORT / "guard_other.c"]
    compiler = GUARD_COMPILERS[request.param]
    return build(compiler, sources, tmp_path_factory.mktemp("guard") / "guard")


@pytest.mark.parametrize("promise", PROMISES)
def test_the_guard_keeps_its_promise(
    guard: Path, promise: str, fs: Mount, request: pytest.FixtureRequest
) -> None:
    file = fs.file("f", 8)
    file.mark(0, 0)
    file.purge(PAGE, PAGE)
    file.purge(3 * PAGE, PAGE)
    code, _, complaint = play(guard, promise, file.path)
    expected = PROMISES[promise]
    sanitized = "sanitized" in request.node.callspec.params["guard"]
    if sanitized and promise in ("dies_of_a_touch_outside", "dies_of_a_signal"):
        assert code not in (0, 2), "the sanitizer has the signal, reports it and exits"
        assert "AddressSanitizer: BUS" in complaint
    else:
        assert (code, complaint) == (expected, "")
