"""The reserve of memory: what it is for can be had when the process may have no more."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.waiting import PATIENCE

PROGRAM = """
import resource
from vfs_volatile.native import shim
from vfs_volatile.native.library import lib
import threading
from vfs_volatile.native.shortage import doing_job, require_memory
from pyroaring import BitMap

def limit(headroom):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + headroom, resource.RLIM_INFINITY))

def memory_is_left():
    try:
        require_memory()
    except MemoryError:
        return False
    return True

def at_limit():
    limit(0)
    kept = []
    try:
        while True:
            kept.append(bytes(3 << 20))
    except MemoryError:
        return kept

if {with_reserve}:
    shim.keep_reserve()
assert memory_is_left()
kept = at_limit()
{what}
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
assert memory_is_left()
print("done")
"""

NEEDS = {
    "objects": "small = [[number] for number in range(60_000)]; assert not memory_is_left()",
    "lists": "large = [[0] * 20_000 for _ in range(30)]; assert not memory_is_left()",
    "bitmaps": "found = BitMap(); any(found.add(page << 16) for page in range(1 << 16));"
    " assert len(found) == 1 << 16",
    "vectors of C++": "found = BitMap([*range(150_000)]); assert len(found) == 150_000",
    "calls": "call = lambda deep: deep and call(deep - 1); [call(900) for _ in range(100)]",
}


def run(what: str, *, with_reserve: bool) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(what=what, with_reserve=with_reserve)
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", NEEDS)
def test_what_is_needed_can_be_had(name: str) -> None:
    done = run(NEEDS[name], with_reserve=True)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-1000:]


@pytest.mark.parametrize("name", ["objects", "lists", "bitmaps", "vectors of C++"])
def test_without_it_there_is_none(name: str) -> None:
    """So the test above can fail."""
    assert run(NEEDS[name], with_reserve=False).stdout != "done\n"


def test_a_slice_that_is_not_unmapped_is_had_again() -> None:
    """What was freed, and what Python keeps for later, is memory too."""
    # Of blocks that malloc(3) does not map one by one, all but the last: the heap stays as long.
    free_some = (
        "large = [bytes(90_000) for _ in range(60)]; del large[:-1]; assert memory_is_left()"
    )
    done = run(free_some, with_reserve=True)
    assert done.stdout == "done\n", done.stderr[-1000:]


JOB = """
chain, over = [], False
limited = threading.Event()
def job():
    global chain
    limited.wait()
    with {context}:
        try:
            while not over:
                chain = [chain]  # of small pieces: a large one may fail while there are others
        except MemoryError:
            pass
threading.stack_size(256 << 10)
thread = threading.Thread(target=job)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
thread.start()
limit(0)  # by what there is when nobody takes more
limited.set()
try:
    thread.join()
    small = [[number] for number in range(20_000)]
    left = "spared"
except MemoryError:
    left = "nothing spared"
over, chain, small = True, None, None  # before it is said: that needs memory
print(left)
"""


@pytest.mark.parametrize(
    ("context", "left"), [("doing_job()", "spared"), ("threading.Lock()", "nothing spared")]
)
def test_a_job_leaves_some_to_the_thread_that_serves(context: str, left: str) -> None:
    done = run(JOB.format(context=context), with_reserve=True)
    assert done.stdout == f"{left}\ndone\n", done.stderr[-1000:]


NOTHING_LEFT = """
import ctypes
import resource
import threading
from vfs_volatile.native import shim
from vfs_volatile.native.shortage import doing_job
malloc = ctypes.CDLL(None).malloc
malloc.restype = ctypes.c_void_p
def take_all():
    for exponent in range(20, 3, -1):
        while malloc(1 << exponent):
            pass
def job():
    begin.wait()
    take_all()
    with doing_job():
        pass
shim.keep_reserve()
begin = threading.Event()
thread = threading.Thread(target=job)
thread.start()
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096, resource.RLIM_INFINITY))
{what}
begin.set()
thread.join()
print("done")
"""


@pytest.mark.parametrize("what", ["pass", "take_all(); many = [[] for _ in range(9999)]"])
def test_the_first_use_in_a_thread_needs_no_memory(what: str) -> None:
    """What C keeps for each thread is asked of malloc(3), unless care is taken, and the process
    ends if there is none.
    """
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_LEFT.format(what=what)],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-1000:]


ANEW = 3
IN_PIECES = """
import ctypes
import mmap
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def call(deep):
    return deep and call(deep - 1)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
thread = threading.Thread(target=int)  # its stack is kept for another one
thread.start()
thread.join()
limit(0)
try:
    while True:
        kept.append(bytes(1 << 20))  # of the reserve
except MemoryError:
    kept.clear()
blocks = []
while at := libc.malloc(90_000):
    blocks.append(at)
for at in blocks[:-1]:
    libc.free(at)
if not memory_is_left():
    raise SystemExit({anew})  # the heap met something else: what was freed is in smaller pieces
maps = []
try:
    while True:
        maps.append(mmap.mmap(-1, 4096))
except OSError:
    pass
{what}
"""


@pytest.mark.parametrize(
    "what", ["call(900)", "thread = threading.Thread(target=int); thread.start(); thread.join()"]
)
def test_what_malloc_has_serves_for_all(what: str) -> None:
    """What was freed may be all there is, when nothing more can be mapped."""
    for _ in range(5):
        done = run(IN_PIECES.format(what=what, anew=ANEW), with_reserve=True)
        if done.returncode != ANEW:
            break
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-1000:]
