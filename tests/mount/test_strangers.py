"""Other users on a mount with --allow-other: they can do what the mode bits say, and no more."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.sides import USER, as_user, attempt, in_child
from tests.support import fvrange
from tests.support.acls import ACCESS, DEFAULT, acl
from tests.support.files import VFile
from tests.support.fvrange import PAGE
from tests.support.mount import LONG_DEADLINE, REST, Mount, MountFactory, run
from tests.support.mountinfo import is_mounted
from tests.support.ordinary_user import become_nobody, mount_of_a_user
from tests.support.waiting import eventually
from tests.support.watchdog import Watchdog
from vfs_volatile.abi.ioctls import FVRANGE_IOC_MVRANGE, FvrangeArgs
from vfs_volatile.client.mapped import mvrange

SECRET, PUBLIC, SHARED = "secret", "public", "shared"
MODES = {SECRET: 0o600, PUBLIC: 0o644, SHARED: 0o666}


@pytest.fixture(scope="module", autouse=True)
def root() -> None:
    if os.getuid() != 0:
        pytest.skip("plays other users: run it as root")


def populated(mounted: Mount) -> dict[str, VFile]:
    """Files of root, half volatile; the root directory is open to all, as /tmp is."""
    os.chmod(mounted.path, 0o1777)
    files = {}
    for name, mode in MODES.items():
        files[name] = mounted.file(name, 4)
        files[name].mark(0, 2 * PAGE)
        os.chmod(files[name].path, mode)
    return files


@pytest.fixture(scope="module")
def mounted(
    tmp_path_factory: pytest.TempPathFactory, probe: Path, watchdog: Watchdog
) -> Iterator[Mount]:
    work = tmp_path_factory.mktemp("open")
    options = {"allow-other": "-onosuid"}
    made = Mount(work, watchdog, probe, LONG_DEADLINE, "vfs_volatile", None, **options)
    yield made
    made.end()


@pytest.fixture
def files(mounted: Mount) -> Iterator[dict[str, VFile]]:
    mounted.rearm(LONG_DEADLINE)
    made = populated(mounted)
    states = {name: file.ranges() for name, file in made.items()}
    yield made
    assert {name: file.ranges() for name, file in made.items() if name != SHARED} == {
        name: state for name, state in states.items() if name != SHARED
    }, "a stranger changed the state of a file he may not write"
    for file in made.values():
        file.close()
        os.unlink(file.path)
    mounted.rearm(REST)


def by_attribute(here: Path) -> list[object]:
    """What becomes of each attribute call on each of the files."""
    calls: list[object] = []
    for name in MODES:
        calls += [
            attempt(os.setxattr, here / name, f"user.fvrange.{key}", b"0+4096")
            for key in ("volatile", "nonvolatile", "purge")
        ]
        calls.append(attempt(os.removexattr, here / name, "user.fvrange.volatile"))
    return calls


def test_attributes_need_the_right_to_write(mounted: Mount, files: dict[str, VFile]) -> None:
    refused = ["EACCES"] * 4
    assert as_user(by_attribute, mounted.path) == [*refused, *refused, None, None, None, None]
    assert files[SHARED].ranges() == []


def test_state_needs_the_right_to_read(mounted: Mount, files: dict[str, VFile]) -> None:
    def ask(here: Path) -> list[object]:
        return [
            attempt(os.getxattr, here / name, f"user.fvrange.{key}")
            for name in (SECRET, PUBLIC)
            for key in ("volatile", "purged", "lost")
        ]

    assert as_user(ask, mounted.path) == [*["EACCES"] * 3, b"0+8192", b"", b""]


def by_descriptor(here: Path) -> list[object]:
    fd = os.open(here / PUBLIC, os.O_RDONLY)
    other = os.open(here / "own", os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(other, PAGE)
    shared = mmap.mmap(fd, 2 * PAGE, mmap.MAP_SHARED, mmap.PROT_READ)
    private = mmap.mmap(fd, 2 * PAGE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    os.unlink(here / "own")
    return [
        *(attempt(call, fd, 0, PAGE) for call in (fvrange.mark, fvrange.unmark, fvrange.purge)),
        *(
            attempt(mvrange, memory, 2 * PAGE, mode, 0, other)
            for memory in (shared, private)
            for mode in (0, 1)
        ),
    ]


@pytest.mark.usefixtures("files")
def test_reading_gives_no_right_to_mark(mounted: Mount) -> None:
    """Neither by a descriptor, nor by a mapping, nor by a private one that may be stored to."""
    seen = as_user(by_descriptor, mounted.path)
    assert seen[:5] == ["EBADF", "EBADF", "EBADF", "EACCES", "EACCES"]
    assert set(seen[5:]) <= {"EACCES", "EINVAL"}


def test_a_vote_by_a_private_mapping_needs_the_right_to_write(mount: MountFactory) -> None:
    """Where votes decide, one who may only read could agree for all, and let go of it."""
    mounted = mount(semantics="kim", **{"allow-other": "-onosuid"})
    files = populated(mounted)
    files[PUBLIC].unmark()
    assert as_user(by_descriptor, mounted.path)[3:] == ["EACCES"] * 4
    files[PUBLIC].purge()
    assert files[PUBLIC].reads() == "abcd"


def forged(here: Path) -> list[object]:
    """Addresses of nothing, of the kernel, of memory that is no file, and all there are."""
    own = os.open(here / "own", os.O_RDWR | os.O_CREAT, 0o600)
    os.unlink(here / "own")
    spans = [(0, PAGE), (1 << 63, PAGE), ((1 << 64) - PAGE, PAGE), (0, (1 << 64) - 1), (PAGE, 1)]
    seen = []
    for start, length in spans:
        for mode in (0, 1):
            raw = bytearray(FvrangeArgs(start, length, mode).pack())
            seen.append(attempt(fcntl.ioctl, own, FVRANGE_IOC_MVRANGE, raw, True))
    return seen


@pytest.mark.usefixtures("files")
def test_forged_addresses_reach_nothing(mounted: Mount) -> None:
    assert set(as_user(forged, mounted.path)) <= {"ENOMEM", "EINVAL"}


ROOT_NAMES = (
    "budget", "purge", "resident", "volatile", "purged", "stats", "events.0", "blocked", "files",
    "slow_faults", "purge_on_mark",
)  # fmt: skip


@pytest.mark.usefixtures("files")
def test_attributes_of_the_mount_are_its_owners(mounted: Mount) -> None:
    def ask(here: Path) -> list[object]:
        names = [f"user.vfs_volatile.{name}" for name in ROOT_NAMES]
        return [
            *(attempt(os.getxattr, here, name) for name in names),
            *(attempt(os.setxattr, here, name, b"0") for name in names),
            *(attempt(os.removexattr, here, name) for name in names),
        ]

    before = mounted.number("budget")
    assert set(as_user(ask, mounted.path)) == {"EPERM"}
    assert mounted.number("budget") == before


def test_without_allow_other_a_stranger_sees_nothing(mount: MountFactory) -> None:
    mounted = mount()
    file = mounted.file("file", 2)

    def ask(here: Path) -> list[object]:
        return [
            attempt(os.listdir, here),
            attempt(fvrange.mark, file.fd),  # a descriptor that he was handed
            attempt(os.getxattr, here, "user.vfs_volatile.stats"),
        ]

    assert as_user(ask, mounted.path) == ["EACCES"] * 3


def test_attributes_cannot_eat_all_memory(mount: MountFactory) -> None:
    """They take from the room of inodes, as on tmpfs; what is deleted gives its room back."""
    mounted = mount()
    file = mounted.open("file")
    before = os.statvfs(mounted.path).f_ffree
    for number in range(16):
        os.setxattr(file.fd, f"user.a{number}", bytes(64 << 10))
    assert before - os.statvfs(mounted.path).f_ffree == 16 * 64 + 2
    os.unlink(file.path)
    file.close()
    assert eventually(lambda: os.statvfs(mounted.path).f_ffree > before)


def test_a_link_of_somebody_else_is_not_followed(tmp_path: Path) -> None:
    """In /tmp a stranger may know under which name root is about to mount."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = tmp_path / "link"
    link.symlink_to(elsewhere)
    os.lchown(link, USER, USER)
    done = run("mount", link)
    assert done.returncode == 1
    assert "symbolic link" in done.stderr
    assert not is_mounted(elsewhere)
    os.lchown(link, 0, 0)
    assert run("mount", link).returncode == 0
    assert is_mounted(elsewhere)
    assert run("umount", link).returncode == 0


@pytest.fixture
def of_a_user() -> Iterator[Path]:
    with mount_of_a_user() as (directory, _):
        yield directory


def use(here: Path) -> list[object]:
    become_nobody()
    fd = os.open(here / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"x" * 2 * PAGE, 0)
    return [
        fvrange.mark(fd),
        fvrange.purge(fd),
        attempt(os.pread, fd, 1, 0),
        fvrange.unmark(fd),
        attempt(os.setxattr, here, "user.vfs_volatile.budget", b"1M"),
        json.loads(os.getxattr(here, "user.vfs_volatile.stats")),
    ]


def test_an_ordinary_user_mounts_through_fusermount3(of_a_user: Path) -> None:
    """All that needs no privilege works, and the statistics name what is reduced."""
    *seen, stats = in_child(lambda: use(of_a_user))
    assert seen == [0, 2 * PAGE, "ENODATA", 2 * PAGE, None]
    assert stats["processes"] == "scan", "the proc connector is silent for users"
    assert attempt(os.listdir, of_a_user) == "EACCES", "not even root comes in"


def give_lists(here: Path) -> list[object]:
    become_nobody()
    inherited = acl("u:rwx,u7:r,g:,m:rwx,o:")
    os.stat(here)  # until somebody looks at it, the kernel takes a root for root's
    os.setxattr(here, DEFAULT, inherited)
    os.close(os.open(here / "list", os.O_RDWR | os.O_CREAT, 0o640))
    return [
        os.getxattr(here, DEFAULT) == inherited,
        os.getxattr(here / "list", ACCESS) == acl("u:rw,u7:r,g:,m:r,o:"),
        attempt(os.getxattr, here, ACCESS),
        attempt(os.setxattr, here / "list", ACCESS, acl("u:x,g:x,o:x")),
        oct(os.stat(here / "list").st_mode),
    ]


def test_files_of_an_ordinary_users_mount_have_lists(of_a_user: Path) -> None:
    seen = in_child(lambda: give_lists(of_a_user))
    assert seen == [True, True, "ENODATA", None, "0o100111"]
