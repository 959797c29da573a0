"""SIGBUS on the passthrough path, for programs that ask: ``map_file()`` and ``fvrange_map.h``."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vfs_volatile
from tests.support.files import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, VFile, fallocate
from tests.support.fvrange import PAGE, ZERO, pages
from tests.support.mount import ROOT, Mount, MountFactory
from tests.support.waiting import PATIENCE
from vfs_volatile import map_file
from vfs_volatile.client import sigbus

_NOBODY = 65534
_SOURCE = Path(__file__).parents[1] / "support" / "mapper.c"


class Mapper:
    """A running ``mapper.c``."""

    def __init__(self, program: Path, file: VFile, **options: Any) -> None:
        executable = os.open(program, os.O_RDONLY)  # in a directory that not every user may enter
        self.process = subprocess.Popen(
            [f"/proc/self/fd/{executable}", str(file.fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[file.fd, executable],
            **options,
        )
        os.close(executable)
        assert self._answer() == "mapped"

    def __call__(self, command: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line: str = self.process.stdout.readline()
        return line.strip()


MapperFactory = Callable[..., Mapper]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mapper") / "mapper"
    include = Path(vfs_volatile.__file__).parent
    command: list[str | Path] = [
        "gcc",
        "-O1",
        "-Wall",
        "-Werror",
        "-I",
        include,
        _SOURCE,
        "-pthread",
        "-o",
        made,
    ]
    subprocess.run(command, check=True, timeout=PATIENCE)
    return made


@pytest.fixture
def mapper(program: Path) -> Iterator[MapperFactory]:
    made: list[Mapper] = []

    def make(file: VFile, **options: Any) -> Mapper:
        made.append(Mapper(program, file, **options))
        return made[-1]

    yield make
    for one in made:
        one.end()


def _held_pages(file: VFile) -> int:
    return os.fstat(file.fd).st_blocks * 512 // PAGE


@pytest.fixture
def direct(mount: MountFactory) -> Mount:
    return mount(access="zero", **{"allow-other": ""})


def test_a_purged_page_is_an_error_at_its_exact_address(
    direct: Mount, mapper: MapperFactory
) -> None:
    file = direct.file("file", 4)
    mapped, plain = mapper(file), direct.actor(file).map("shared")
    assert mapped("look") == "abcd"
    file.mark()
    file.purge(*pages(1, 2))
    assert mapped("look") == mapped("child") == "aXXd"
    assert mapped("store 1 z") == "X"
    assert file.purged_pages() == [1, 2]
    assert plain.loads() == "a00d", "who did not ask gets zeros"


def test_what_was_unmarked_is_zeros_again(direct: Mount, mapper: MapperFactory) -> None:
    file = direct.file("file", 4)
    mapped = mapper(file)
    file.mark()
    file.purge()
    assert mapped("look") == "XXXX"
    assert file.unmark(*pages(1, 2)) == 2 * PAGE
    assert mapped("look") == mapped("child") == "X00X"
    assert mapped("store 1 z") == "ok"
    assert mapped("look") == "Xz0X"
    assert file.reads() == "0?00"


def test_what_is_rewritten_by_write_is_there_and_still_purged(
    direct: Mount, mapper: MapperFactory
) -> None:
    file = direct.file("file", 3)
    mapped = mapper(file)
    file.mark()
    file.purge()
    os.pwrite(file.fd, b"n" * PAGE, PAGE)
    assert mapped("look") == "XnX"
    assert file.unmark() == 3 * PAGE
    assert mapped("look") == "000"


def test_holes_are_zeros_also_those_that_are_punched_while_it_is_mapped(
    direct: Mount, mapper: MapperFactory
) -> None:
    file = direct.open("file")
    os.ftruncate(file.fd, 4 * PAGE)
    mapped = mapper(file)
    assert mapped("look") == "0000"
    file.fill(4)
    fallocate(file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, *pages(1, 2))
    assert mapped("look") == "a00d"
    file.mark()
    file.purge(*pages(0, 2))
    fallocate(file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, *pages(0))
    assert mapped("look") == "0X0d"


def test_a_hole_that_is_punched_stays_one(direct: Mount) -> None:
    """Of a large file a few pages may be mapped: to punch the rest must not fill it."""
    file = direct.open("file")
    os.ftruncate(file.fd, 1 << 30)
    file.fill(2)
    with map_file(file.fd, 4 * PAGE, access="sigbus"):
        assert _held_pages(file) == 4
        file.mark(*pages(1))
        file.purge(*pages(1))
        punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        fallocate(file.fd, punch, 0, 1 << 30)
        assert _held_pages(file) == 4


def test_what_nobody_touched_is_purged_and_reported(direct: Mount, mapper: MapperFactory) -> None:
    file = direct.open("file")
    os.ftruncate(file.fd, 4 * PAGE)
    mapped = mapper(file)
    assert _held_pages(file) == 4, "given"
    file.mark()
    file.purge(*pages(1, 2))
    assert _held_pages(file) == 2
    assert file.purged_pages() == [1, 2]
    assert mapped("look") == mapped("child") == "0XX0"
    assert file.unmark() == 2 * PAGE
    assert mapped("look") == "0000"


@pytest.mark.parametrize("touched", [False, True])
def test_what_the_program_removes_itself_is_an_alarm_and_no_purge(
    direct: Mount, mapper: MapperFactory, touched: bool
) -> None:
    file = direct.open("file")
    os.ftruncate(file.fd, 3 * PAGE)
    mapped = mapper(file)
    if touched:
        assert mapped("store 1 z") == "ok"
    assert mapped("remove 1") == "ok"
    file.mark()
    assert mapped("look") == "0X0"
    file.purge(*pages(1, 2))
    assert mapped("look") == "0XX"
    assert file.purged_pages() == [2]
    os.pwrite(file.fd, b"n" * PAGE, PAGE)
    assert mapped("look") == "0nX"
    assert file.unmark() == PAGE
    assert mapped("look") == "0n0"


def test_what_was_purged_before_it_was_mapped(direct: Mount, mapper: MapperFactory) -> None:
    file = direct.file("file", 4)
    file.mark()
    file.purge(*pages(2))
    assert mapper(file)("look") == "abXd"
    assert file.purged_pages() == [2]


def test_an_ordinary_user_needs_no_privilege(direct: Mount, mapper: MapperFactory) -> None:
    file = direct.file("file", 3)
    mapped = mapper(file, user=_NOBODY, group=_NOBODY, extra_groups=[])
    file.mark()
    file.purge(*pages(1))
    assert mapped("look") == mapped("child") == "aXc"


def test_on_the_cached_path_it_is_a_plain_mapping_or_refused(
    fs: Mount, mapper: MapperFactory
) -> None:
    file = fs.file("file", 3)
    mapped = mapper(file)
    file.mark(*pages(0, 2))
    file.purge()
    assert mapped("look") == mapped("child") == "XXc"
    zero = fs.file("zero", 3)
    zero.mark(behavior=ZERO)
    with pytest.raises(OSError, match="not supported"):
        map_file(zero.fd, access="sigbus")


_TOUCH = """
import os, sys
from vfs_volatile import VRANGE_VOLATILE, fvrange, fvrange_purge, map_file
fd, how = int(sys.argv[1]), sys.argv[2]
memory = map_file(fd, access=how)
assert memory[:2] == b"aa"
memory[0] = ord("z")
fvrange(fd, 0, 0, VRANGE_VOLATILE)
fvrange_purge(fd, 4096, 4096)
assert memory[0] == ord("z")
if sys.argv[3] == "child" and (child := os.fork()):
    os._exit(-os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(memory[4096], flush=True)
"""


@pytest.mark.parametrize("who", ["itself", "child"])
def test_python(direct: Mount, who: str) -> None:
    for how in ("sigbus", "default"):
        file = direct.file(f"{how}", 3)
        done = subprocess.run(
            [sys.executable, "-c", _TOUCH, str(file.fd), how, who],
            capture_output=True,
            text=True,
            cwd=ROOT,
            pass_fds=[file.fd],
            timeout=PATIENCE,
            check=False,
        )
        if how == "default":
            assert (done.returncode, done.stdout) == (0, "0\n")
        else:
            assert abs(done.returncode) == signal.SIGBUS, done.stderr


def test_it_stays_where_it_is(direct: Mount) -> None:
    file = direct.file("file", 3)
    with map_file(file.fd, access="sigbus") as memory, pytest.raises(SystemError, match="anew"):
        memory.resize(PAGE)


def test_it_must_be_open_for_writing(direct: Mount) -> None:
    direct.file("file", 3)
    file = direct.open("file", os.O_RDONLY)
    with pytest.raises(OSError, match="Bad file descriptor"):
        map_file(file.fd, access="sigbus")


def test_without_userfaultfd_the_error_says_what_to_do(
    direct: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = direct.file("file", 3)
    monkeypatch.setattr(sigbus, "_USERFAULTFD", 9999)  # no system call has this number
    monkeypatch.setattr(sigbus, "_registrar", None)
    with pytest.raises(OSError, match="CONFIG_USERFAULTFD"):
        map_file(file.fd, access="sigbus")
    assert "sysctl vm.unprivileged_userfaultfd" in str(sigbus._refused(errno.EPERM))
