"""One process of the torture of a VolatileCache.

    python -m tests.support.cacher ROLE CACHE LEDGER NUMBER SEED SECONDS

It ends after SECONDS, or before that once there is a file LEDGER.over.

Writer NUMBER alone sets and deletes its KEYS keys, one version after the other. The LEDGER, a file
elsewhere, says of every key which version was begun and which was done; it is the record that the
cache knows nothing of. A ``reader`` reads the ledger before and after a get: what it gets must be
of a version in between, whole, and not one that was a deletion. A ``purger`` purges, marks and
unmarks. They end with exit code 1 and a line on stderr that says what was wrong.
"""

from __future__ import annotations

import mmap
import os
import random
import sys
import time
from pathlib import Path

from tests.support import fvrange
from tests.support.fvrange import ZERO
from vfs_volatile import VolatileCache

KEYS = 12
"""Keys of one writer."""
WRITERS = 3
READERS = 2
LEDGER_BYTES = (WRITERS * KEYS * 2 + READERS) * 8
CACHE_BYTES = 4 << 20
DELETED_EVERY = 5
"""Each so many versions one is a deletion."""


class Ledger:
    """Version begun, and version done, of each key; what each reader has found so far."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR)
        # Numbers of 8 bytes, each loaded and stored at once; struct.pack_into would not do that.
        self._numbers = memoryview(mmap.mmap(fd, LEDGER_BYTES)).cast("Q")
        os.close(fd)

    def begun(self, key: int) -> int:
        return self._numbers[2 * key]

    def done(self, key: int) -> int:
        return self._numbers[2 * key + 1]

    def written(self, number: int) -> int:
        """Versions that a writer has done, of all its keys."""
        return sum(map(self.done, range(number * KEYS, (number + 1) * KEYS)))

    def hits(self, number: int) -> int:
        return self._numbers[2 * WRITERS * KEYS + number]

    def hit(self, number: int) -> None:
        self._numbers[2 * WRITERS * KEYS + number] += 1

    def begin(self, key: int, version: int) -> None:
        self._numbers[2 * key] = version

    def finish(self, key: int, version: int) -> None:
        self._numbers[2 * key + 1] = version


def value_of(key: int, version: int) -> bytes:
    """Of every size, most of them small; each part of it tells what it belongs to."""
    size = (version * 7919 + key) % 50
    return b"<%d %d>" % (key, version) * (1 + size if version % 40 else 20_000)


def write(cache: VolatileCache, ledger: Ledger, number: int, dice: random.Random) -> None:
    key = number * KEYS + dice.randrange(KEYS)
    version = ledger.begun(key) + 1
    ledger.begin(key, version)
    if version % DELETED_EVERY == 0:
        cache.delete(key)
    elif version % 3:
        cache.set(key, value_of(key, version), priority=key % 3)
    else:
        cache.delete(key)
        cache.get_or_create(key, lambda: value_of(key, version))
    ledger.finish(key, version)


def read(cache: VolatileCache, ledger: Ledger, number: int, dice: random.Random) -> None:
    key = dice.randrange(WRITERS * KEYS)
    oldest = ledger.done(key)
    found = cache.get(key)
    newest = ledger.begun(key)
    if found is None:
        return
    version = int(found[: found.index(b">")].split()[1])
    if found != value_of(key, version):
        sys.exit(f"key {key}: torn, {found[:40]!r} of {len(found)} bytes")
    if version % DELETED_EVERY == 0 or not oldest <= version <= newest:
        sys.exit(f"key {key}: version {version} is not one of {oldest}..{newest}")
    ledger.hit(number)


def purge(cache: VolatileCache, _: Ledger, __: int, dice: random.Random) -> None:
    fd = os.open(cache.path, os.O_RDWR)
    start = dice.randrange(CACHE_BYTES)
    match dice.randrange(6):
        case 0:
            fvrange.unmark(fd)
        case 1:
            fvrange.mark(fd, start, 1 << 16, ZERO)
            fvrange.purge(fd, start, 1 << 16)
        case 2:
            fvrange.purge(fd)
        case _:
            fvrange.purge(fd, start, 1 << 18)
    os.close(fd)


ROLES = {"writer": write, "reader": read, "purger": purge}


def main(role: str, path: str, ledger_path: str, number: str, seed: str, seconds: str) -> None:
    ledger = Ledger(Path(ledger_path))
    dice = random.Random(int(seed))
    steps = 0
    deadline = time.monotonic() + float(seconds)
    over = Path(ledger_path + ".over")
    with VolatileCache(path, size=CACHE_BYTES) as cache:
        while time.monotonic() < deadline and not over.exists():
            for _ in range(20):
                ROLES[role](cache, ledger, int(number), dice)
                steps += 1
        stats = cache.stats()
    print(steps, stats.hits, stats.misses)


if __name__ == "__main__":
    main(*sys.argv[1:])
