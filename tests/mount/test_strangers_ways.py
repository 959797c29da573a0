"""Ways around the mode bits that strangers try: other descriptors, names, and namespaces."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.sides import USER, as_user, attempt, in_child
from tests.support import fvrange
from tests.support.files import VFile
from tests.support.fvrange import PAGE
from tests.support.mount import Mount, MountFactory
from vfs_volatile.abi import ioctls

PUBLIC = "public"
REFUSED = ["EBADF"] * 5
CHANGES = (
    ioctls.FVRANGE_IOC_FVRANGE,
    ioctls.FVRANGE_IOC_MVRANGE,
    ioctls.FVRANGE_IOC_PURGE,
    ioctls.FVRANGE_IOC_VEC,
    ioctls.FVRANGE_IOC_MAP,
)
"""All calls that need the right to write."""
CLONE_NEWUSER, PR_SET_DUMPABLE = 0x10000000, 4

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module", autouse=True)
def root() -> None:
    if os.getuid() != 0:
        pytest.skip("plays other users: run it as root")


@pytest.fixture(params=["sigbus", "zero"])
def public(request: pytest.FixtureRequest, mount: MountFactory) -> Iterator[VFile]:
    """A file of root that all may read, half of it volatile; nothing of that may change."""
    mounted: Mount = mount(access=request.param, **{"allow-other": "-osuid"})
    os.chmod(mounted.path, 0o1777)
    file = mounted.file(PUBLIC, 4)
    os.chmod(file.path, 0o644)
    file.mark(0, 2 * PAGE)
    before = file.ranges()
    yield file
    assert file.ranges() == before
    assert file.reads() == "abcd"


def changes(fd: int) -> list[object]:
    """What becomes of each call that changes something, with its struct empty but for a length."""
    seen = []
    for command in CHANGES:
        raw = bytearray(command >> 16 & 0x3FFF)
        raw[8:16] = PAGE.to_bytes(8, "little") if len(raw) == 32 else bytes(8)
        seen.append(attempt(fcntl.ioctl, fd, command, raw, True))
    return seen


def test_neither_a_path_nor_a_reader_becomes_a_writer(public: VFile) -> None:
    def try_all(here: Path) -> Iterator[object]:
        for flags in (os.O_PATH, os.O_RDONLY):
            fd = os.open(here / PUBLIC, flags)
            again = f"/proc/self/fd/{fd}"
            yield changes(fd)
            yield attempt(os.open, again, os.O_RDWR)
            yield attempt(os.setxattr, again, "user.fvrange.volatile", b"all")
            yield attempt(os.removexattr, again, "user.fvrange.volatile")
            yield attempt(os.truncate, again, 0)

    refused = [REFUSED, *["EACCES"] * 4]
    assert as_user(try_all, public.path.parent) == refused + refused


def test_what_is_no_file_takes_no_call(public: VFile) -> None:
    def try_all(here: Path) -> Iterator[object]:
        (here / "link").symlink_to(PUBLIC)
        os.mkfifo(here / "fifo")
        for name, flags in (
            (".", os.O_RDONLY), ("link", os.O_PATH | os.O_NOFOLLOW), ("fifo", os.O_RDWR),
        ):  # fmt: skip
            yield changes(os.open(here / name, flags))
        for follow in (True, False):
            yield attempt(
                os.setxattr, here / "link", "user.fvrange.volatile", b"all", follow_symlinks=follow
            )
        yield attempt(os.setxattr, here, "user.fvrange.volatile", b"all")  # sticky, and not his

    here = public.path.parent
    nothing = ["ENOTTY"] * 5
    assert as_user(try_all, here) == [nothing, REFUSED, nothing, "EACCES", "EPERM", "EPERM"]


def test_a_descriptor_that_is_passed_can_what_it_was_opened_for(public: VFile) -> None:
    """As on any file: who passes a writable one shares the right, a readable one stays so."""
    theirs, ours = socket.socketpair()

    def receive(here: Path) -> Iterator[object]:
        assert here.exists()
        for _ in range(2):
            (fd,) = socket.recv_fds(theirs, 1, 1)[1]
            yield attempt(fvrange.unmark, fd, 0, PAGE)
            yield attempt(fvrange.mark, fd, 0, PAGE)
            yield attempt(os.open, f"/proc/self/fd/{fd}", os.O_RDWR)

    with theirs, ours:
        for flags in (os.O_RDONLY, os.O_WRONLY):
            fd = os.open(public.path, flags)
            socket.send_fds(ours, [b"x"], [fd])
            os.close(fd)
        seen = as_user(receive, public.path.parent)
    assert seen == ["EBADF", "EBADF", "EACCES", 0, 0, "EACCES"]
    public.unmark()  # the first page is a range of its own now
    public.mark(0, 2 * PAGE)


def test_root_of_a_user_namespace_is_a_stranger(public: VFile) -> None:
    here = public.path.parent
    own = here / "own"
    own.write_bytes(bytes(PAGE))
    os.chown(own, USER, USER)
    os.setxattr(own, "trusted.secret", b"1")

    def try_all(_: Path) -> Iterator[object]:
        _libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        assert _libc.unshare(CLONE_NEWUSER) == 0
        Path("/proc/self/uid_map").write_text(f"0 {USER} 1")
        yield os.getuid()
        yield attempt(os.setxattr, ".", "user.vfs_volatile.budget", b"1M")
        yield attempt(os.getxattr, ".", "user.vfs_volatile.stats")
        yield attempt(os.setxattr, PUBLIC, "user.fvrange.volatile", b"all")
        yield attempt(os.getxattr, PUBLIC, "user.fvrange.blockers")
        yield attempt(os.open, PUBLIC, os.O_RDWR)
        yield attempt(os.setxattr, "own", "user.fvrange.volatile", b"all")
        yield os.listxattr("own")

    denied = ["EPERM", "EPERM", "EACCES", "EPERM", "EACCES"]
    assert as_user(try_all, here) == [0, *denied, None, []]


def test_root_without_capabilities_is_held_by_the_mode_bits(public: VFile) -> None:
    other = public.path.parent / "other"
    other.write_bytes(bytes(PAGE))
    os.chown(other, USER, USER)
    os.chmod(other, 0o600)

    def try_all() -> list[object]:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # <linux/capability.h>: version 3
        assert _libc.capset(header, (ctypes.c_uint32 * 6)()) == 0
        return [
            attempt(os.open, other, os.O_RDWR),
            attempt(os.setxattr, other, "user.fvrange.volatile", b"all"),
            attempt(os.getxattr, other, "user.fvrange.volatile"),
        ]

    assert in_child(try_all) == ["EACCES"] * 3
