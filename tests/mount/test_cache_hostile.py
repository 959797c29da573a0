"""What others do to the file of a VolatileCache: never SIGBUS, never a wrong value, never stuck."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import PATHS
from tests.support import fvrange
from tests.support.files import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate
from tests.support.fvrange import SIGBUS, ZERO
from tests.support.mount import ROOT, Mount, MountFactory
from tests.support.mountinfo import detach
from tests.support.waiting import PATIENCE, eventually
from vfs_volatile import CacheFormatError, VolatileCache

MIB = 1 << 20
KEYS = 200


def value_of(key: int, turn: int = 0) -> bytes:
    return b"%d/%d " % (key, turn) * 700


@pytest.fixture(params=["passthrough", "cached"])
def cache(fs: Mount, request: pytest.FixtureRequest) -> Iterator[VolatileCache]:
    """On either data path; an empty file that is there is not marked before it is opened."""
    path = fs.path / "cache"
    if request.param == "cached":
        path.touch()
    with VolatileCache(path, size=16 * MIB) as made:
        assert os.getxattr(path, "user.fvrange.data_path").decode().startswith(request.param)
        for key in range(KEYS):
            made[key] = value_of(key)
        yield made


def works(cache: VolatileCache, turn: int) -> None:
    """Whatever is left is right, and new values are kept."""
    for key in range(KEYS):
        assert cache.get(key) in (None, value_of(key))
    assert len(cache) <= KEYS
    for key in range(KEYS):
        cache[key] = value_of(key, turn)
        assert cache[key] == value_of(key, turn)


def mark_and_purge(behavior: int) -> Callable[[int], None]:
    def attack(fd: int) -> None:
        mark(fd, 0, 0, behavior)
        fvrange.purge(fd)

    return attack


def mark(fd: int, start: int, length: int, behavior: int) -> None:
    """Mark; SIGBUS is refused on the passthrough path, so it is ZERO there."""
    try:
        fvrange.mark(fd, start, length, behavior)
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP
        fvrange.mark(fd, start, length, ZERO)


def unmark(fd: int) -> None:
    fvrange.unmark(fd)


def truncate(fd: int) -> None:
    os.ftruncate(fd, 0)


def truncate_a_part(fd: int) -> None:
    os.ftruncate(fd, os.fstat(fd).st_size // 2 + 5)


def punch(fd: int) -> None:
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 40)


ATTACKS = {
    "marked-sigbus-and-purged": mark_and_purge(SIGBUS),
    "marked-zero-and-purged": mark_and_purge(ZERO),
    "unmarked": unmark,
    "truncated": truncate,
    "truncated-in-part": truncate_a_part,
    "punched": punch,
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("opened_anew", [False, True], ids=["mapped", "not-mapped"])
def test_an_attack_loses_entries_and_nothing_else(
    cache: VolatileCache, attack: str, opened_anew: bool
) -> None:
    """``mapped``: the process has stored already, so it has the file mapped."""
    victim = VolatileCache(cache.path) if opened_anew else cache
    fd = os.open(cache.path, os.O_RDWR)
    try:
        for turn in range(1, 4):
            ATTACKS[attack](fd)
            works_after = victim.get(0)
            assert works_after in (None, value_of(0), value_of(0, turn - 1))
            for key in range(KEYS):
                victim[key] = value_of(key, turn)
            assert all(victim[key] == value_of(key, turn) for key in range(KEYS))
    finally:
        os.close(fd)
        victim.close()


def test_every_page_may_go_one_at_a_time(cache: VolatileCache) -> None:
    """The head, the ages, the index, the records: whatever is missing is missed, and no more."""
    fd = os.open(cache.path, os.O_RDWR)
    geometry = cache._geometry
    used = geometry.segments_at + 3 * geometry.segment_bytes
    try:
        for page in range(0, used, 4096 * (1 + used // 4096 // 150)):
            mark(fd, page, 4096, SIGBUS)
            fvrange.purge(fd, page, 4096)
            for key in range(0, KEYS, 7):
                assert cache.get(key) in (None, value_of(key))
            for key in range(0, KEYS, 7):
                cache[key] = value_of(key)
                assert cache[key] == value_of(key)
    finally:
        os.close(fd)


def test_bits_that_flip_are_misses(cache: VolatileCache) -> None:
    fd = os.open(cache.path, os.O_RDWR)
    geometry = cache._geometry
    try:
        for at in range(geometry.index_at, geometry.segments_at + 2 * geometry.segment_bytes, 997):
            byte = os.pread(fd, 1, at)
            os.pwrite(fd, bytes([byte[0] ^ 0x40]), at)
        for key in range(KEYS):
            assert cache.get(key) in (None, value_of(key))
        assert set(cache) <= set(range(KEYS))
    finally:
        os.close(fd)
    works(cache, 1)


@pytest.mark.parametrize(
    "options", [{"access": "zero"}, {"semantics": "stultz"}, {"semantics": "kim"}]
)
def test_it_works_on_any_mount(mount: MountFactory, options: dict[str, str]) -> None:
    fs = mount(budget="4M", **options)
    for turn in range(3):
        with VolatileCache(fs.path / "cache", size=64 * MIB) as cache:
            for key in range(KEYS):
                assert cache.get(key) in (None, value_of(key, turn - 1) * 10)
            for key in range(KEYS):
                cache[key] = value_of(key, turn) * 10
                assert cache[key] == value_of(key, turn) * 10
        assert eventually(lambda: fs.resident <= 6 * MIB), "closed, it gives way to the budget"


def test_after_last_close_it_is_marked_again_when_it_is_opened(mount: MountFactory) -> None:
    fs = mount(semantics="stultz")
    with VolatileCache(fs.path / "cache", size=16 * MIB) as cache:
        for key in range(KEYS):
            cache[key] = value_of(key) * 5
    assert eventually(lambda: fs.number("volatile") == 0), "nobody has it open any more"
    with VolatileCache(fs.path / "cache") as cache:
        assert fs.number("volatile") > 3 * MIB
        assert cache[KEYS - 1] == value_of(KEYS - 1) * 5


@pytest.mark.parametrize("options", PATHS.values(), ids=PATHS)
def test_a_full_mount_loses_entries_and_nothing_else(
    mount: MountFactory, options: dict[str, str]
) -> None:
    fs = mount(size="4M", budget="4M", **options)
    hog = fs.open("hog")
    with VolatileCache(fs.path / "cache", size=16 * MIB) as cache:
        for key in range(KEYS):
            cache[key] = value_of(key)
        hog.fill(900)
        for turn in range(1, 6):
            for key in range(KEYS):
                cache[key] = value_of(key, turn)
                assert cache.get(key) in (None, value_of(key, turn))
            os.fsync(cache._file.fd) if turn == 3 else None
            for key in range(KEYS):
                assert cache.get(key) in (None, value_of(key, turn))


# ---- files that are none of ours ----


def test_a_foreign_file_is_refused_and_not_touched(fs: Mount) -> None:
    path = fs.path / "foreign"
    path.write_bytes(b"somebody's text")
    with pytest.raises(CacheFormatError, match=r"foreign is not the file of a VolatileCache"):
        VolatileCache(path)
    assert path.read_bytes() == b"somebody's text"


@pytest.mark.parametrize("at", [0, 9, 20, 30, 128 + 8])
def test_a_damaged_file_is_refused(cache: VolatileCache, at: int) -> None:
    path = Path(cache.path)
    cache.close()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff\xff\xff\xff")
    with pytest.raises(CacheFormatError, match="give another path"):
        VolatileCache(path)


def test_another_size_is_refused(cache: VolatileCache) -> None:
    with pytest.raises(ValueError, match="was made with another size or entries"):
        VolatileCache(cache.path, size=32 * MIB)
    with pytest.raises(ValueError, match="was made with another size or entries"):
        VolatileCache(cache.path, entries=7)
    VolatileCache(cache.path, size=16 * MIB).close()


def test_a_file_elsewhere_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not on a vfs-volatile mount") as refused:
        VolatileCache(tmp_path / "cache")
    assert refused.value.errno == errno.ENOTTY
    assert not (tmp_path / "cache").exists()


def test_a_maker_that_died_half_way_leaves_a_file_that_can_be_opened(fs: Mount) -> None:
    with VolatileCache(fs.path / "cache", size=MIB) as cache:
        head = os.pread(cache._file.fd, 4096, 0)
    for length in (0, 4096):
        half = fs.open("half")
        os.ftruncate(half.fd, 0)
        os.pwrite(half.fd, head[:length], 0)
        with VolatileCache(half.path) as cache:
            cache["key"] = 1
            assert cache["key"] == 1


def test_when_the_daemon_is_gone_it_says_so(mount: MountFactory) -> None:
    fs = mount()
    cache = VolatileCache(fs.path / "cache", size=MIB)
    cache["key"] = 1
    fs.kill()
    with pytest.raises(OSError, match=r"not connected|aborted"):
        cache.clear()
    cache.close()
    detach(fs.path)


# ---- fork ----


def run(program: str, *arguments: object, seconds: float = PATIENCE) -> str:
    """What a Python program of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FORK = """
import os, sys, threading
from vfs_volatile import VolatileCache

cache = VolatileCache(sys.argv[1], size=1 << 20)
cache["parent"] = 1
busy = threading.Thread(target=lambda: [cache.set("busy", n) for n in range(3000)])
busy.start()
children = []
for number in range(20):
    pid = os.fork()
    if not pid:
        cache[number] = [number] * 100
        ok = cache["parent"] == 1 and cache[number] == [number] * 100
        cache.get_or_create("built", lambda: os.getpid())
        os._exit(0 if ok else 1)
    children.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
busy.join()
print(set(codes), sum(cache[n] == [n] * 100 for n in range(20)), cache["built"] in children)
"""


def test_children_use_what_they_inherit_while_a_thread_writes(fs: Mount) -> None:
    assert run(FORK, fs.path / "cache") == "{0} 20 True\n"


EXCLUDE = """
import os, sys
from vfs_volatile import VolatileCache

cache = VolatileCache(sys.argv[1], size=1 << 20)
cache["warm"] = 1                           # the locks have a descriptor before the fork
out, into = os.pipe()
with cache._file.building(b"somebody"):
    if not os.fork():
        with cache._file.building(b"somebody"):
            os.write(into, b"child")
        os._exit(0)
    os.write(into, b"parent ")
print(os.read(out, 7).decode() + os.read(out, 5).decode())
os.wait()
"""


def test_a_child_does_not_hold_what_its_parent_holds(fs: Mount) -> None:
    assert run(EXCLUDE, fs.path / "cache") == "parent child\n"


SURVIVE = """
import os, signal, sys, time
from vfs_volatile import VolatileCache

cache = VolatileCache(sys.argv[1], size=1 << 20)

def build():
    if not os.fork():
        time.sleep(30)                      # outlives the builder, and used to hold its lock
        os._exit(0)
    print("building", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

cache.get_or_create("key", build)
"""


def test_a_builder_that_is_killed_frees_its_key_also_when_it_had_forked(fs: Mount) -> None:
    builder = subprocess.Popen(
        [sys.executable, "-c", SURVIVE, fs.path / "cache"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert builder.stdout is not None
        assert builder.stdout.readline() == b"building\n"
        assert builder.wait(PATIENCE) == -signal.SIGKILL
        with VolatileCache(fs.path / "cache") as cache:
            found: list[int] = []
            other = threading.Thread(
                target=lambda: found.append(cache.get_or_create("key", lambda: 7)), daemon=True
            )
            other.start()
            other.join(PATIENCE)
            assert found == [7]
    finally:
        os.killpg(builder.pid, signal.SIGKILL)
        assert builder.stdout is not None
        builder.stdout.close()
