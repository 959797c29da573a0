"""A storm of nonsense: the daemon lives on, answers as before, and nothing has changed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import string
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support import fvrange
from tests.support.files import VFile
from tests.support.fvrange import pages
from tests.support.mount import Mount
from vfs_volatile.abi.ioctls import FVRANGE_IOC_MVRANGE, FVRANGE_IOC_VEC

ROUNDS = 2000
SYNTAX = "0123456789+,;KMG=alpriorty "
EDGES = [0, 1, 4095, 4096, 4097, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


@pytest.fixture
def file(fs: Mount) -> VFile:
    """Eight pages; 2 to 5 are volatile, 3 is purged."""
    file = fs.file("file", 8)
    file.mark(*pages(2, 4))
    file.purge(*pages(3))
    return file


@pytest.fixture
def unharmed(fs: Mount, file: VFile) -> Iterator[None]:
    """After the test the file and the daemon are as they were."""
    state = file.ranges()
    yield
    assert file.ranges() == state
    assert file.reads() == "abcXefgh"
    assert fs.actor(file, "r").map("shared", "r").loads() == "abcXefgh"
    assert fs.process.poll() is None


@pytest.mark.usefixtures("unharmed")
def test_random_ioctl_numbers_sizes_and_bytes(file: VFile) -> None:
    """Numbers of our type with every direction and size, but never one that is meant."""
    dice = random.Random(1)
    meant = {fvrange.IOC_FVRANGE, fvrange.IOC_NEXT, fvrange.IOC_PURGE}
    meant |= {FVRANGE_IOC_MVRANGE, FVRANGE_IOC_VEC}
    seen: Counter[str] = Counter()
    for _ in range(ROUNDS):
        size = dice.choice([0, 1, 31, 32, 33, 64, 4096, 12312, 16383, dice.randrange(16384)])
        command = (dice.randrange(4) << 30) | (size << 16) | (0xF5 << 8) | dice.randrange(256)
        if command in meant:
            continue
        buffer = bytearray(dice.randbytes(64) * 256)
        try:
            fcntl.ioctl(file.fd, command, buffer, True)
        except OSError as error:
            seen[errno.errorcode[error.errno or 0]] += 1
        else:
            seen["no error"] += 1
    assert seen["no error"] == 0, seen
    assert seen["ENOTTY"] > ROUNDS // 2, seen


@pytest.mark.usefixtures("unharmed")
def test_random_structs_that_must_be_refused(file: VFile) -> None:
    dice = random.Random(2)
    for _ in range(ROUNDS):
        command = dice.choice([fvrange.IOC_FVRANGE, fvrange.IOC_PURGE])
        start, length = dice.choice(EDGES), dice.choice([*EDGES, dice.getrandbits(64)])
        mode, behavior = dice.choice([(dice.getrandbits(32) | 2, 0), (1, dice.getrandbits(32) | 8)])
        with pytest.raises(OSError, match="Invalid argument"):
            fvrange.call(file.fd, command, start, length, mode, behavior)


@pytest.mark.usefixtures("unharmed")
def test_next_takes_every_start(file: VFile) -> None:
    dice = random.Random(3)
    for start in [*EDGES, *(dice.getrandbits(64) for _ in range(200))]:
        run = fvrange.next_range(file.fd, start)
        assert (run is None) == (start >= 6 * 4096)


@pytest.mark.usefixtures("unharmed")
def test_random_bytes_in_attribute_values(file: VFile) -> None:
    """Random bytes, and near misses made of the characters of the syntax."""
    dice = random.Random(4)
    for _ in range(ROUNDS):
        if dice.random() < 0.5:
            value = dice.randbytes(dice.randrange(200))
        else:
            value = "".join(dice.choices(SYNTAX, k=dice.randrange(30))).encode()
        name = dice.choice(["volatile", "nonvolatile", "purge"])
        with pytest.raises(OSError, match="Invalid argument"):
            file.set_attribute(name, value + b"!")


@pytest.mark.usefixtures("unharmed")
def test_random_bytes_in_root_attributes(fs: Mount) -> None:
    dice = random.Random(5)
    budget = fs.number("budget")
    for _ in range(ROUNDS // 4):
        value = "".join(dice.choices(string.printable, k=dice.randrange(20))) + "!"
        for name in ("budget", "purge"):
            with pytest.raises(OSError, match="Invalid argument"):
                fs.set_root(name, value)
    assert fs.number("budget") == budget


@pytest.mark.parametrize("name", ["user.fvrange.", "user.fvrange.bogus", "user.fvrange.volatile2"])
@pytest.mark.usefixtures("unharmed")
def test_unknown_attributes_of_a_file_do_no_harm(file: VFile, name: str) -> None:
    with contextlib.suppress(OSError):
        os.setxattr(file.fd, name, b"all")
    with contextlib.suppress(OSError):
        os.removexattr(file.fd, name)


@pytest.mark.parametrize("name", ["user.vfs_volatile.", "user.vfs_volatile.bogus"])
@pytest.mark.usefixtures("unharmed")
def test_unknown_attributes_of_the_root_do_no_harm(fs: Mount, name: str) -> None:
    with contextlib.suppress(OSError):
        os.setxattr(fs.path, name, b"all")
    with contextlib.suppress(OSError):
        os.removexattr(fs.path, name)
