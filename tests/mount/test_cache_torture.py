"""Many processes on one VolatileCache, killed at any moment, under purges, and a ledger."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import PATHS
from tests.support.cacher import LEDGER_BYTES, READERS, WRITERS, Ledger
from tests.support.mount import LONG_DEADLINE, ROOT, MountFactory
from tests.support.waiting import PATIENCE, eventually
from vfs_volatile import VolatileCache

SECONDS = 4.0


class Troupe:
    """The processes of one torture."""

    def __init__(self, cache: Path, ledger: Path) -> None:
        self._cache = cache
        self._path = ledger
        ledger.write_bytes(bytes(LEDGER_BYTES))
        self.ledger = Ledger(ledger)
        self._seeds = iter(range(10_000))

    @property
    def hits(self) -> int:
        """Of the readers, so far."""
        return sum(map(self.ledger.hits, range(READERS)))

    def dismiss(self) -> None:
        """Let all end."""
        self._path.with_name(f"{self._path.name}.over").touch()

    def start(self, role: str, number: int, seconds: float = 3 * PATIENCE) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.support.cacher", role, self._cache, self._path),
                *(str(number), str(next(self._seeds)), str(seconds)),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def finish(process: subprocess.Popen[str]) -> tuple[int, int, int]:
    """(steps, hits, misses) of a process that ends by itself."""
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    steps, hits, misses = map(int, output.split())
    return steps, hits, misses


@pytest.mark.parametrize("options", PATHS.values(), ids=PATHS)
def test_writers_that_are_killed_leave_a_cache_that_tells_no_lies(
    mount: MountFactory, tmp_path: Path, options: dict[str, str]
) -> None:
    fs = mount(budget="2M", **options)
    troupe = Troupe(fs.path / "cache", tmp_path / "ledger")
    fs.rearm(LONG_DEADLINE)
    others = [troupe.start("reader", number) for number in range(READERS)]
    others.append(troupe.start("purger", 0))
    writers = [troupe.start("writer", number) for number in range(WRITERS)]
    written = [0] * WRITERS
    dice = random.Random(1)
    killed = 0
    begun = time.monotonic()
    while time.monotonic() - begun < SECONDS or killed <= 10 or troupe.hits <= 1000:
        assert time.monotonic() - begun < PATIENCE, (killed, troupe.hits)
        time.sleep(dice.random() * 0.1)  # the moment of the kill is what is random here
        number = dice.randrange(WRITERS)
        if writers[number].poll() is not None:
            pytest.fail(f"a writer ended by itself: {writers[number].communicate()[1]}")
        if any(process.poll() is not None for process in others):
            break  # and has something to say
        if troupe.ledger.written(number) <= written[number] + 1:
            continue  # it has not done much yet: a machine may be slow to start it
        writers[number].kill()
        writers[number].communicate(timeout=PATIENCE)
        written[number] = troupe.ledger.written(number)
        writers[number] = troupe.start("writer", number)
        killed += 1
    troupe.dismiss()
    for process in others:
        finish(process)
    for process in writers:
        process.kill()
        process.communicate(timeout=PATIENCE)
    assert killed > 10
    with VolatileCache(fs.path / "cache") as cache:
        cache["afterwards"] = "it works"
        assert cache["afterwards"] == "it works"


def test_undisturbed_writers_and_readers(mount: MountFactory, tmp_path: Path) -> None:
    """No purge, no kill: so a reader finds most of what was set."""
    fs = mount()
    troupe = Troupe(fs.path / "cache", tmp_path / "ledger")
    writers = [troupe.start("writer", number) for number in range(WRITERS)]
    assert eventually(lambda: min(map(troupe.ledger.written, range(WRITERS))) > 200)
    readers = [troupe.start("reader", number, 2) for number in range(READERS)]
    for process in readers:
        steps, hits, _ = finish(process)
        assert hits > steps / 2
    troupe.dismiss()
    for process in writers:
        finish(process)


BUILD = """
import os, sys
from vfs_volatile import VolatileCache

cache = VolatileCache(sys.argv[1], size=1 << 20)
evidence = sys.argv[2]
sys.stdin.readline()
for number in range(60):
    def build():
        os.close(os.open(f"{evidence}/building-{number}", os.O_CREAT | os.O_EXCL))
        with open(f"{evidence}/built-{number}", "a") as built:
            built.write("x")
        os.unlink(f"{evidence}/building-{number}")
        return number
    assert cache.get_or_create(number, build) == number
print("done")
"""


def test_one_builder_at_a_time_and_one_in_all(mount: MountFactory, tmp_path: Path) -> None:
    """Nothing is purged, so what one process has built no other builds again."""
    fs = mount()
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, fs.path / "cache", tmp_path],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in builders:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in builders:
        output, errors = process.communicate(timeout=PATIENCE)
        assert (output, errors) == ("done\n", "")
    built = [(tmp_path / f"built-{number}").read_text() for number in range(60)]
    assert built == ["x"] * 60


HANG = """
import sys, time
from vfs_volatile import VolatileCache

def build():
    print("building", flush=True)
    time.sleep(60)

VolatileCache(sys.argv[1], size=1 << 20).get_or_create("key", build)
"""
WAIT = """
import sys
from vfs_volatile import VolatileCache

print(VolatileCache(sys.argv[1]).get_or_create("key", lambda: "built by the next"))
"""


def test_when_a_builder_is_killed_the_next_one_builds(mount: MountFactory) -> None:
    fs = mount()
    path = str(fs.path / "cache")
    command = [sys.executable, "-c", HANG, path]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "building\n"
        command = [sys.executable, "-c", WAIT, path]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as waiting:
            assert waiting.stdout is not None
            # It waits in fcntl(F_OFD_SETLKW); /proc/locks shows the waiter of a lock with an arrow.
            assert eventually(lambda: "-> OFDLCK" in Path("/proc/locks").read_text())
            assert waiting.poll() is None
            os.kill(builder.pid, signal.SIGKILL)
            assert waiting.stdout.readline() == "built by the next\n"


MAKE = """
import sys
from vfs_volatile import VolatileCache

sys.stdin.readline()
for number in range(40):
    with VolatileCache(f"{sys.argv[1]}/{number}", size=1 << 20) as cache:
        cache[sys.argv[2]] = number
        assert cache[sys.argv[2]] == number
"""


def test_two_that_make_the_same_cache_at_once(mount: MountFactory) -> None:
    fs = mount()
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE, fs.path, name],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "other")
    ]
    for process in makers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in makers:
        _, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, errors) == (0, "")
    for number in range(40):
        with VolatileCache(fs.path / str(number)) as cache:
            assert (cache["one"], cache["other"]) == (number, number)
