"""AnonymousMemory: the Python class, in programs of its own (a process has one mount)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mount import ROOT, Mount, MountFactory
from tests.support.mountinfo import detach
from tests.support.waiting import PATIENCE

Run = Callable[[str], str]

_PREAMBLE = """
import ctypes, mmap, os, signal, sys, time
from pathlib import Path
from vfs_volatile import *
mount = Path(sys.argv[1])
PAGE = mmap.PAGESIZE

def purge():
    os.setxattr(mount, "user.vfs_volatile.purge", b"all")

def raises(kind, name, call, *arguments):
    try:
        call(*arguments)
    except kind as error:
        code = getattr(error, "errno", None)
        assert name is None or os.strerror(code) == name, error
    else:
        raise AssertionError("no error")
"""


def run_program(text: str, mount: Path) -> str:
    """What the program prints; it must succeed, and say nothing on stderr."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", _PREAMBLE + text, str(mount)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.fixture
def run(fs: Mount) -> Run:
    return lambda text: run_program(text, fs.path)


def test_it_is_a_buffer_of_zeros(run: Run) -> None:
    run("""
memory = AnonymousMemory(10000, mount=mount)
assert len(memory) == 10000 and memory[:5] == bytes(5)
memory[5:8] = b"abc"
assert bytes(memoryview(memory)[4:9]) == b"\\0abc\\0"
assert memory.find(b"bc") == 6
assert isinstance(memory, mmap.mmap)
""")


def test_mvrange_marks_it_and_takes_it_back(run: Run) -> None:
    run("""
memory = AnonymousMemory(4 * PAGE, mount=mount)
memory[:] = b"a" * len(memory)
assert mvrange(memory, 2 * PAGE, VRANGE_VOLATILE, VRANGE_PARTIAL) == 0
purge()
assert mvrange(memory, len(memory), VRANGE_NONVOLATILE) == 2 * PAGE
assert memory[:] == bytes(2 * PAGE) + b"a" * 2 * PAGE
assert mvrange(memory, len(memory), VRANGE_NONVOLATILE) == 0
""")


def test_a_view_or_an_address_means_the_same_memory(run: Run) -> None:
    run("""
memory = AnonymousMemory(4 * PAGE, mount=mount)
memory[:] = b"a" * len(memory)
with memoryview(memory)[PAGE:] as view:
    mvrange(view, PAGE, VRANGE_VOLATILE)
purge()
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
assert mvrange(address, len(memory), VRANGE_NONVOLATILE) == PAGE
""")


def test_with_zero_it_may_be_touched(run: Run) -> None:
    run("""
memory = AnonymousMemory(2 * PAGE, mount=mount)
memory[:] = b"a" * len(memory)
mvrange(memory, PAGE, VRANGE_VOLATILE, VRANGE_ZERO)
purge()
assert memory[:PAGE] == bytes(PAGE) and memory[PAGE:] == b"a" * PAGE
assert mvrange(memory, PAGE, VRANGE_NONVOLATILE) == PAGE
""")


def test_touching_a_purged_page_is_sigbus(run: Run) -> None:
    run("""
memory = AnonymousMemory(PAGE, mount=mount)
memory[0] = 1
child = os.fork()
if child == 0:
    mvrange(memory, PAGE, VRANGE_VOLATILE)
    memory[0] = 2  # a page of its own
    purge()
    signal.signal(signal.SIGBUS, signal.SIG_DFL)
    sys.stderr.close()
    import faulthandler; faulthandler.disable()
    memory[0]
    os._exit(0)
_, status = os.waitpid(child, 0)
assert os.WTERMSIG(status) == signal.SIGBUS
assert memory[0] == 1
""")


def test_fork_copies_the_marks(run: Run) -> None:
    run("""
memory = AnonymousMemory(2 * PAGE, mount=mount)
memory[:] = b"a" * len(memory)
mvrange(memory, len(memory), VRANGE_VOLATILE, VRANGE_PARTIAL)
(told, tell), (wait, go) = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    mvrange(memory, PAGE, VRANGE_NONVOLATILE)
    os.write(tell, b"held")
    os.read(wait, 4)
    os._exit(mvrange(memory, len(memory), VRANGE_NONVOLATILE) // PAGE)
os.read(told, 4)
purge()
os.write(go, b"look")
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
assert mvrange(memory, len(memory), VRANGE_NONVOLATILE) == PAGE
assert memory[:PAGE] == b"a" * PAGE
""")


def test_closing_frees_it(run: Run, fs: Mount) -> None:
    run("""
memory = AnonymousMemory(8 * PAGE, mount=mount)
memory[:] = b"a" * len(memory)
view = memoryview(memory)
mvrange(memory, len(memory), VRANGE_VOLATILE)
raises(BufferError, None, memory.close)
assert int(os.getxattr(mount, "user.vfs_volatile.volatile")) == 8 * PAGE
view.release()
memory.close()
assert int(os.getxattr(mount, "user.vfs_volatile.volatile")) == 0
memory.close()
raises(ValueError, None, lambda: memory[0])
with AnonymousMemory(PAGE, mount=mount) as other:
    mvrange(other, PAGE, VRANGE_VOLATILE)
del other
import gc
third = AnonymousMemory(PAGE, mount=mount)
mvrange(third, PAGE, VRANGE_VOLATILE)
assert int(os.getxattr(mount, "user.vfs_volatile.volatile")) == PAGE
del third
gc.collect()
assert int(os.getxattr(mount, "user.vfs_volatile.volatile")) == 0
""")


def test_errors(run: Run) -> None:
    run("""
raises(OSError, "Inappropriate ioctl for device", lambda: AnonymousMemory(1, mount="/tmp"))
raises(OSError, "No such file or directory", lambda: AnonymousMemory(1, mount="/none"))
raises(ValueError, None, lambda: AnonymousMemory(-1, mount=mount))
memory = AnonymousMemory(PAGE, mount=mount)
bad = "Invalid argument"
raises(OSError, bad, mvrange, memory, PAGE, 2)
raises(OSError, bad, mvrange, memory, PAGE, VRANGE_VOLATILE, VRANGE_ZERO | VRANGE_SIGBUS)
raises(OSError, bad, mvrange, memory, -1, VRANGE_VOLATILE)
raises(OSError, bad, mvrange, memory, 1 << 70, VRANGE_VOLATILE)
raises(OSError, bad, memory.resize, PAGE)
private = mmap.mmap(-1, PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
raises(OSError, bad, mvrange, private, PAGE, VRANGE_VOLATILE)
""")


def test_files_are_still_marked_by_address(run: Run) -> None:
    run("""
memory = AnonymousMemory(PAGE, mount=mount)
with open(mount / "file", "w+b") as file:
    file.truncate(PAGE)
    mapping = mmap.mmap(file.fileno(), PAGE)
    mapping[0] = 1
    assert mvrange(mapping, PAGE, VRANGE_VOLATILE) == 0
    assert [run.length for run in fvrange_next(file)] == [PAGE]
""")


def test_without_a_daemon_it_stays(mount: MountFactory) -> None:
    mounted = mount()
    try:
        run_program(
            f"""
memory = AnonymousMemory(PAGE, mount=mount)
memory[0] = 7
mvrange(memory, PAGE, VRANGE_VOLATILE)
os.kill({mounted.process.pid}, signal.SIGKILL)
while True:
    try:
        os.stat(mount / "none")
    except OSError as error:
        if os.strerror(error.errno) == "Transport endpoint is not connected":
            break
raises(OSError, "Transport endpoint is not connected", mvrange, memory, PAGE, VRANGE_NONVOLATILE)
assert memory[0] == 7
memory.close()
""",
            mounted.path,
        )
    finally:
        mounted.kill()
        detach(mounted.path)
