"""VolatileFile and its pinned ranges: what is told, and that nothing is a SIGBUS."""

from __future__ import annotations

import errno
import gc
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import fvrange
from tests.support.files import content
from tests.support.fvrange import PAGE, PARTIAL, SIGBUS, ZERO, Range, pages, priority
from tests.support.mount import ROOT, Mount, MountFactory
from tests.support.waiting import PATIENCE
from vfs_volatile import PurgedError, VolatileFile, fvrange_purge

COUNT = 8
DATA = content(COUNT)


@pytest.fixture
def file(fs: Mount) -> Iterator[VolatileFile]:
    """Eight pages, each with its letter; nothing is volatile."""
    with VolatileFile(fs.path / "file", size=0) as made:
        made.write(DATA)
        yield made


def letters(data: bytes | memoryview) -> str:
    """One for each page: its byte, 0 for zeros, ? for a mix."""
    found = [set(bytes(data[at : at + PAGE])) for at in range(0, len(data), PAGE)]
    return "".join("?" if len(s) > 1 else chr(s.copy().pop() or ord("0")) for s in found)


# ---- reading and writing ----


def test_what_is_intact_is_read(file: VolatileFile) -> None:
    file.mark()
    assert file.read() == DATA
    assert file.read(PAGE - 5, 10) == b"a" * 5 + b"b" * 5
    assert file.read(len(DATA) - 5, 100) == b"h" * 5
    assert file.read(len(DATA) + 5) == b""


@pytest.mark.parametrize("behavior", [SIGBUS, ZERO], ids=["sigbus", "zero"])
def test_reading_what_was_purged_raises_with_the_ranges(file: VolatileFile, behavior: int) -> None:
    file.mark(behavior=behavior)
    fvrange_purge(file, *pages(1))
    fvrange_purge(file, *pages(4, 2))
    with pytest.raises(PurgedError, match="were purged") as failed:
        file.read()
    assert failed.value.ranges == [pages(1), pages(4, 2)]
    assert failed.value.errno == errno.ENODATA
    assert isinstance(failed.value, OSError)
    assert file.read(*pages(2, 2)) == DATA[2 * PAGE : 4 * PAGE]
    with pytest.raises(PurgedError) as failed:
        file.read(4 * PAGE + 10, 20)
    assert failed.value.ranges == [(4 * PAGE + 10, 20)]


@pytest.mark.parametrize("behavior", [SIGBUS, ZERO], ids=["sigbus", "zero"])
def test_populate_tells_what_is_there(file: VolatileFile, behavior: int) -> None:
    file.mark(behavior=behavior)
    file.populate()
    fvrange_purge(file, *pages(2, 2))
    file.populate(*pages(4, 4))
    file.populate(1, 2 * PAGE - 1)
    with pytest.raises(PurgedError) as failed:
        file.populate()
    assert failed.value.ranges == [pages(2, 2)]


def test_writing_whole_pages_makes_them_intact_and_parts_do_not(file: VolatileFile) -> None:
    file.mark(behavior=SIGBUS)
    fvrange_purge(file, *pages(2, 2))
    with pytest.raises(PurgedError) as failed:
        file.write(b"xyz", 2 * PAGE + 1)
    assert failed.value.ranges == [(2 * PAGE + 1, 3)]
    assert file.write(b"w" * 2 * PAGE, 2 * PAGE) == 2 * PAGE
    assert letters(file.read()) == "abwwefgh"


def test_unmark_tells_which_pages_were_lost(file: VolatileFile) -> None:
    assert file.mark() == 0
    fvrange_purge(file, *pages(1, 2))
    assert file.purged() == [pages(1, 2)]
    assert [run[:2] for run in file.ranges()] == [pages(0), pages(1, 2), pages(3, 5)]
    assert file.unmark() == [pages(1, 2)]
    assert file.ranges() == []
    assert letters(file.read()) == "a00defgh"


# ---- pinning ----


def test_what_is_pinned_is_told_and_can_be_rebuilt(file: VolatileFile) -> None:
    file.mark()
    fvrange_purge(file, *pages(3, 2))
    with file.pinned(*pages(2, 4)) as pin:
        assert pin.purged == [pages(1, 2)], "counted from the start of the view"
        assert letters(pin.view) == "c00f"
        for start, length in pin.purged:
            pin.view[start : start + length] = b"N" * length
        fvrange_purge(file)
        assert letters(pin.view) == "cNNf", "it is not volatile, whatever is purged"
        assert len(pin) == 4 * PAGE
    assert file.purged() == [pages(0, 2), pages(6, 2)]
    assert letters(file.read(*pages(2, 4))) == "cNNf"


def test_every_part_is_marked_again_as_it_was(file: VolatileFile) -> None:
    file.mark(*pages(0, 2), behavior=ZERO | priority(3))
    file.mark(*pages(2, 1), behavior=PARTIAL)
    file.mark(*pages(5, 3), behavior=SIGBUS)
    fvrange_purge(file, *pages(6))
    with file.pinned(*pages(1, 6)):
        assert fvrange.ranges(file.fileno()) == [
            Range(*pages(0), ZERO | priority(3), False),
            Range(*pages(7), SIGBUS, False),
        ]
    assert fvrange.ranges(file.fileno()) == [
        Range(*pages(0), ZERO | priority(3), False),
        Range(*pages(1), ZERO | priority(3), False),
        Range(*pages(2), PARTIAL, False),
        Range(*pages(5, 2), SIGBUS, False),
        Range(*pages(7), SIGBUS, False),
    ]


def test_after_an_exception_what_was_lost_is_lost_again(file: VolatileFile) -> None:
    """Or the next one would take pages that nobody has rebuilt for intact."""
    file.mark(behavior=PARTIAL)
    fvrange_purge(file, *pages(2, 2))
    with suppress(LookupError), file.pinned() as pin:
        pin.view[2 * PAGE : 3 * PAGE] = b"N" * PAGE
        raise LookupError
    assert file.purged() == [pages(2, 2)]
    assert {run.behavior for run in file.ranges()} == {PARTIAL}
    assert file.unmark() == [pages(2, 2)]


def test_the_last_page_of_the_file_is_pinned_with_its_bytes(fs: Mount) -> None:
    with VolatileFile(fs.path / "odd", size=0) as file:
        file.write(b"x" * (PAGE + 100))
        file.mark()
        fvrange_purge(file)
        with file.pinned() as pin:
            assert pin.purged == [(0, PAGE + 100)]
            assert len(pin.view) == PAGE + 100
            pin.view[:] = b"y" * len(pin)
        assert [run[:2] for run in file.ranges()] == [(0, PAGE + 100)]
        assert file.read() == b"y" * (PAGE + 100)


@pytest.mark.parametrize("span", [(1, PAGE), (0, PAGE + 1), (0, 9 * PAGE), (9 * PAGE, 0), (-1, 0)])
def test_only_pages_of_the_file_can_be_pinned(file: VolatileFile, span: tuple[int, int]) -> None:
    file.mark()
    with pytest.raises(ValueError, match="are not w"):
        file.pinned(*span)
    assert [run[:2] for run in file.ranges()] == [(0, len(DATA))]


def test_an_empty_file_can_be_pinned(fs: Mount) -> None:
    with VolatileFile(fs.path / "empty", size=0) as file, file.pinned() as pin:
        assert len(pin.view) == 0


def test_the_view_ends_with_the_with(file: VolatileFile) -> None:
    file.mark()
    with file.pinned() as pin:
        view = pin.view
        with pytest.raises(ValueError, match="pinned already"):
            pin.__enter__()
    fvrange_purge(file)
    with pytest.raises(ValueError, match="released"):
        view[0]
    with pytest.raises(ValueError, match="not pinned"):
        pin.view  # noqa: B018  # it is the access that raises


def test_what_still_uses_the_memory_keeps_it_pinned(file: VolatileFile) -> None:
    """As an array of numpy does, which asks for a buffer of its own."""
    file.mark()
    with file.pinned() as pin:
        array = memoryview(pin.view).cast("Q")
    assert file.ranges() == [], "still pinned"
    fvrange_purge(file)
    assert array[0] == int.from_bytes(b"a" * 8, "little")
    del array
    gc.collect()
    assert [run[:2] for run in file.ranges()] == [(0, len(DATA))]
    fvrange_purge(file)
    assert file.purged() == [(0, len(DATA))]


def test_numpy_works_on_the_view(file: VolatileFile) -> None:
    numpy = pytest.importorskip("numpy")
    file.mark()
    with file.pinned() as pin:
        array = numpy.frombuffer(pin.view, dtype="u1")
        array[:PAGE] += 1
        assert array.sum(dtype=int) == sum(DATA) + PAGE
        del array
    assert letters(file.read()) == "bbcdefgh"


def test_the_pinned_object_offers_a_buffer(file: VolatileFile) -> None:
    """Python uses it from 3.12 on (PEP 688)."""
    with file.pinned() as pin:
        assert letters(pin.__buffer__(0)) == "abcdefgh"


def test_pins_of_several_objects_may_overlap(file: VolatileFile) -> None:
    file.mark()
    with file.pinned(*pages(0, 6)) as outer:
        with file.pinned(*pages(4, 4)) as inner:
            assert letters(outer.view) + letters(inner.view) == "abcdefefgh"
        assert [run[:2] for run in file.ranges()] == [pages(6, 2)]
    assert [run[:2] for run in file.ranges()] == [pages(0, 6), pages(6, 2)]


def test_a_closed_file_leaves_its_pins_alone(fs: Mount, file: VolatileFile) -> None:
    file.mark()
    with file.pinned() as pin:
        file.close()
        file.close()
        assert letters(pin.view) == "abcdefgh"
    with VolatileFile(fs.path / "file") as again:
        assert [run[:2] for run in again.ranges()] == [(0, len(DATA))]


# ---- others ----


ATTACK = """
import os, sys
from tests.support import fvrange
fd = os.open(sys.argv[1], os.O_RDWR)
fvrange.mark(fd, 0, 0, fvrange.SIGBUS)
print(fvrange.purge(fd))
"""


def attack(path: Path) -> int:
    """Another process marks the whole file and purges it; the bytes purged then."""
    done = subprocess.run(
        [sys.executable, "-c", ATTACK, path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return int(done.stdout)


@pytest.mark.parametrize("semantics", ["unified", "kim"])
def test_others_who_mark_and_purge_do_not_reach_what_is_pinned(
    mount: MountFactory, semantics: str
) -> None:
    fs = mount(semantics=semantics)
    with VolatileFile(fs.path / "file", size=0) as file:
        file.write(DATA)
        file.mark(behavior=ZERO)
        with file.pinned(*pages(2, 3)) as pin:
            assert attack(fs.path / "file") == 5 * PAGE, "all but what is pinned"
            assert letters(pin.view) == "cde"
            pin.view[:PAGE] = b"N" * PAGE
        assert letters(file.read(*pages(2, 3))) == "Nde"
        assert attack(fs.path / "file") == COUNT * PAGE, "and that too, when it is no longer"


def test_pins_work_on_either_data_path(zero_fs: Mount) -> None:
    """Where purged pages read as zeros."""
    with VolatileFile(zero_fs.path / "file", size=0) as file:
        file.write(DATA)
        file.mark()
        fvrange_purge(file, *pages(2))
        with pytest.raises(PurgedError) as failed:
            file.read()
        assert failed.value.ranges == [pages(2)]
        with suppress(LookupError), file.pinned():
            raise LookupError
        with file.pinned() as pin:
            assert pin.purged == [pages(2)]
            pin.view[2 * PAGE : 3 * PAGE] = b"N" * PAGE
            fvrange.mark(file.fileno())
            fvrange_purge(file)
            assert letters(pin.view) == "abNdefgh"
        assert letters(file.read()) == "abNdefgh"
        assert file.unmark() == []


def run(program: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run a Python program of its own, on the file."""
    return subprocess.run(
        [sys.executable, "-c", program, path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("behavior", [SIGBUS, ZERO], ids=["sigbus", "zero"])
@pytest.mark.parametrize("touched", ["before", "only after"])
def test_what_others_purge_in_spite_of_a_pin_is_zeros_and_told_at_its_end(
    mount: MountFactory, behavior: int, touched: str
) -> None:
    """With ``--private=keep`` nothing keeps others from it."""
    fs = mount(semantics="stultz")
    with VolatileFile(fs.path / "file", size=0) as file:
        file.write(DATA)
        file.mark()

        def work() -> None:
            with file.pinned(*pages(1, 5)) as pin:
                if touched == "before":
                    assert letters(pin.view) == "bcdef"
                fvrange.mark(file.fileno(), *pages(2, 2), behavior)
                fvrange.purge(file.fileno(), *pages(2, 2))
                assert letters(pin.view) == "b00ef"
                pin.view[PAGE : 2 * PAGE] = b"N" * PAGE

        with pytest.raises(PurgedError) as failed:
            work()
        assert failed.value.ranges == [pages(2, 2)]
        assert file.unmark() == [pages(2, 2)]
        assert letters(file.read()) == "ab00efgh"


def test_what_others_cut_off_is_zeros_and_told_at_the_end(file: VolatileFile) -> None:
    def work() -> None:
        with file.pinned() as pin:
            os.ftruncate(file.fileno(), 2 * PAGE + 5)
            assert letters(pin.view[4 * PAGE :]) == "0000"
            assert letters(pin.view[: 2 * PAGE]) == "ab"

    with pytest.raises(PurgedError) as failed:
        work()
    assert failed.value.ranges == [pages(4, 4)]
    assert file.size == 2 * PAGE + 5


PINNER = """
import fcntl, os, random, sys, time
from vfs_volatile import PurgedError, VolatileFile

PAGE, COUNT = 4096, 64
dice = random.Random(int(sys.argv[2]))
built = kept = 0

def page(number):
    return bytes([number + 1]) * PAGE

with VolatileFile(sys.argv[1]) as file:
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        first = dice.randrange(COUNT)
        span = first * PAGE, dice.randint(1, COUNT - first) * PAGE
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        try:
            with file.pinned(*span) as pin:
                gone = {n for start, length in pin.purged
                        for n in range(start // PAGE, (start + length) // PAGE)}
                for number in range(len(pin) // PAGE):
                    here = slice(number * PAGE, (number + 1) * PAGE)
                    if number in gone:
                        if pin.view[here] not in (bytes(PAGE), page(first + number)):
                            sys.exit(f"page {first + number} is told as lost, and is neither")
                        if dice.random() < 0.01:
                            raise KeyError("a builder fails")
                        pin.view[here] = page(first + number)
                        built += 1
                    elif pin.view[here] != page(first + number):
                        sys.exit(f"page {first + number} is told as intact, and is not")
                    else:
                        kept += 1
        except KeyError:
            pass
        finally:
            fcntl.flock(file.fileno(), fcntl.LOCK_UN)
print(built, kept)
"""


def test_whatever_pins_and_purges_there_are_nothing_lost_is_taken_for_intact(
    zero_fs: Mount,
) -> None:
    path = zero_fs.path / "file"
    with VolatileFile(path, size=64 * PAGE) as file:
        file.write(b"".join(bytes([number + 1]) * PAGE for number in range(64)))
        file.mark(behavior=PARTIAL)
        pinners = [
            subprocess.Popen(
                [sys.executable, "-c", PINNER, path, str(seed)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            for seed in range(2)
        ]
        dice = random.Random(1)
        while any(process.poll() is None for process in pinners):
            fvrange_purge(file, *pages(dice.randrange(64), dice.randint(1, 4)))
        said = [process.communicate(timeout=PATIENCE) for process in pinners]
        assert [errors for _, errors in said] == ["", ""]
        built, kept = zip(*(map(int, output.split()) for output, _ in said), strict=True)
        assert sum(built) > 20, said
        assert sum(kept) > 20, said


THREADS = """
import os, sys, threading
from tests.support import fvrange
from vfs_volatile import PurgedError, VolatileFile

with VolatileFile(sys.argv[1]) as file:
    end = threading.Event()

    def work(view):
        while not end.is_set():
            bytes(view)
            view[5] = 1

    try:
        with file.pinned() as pin:
            threads = [threading.Thread(target=work, args=(pin.view,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for _ in range(30):
                fvrange.mark(file.fileno(), 0, 0, fvrange.SIGBUS)
                fvrange.purge(file.fileno())
                fvrange.unmark(file.fileno())
            fvrange.mark(file.fileno(), 0, 0, fvrange.SIGBUS)
            fvrange.purge(file.fileno())
            end.set()
            for thread in threads:
                thread.join()
    except PurgedError as error:
        print(*map(tuple, error.ranges))
"""


def test_threads_that_work_on_what_others_purge(mount: MountFactory) -> None:
    fs = mount(semantics="stultz")
    fs.file("file", COUNT)
    done = run(THREADS, fs.path / "file")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "(0, 32768)\n"


STRANGER = """
import faulthandler, mmap, os, sys
from tests.support import fvrange
from vfs_volatile import VolatileFile

if "before" in sys.argv[2:]:
    faulthandler.enable()
with VolatileFile(sys.argv[1]) as file:
    with file.pinned():
        pass
    if "after" in sys.argv[2:]:
        faulthandler.enable()
    with file.pinned():
        memory = mmap.mmap(file.fileno(), 4096)
        os.ftruncate(file.fileno(), 0)
        print("touching", flush=True)
        memory[0]
"""


@pytest.mark.parametrize("handler", ["none", "before", "after"])
def test_a_sigbus_elsewhere_ends_the_process_as_ever(fs: Mount, handler: str) -> None:
    """``handler``: whether somebody else, faulthandler, wants to hear of it too."""
    file = fs.file("file", 1)
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, file.path, handler],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.stdout == "touching\n"
    assert done.returncode == -signal.SIGBUS
    assert ("Fatal Python error: Bus error" in done.stderr) == (handler != "none")


VICTIM = """
import os, sys, subprocess
from vfs_volatile import PurgedError, VolatileFile

with VolatileFile(sys.argv[1]) as file:
    for action in (file.read, file.populate, lambda: file.write(b"x", 5)):
        try:
            action()
            print("ok", end=" ")
        except PurgedError as error:
            print(*map(tuple, error.ranges), end=" ")
    print(*map(tuple, file.unmark()))
"""


def test_whatever_is_purged_by_others_is_an_exception_in_a_process_of_its_own(
    mount: MountFactory,
) -> None:
    fs = mount(semantics="stultz")
    with VolatileFile(fs.path / "file", size=0) as file:
        file.write(DATA)
        assert attack(fs.path / "file") == COUNT * PAGE
        done = run(VICTIM, fs.path / "file")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "(0, 32768) (0, 32768) (5, 1) (0, 32768)\n"


FORK = """
import os, sys
from vfs_volatile import VolatileFile

file = VolatileFile(sys.argv[1])
file.mark()
with file.pinned() as pin:
    pid = os.fork()
    if pid:
        os.wait()
        print(len(file.ranges()))
    else:
        assert pin.view[0] == ord("a")
"""


def test_a_child_that_leaves_the_with_does_not_end_its_parents_pin(fs: Mount) -> None:
    with VolatileFile(fs.path / "file", size=0) as file:
        file.write(DATA)
        done = run(FORK, fs.path / "file")
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "0\n")
        assert len(file.ranges()) == 1


# ---- the object ----


def test_a_descriptor_can_be_wrapped_and_stays_open(fs: Mount) -> None:
    plain = fs.file("plain", 2)
    for wrapped in (plain.fd, os.fdopen(os.dup(plain.fd), "r+b")):
        with VolatileFile(wrapped) as file:
            assert letters(file.read()) == "ab"
        assert letters(os.pread(plain.fd, 2 * PAGE, 0)) == "ab"
        if not isinstance(wrapped, int):
            wrapped.close()


def test_a_file_is_made_and_grown_but_never_cut(fs: Mount) -> None:
    with pytest.raises(FileNotFoundError):
        VolatileFile(fs.path / "none")
    with VolatileFile(fs.path / "none", size=3 * PAGE) as file:
        assert file.size == 3 * PAGE
    with VolatileFile(fs.path / "none", size=PAGE) as file:
        assert file.size == 3 * PAGE


def test_a_closed_file_says_so(file: VolatileFile) -> None:
    file.close()
    for call in (file.read, file.mark, file.unmark, file.populate, file.pinned, file.ranges):
        with pytest.raises(ValueError, match="the file is closed"):
            call()


def test_nothing_is_left_open(file: VolatileFile) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with file.pinned(), file.pinned(*pages(3)):
        pass
    with suppress(LookupError), file.pinned():
        raise LookupError
    file.populate()
    assert set(os.listdir("/proc/self/fd")) == before
    assert Path("/proc/self/maps").read_text().count("/mnt/file") == 0


def test_an_ordinary_file_is_refused_when_it_is_marked(tmp_path: Path) -> None:
    with VolatileFile(tmp_path / "file", size=PAGE) as file, pytest.raises(OSError) as failed:  # noqa: PT011
        file.mark()
    assert failed.value.errno == errno.ENOTTY
