"""Every request that the shim takes, with every size and bit, under the sanitizers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import sanitized
from tests.support.files import VFile, fallocate
from tests.support.fvrange import PAGE
from tests.support.mount import LONG_DEADLINE, REST, ROOT, Mount
from tests.support.waiting import PATIENCE
from tests.support.watchdog import Watchdog
from vfs_volatile.abi.ioctls import FVRANGE_IOC_MVRANGE, FVRANGE_IOC_NEXT, FVRANGE_IOC_VEC

U64 = st.one_of(
    st.sampled_from([0, 1, PAGE - 1, PAGE, 4 * PAGE, (1 << 44) - 1, 1 << 63, (1 << 64) - 1]),
    st.integers(0, (1 << 64) - 1),
)
I64 = st.one_of(st.sampled_from([0, 1, PAGE, (1 << 63) - 1]), st.integers(0, (1 << 63) - 1))
MEANT = [0xC020F501, FVRANGE_IOC_MVRANGE, FVRANGE_IOC_NEXT, 0xC020F504, FVRANGE_IOC_VEC]
COMMANDS = st.one_of(
    st.sampled_from(MEANT),
    st.builds(
        lambda direction, size, number: direction << 30 | size << 16 | 0xF5 << 8 | number,
        st.integers(0, 3),
        st.integers(0, (1 << 14) - 1),
        st.integers(0, 255),
    ),
)
NAMES = st.one_of(
    st.sampled_from(["volatile", "nonvolatile", "purge", "purged", "lost", "blockers", ""]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60),
)
VALUES = st.one_of(
    st.binary(max_size=300),
    st.text("0123456789+,;KMGalfupriotyzesbg=", max_size=80).map(str.encode),
    st.sampled_from([b"all", b"0+4096", b"0+0;zero", b"," * 65536, b"0+1," * 16383 + b"0+1"]),
)
QUIET = settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitized.build(tmp_path_factory.mktemp("sanitized"))


@pytest.fixture(scope="module")
def mounted(
    tmp_path_factory: pytest.TempPathFactory, probe: Path, watchdog: Watchdog, library: Path
) -> Iterator[Mount]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(sanitized.SHIM, str(library))
        work = tmp_path_factory.mktemp("mount")
        # Without a limit of memory: that of the sanitizer takes 16 TiB of addresses.
        made = Mount(work, watchdog, probe, LONG_DEADLINE, "tests.support.sanitized", None)
    yield made
    made.end()  # raises if the daemon has said anything


@pytest.fixture
def file(mounted: Mount) -> Iterator[VFile]:
    mounted.rearm(LONG_DEADLINE)
    made = mounted.file("file", 4)
    yield made
    made.close()
    os.unlink(made.path)
    mounted.rearm(REST)
    assert mounted.process.poll() is None


def test_the_sanitizer_sees_what_the_shim_does(library: Path) -> None:
    """A buffer that is too small for what the shim is told it may write there."""
    program = (
        "import os; from tests.support import sanitized; shim = sanitized.load();"
        "from pathlib import Path; maps = os.open('/proc/self/maps', os.O_RDONLY);"
        "device = os.stat(os.environ[sanitized.SHIM]).st_dev;"
        "at = shim.ffi.new('uint64_t *'); found = shim.ffi.new('struct procmap_found[1]');"
        "shim.lib.procmap_find(maps, os.major(device), os.minor(device), at, found, 64)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=sanitized.environment(library), cwd=ROOT,
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
    assert "procmap_find" in done.stderr


def attempt(call: Callable[..., object], *arguments: object) -> None:
    """The answer does not matter: whether there is one does."""
    with contextlib.suppress(OSError, UnicodeError):
        call(*arguments)


def test_ioctls(file: VFile) -> None:
    @QUIET
    @given(COMMANDS, st.lists(st.one_of(U64, st.integers(0, 1 << 20)), min_size=4, max_size=4))
    def fuzz(command: int, words: list[int]) -> None:
        raw = b"".join(word.to_bytes(8, "little") for word in words).ljust(16384, b"\1")
        attempt(fcntl.ioctl, file.fd, command, bytearray(raw), True)

    fuzz()


def test_attributes(mounted: Mount, file: VFile) -> None:
    @QUIET
    @given(NAMES, VALUES)
    def fuzz(name: str, value: bytes) -> None:
        for path, prefix in ((file.path, "user.fvrange."), (mounted.path, "user.vfs_volatile.")):
            attempt(os.setxattr, path, prefix + name, value)
            attempt(os.getxattr, path, prefix + name)
            attempt(os.removexattr, path, prefix + name)
        os.setxattr(mounted.path, "user.vfs_volatile.budget", b"1G")

    fuzz()


def test_offsets_and_modes(file: VFile) -> None:
    @QUIET
    @given(I64, I64, st.integers(0, 0x7F), st.integers(0, 5))
    def fuzz(offset: int, length: int, mode: int, whence: int) -> None:
        attempt(fallocate, file.fd, mode & ~1, offset >> 24, min(length, 1 << 20))
        attempt(fallocate, file.fd, mode | 1, offset, length)
        attempt(os.lseek, file.fd, offset, whence)
        attempt(os.pwrite, file.fd, b"x" * (mode * 97), offset)
        attempt(os.pread, file.fd, 100, offset)
        attempt(os.ftruncate, file.fd, offset)

    fuzz()
