"""Other ``user.*`` attributes behave as on tmpfs; those of the mount's root tell and steer it."""

from __future__ import annotations

import os

import pytest

from tests.support.errnos import errno_of
from tests.support.files import VFile
from tests.support.fvrange import PAGE, pages
from tests.support.mount import Mount, MountFactory
from tests.support.waiting import eventually
from vfs_volatile.abi.statistics import MEANINGS


@pytest.fixture
def file(fs: Mount) -> VFile:
    return fs.file("file", 1)


def test_set_get_list_remove(file: VFile) -> None:
    os.setxattr(file.fd, "user.one", b"1")
    os.setxattr(file.fd, "user.two", b"\0\xff" * 100)
    os.setxattr(file.fd, "user.empty", b"")
    assert sorted(os.listxattr(file.path)) == ["user.empty", "user.one", "user.two"]
    assert os.getxattr(file.path, "user.two") == b"\0\xff" * 100
    assert os.getxattr(file.path, "user.empty") == b""
    os.setxattr(file.fd, "user.one", b"another")
    assert os.getxattr(file.path, "user.one") == b"another"
    os.removexattr(file.path, "user.one")
    assert sorted(os.listxattr(file.path)) == ["user.empty", "user.two"]
    assert errno_of(os.getxattr, file.path, "user.one") == "ENODATA"
    assert errno_of(os.removexattr, file.path, "user.one") == "ENODATA"


def test_create_and_replace(file: VFile) -> None:
    assert errno_of(os.setxattr, file.fd, "user.a", b"1", os.XATTR_REPLACE) == "ENODATA"
    os.setxattr(file.fd, "user.a", b"1", os.XATTR_CREATE)
    assert errno_of(os.setxattr, file.fd, "user.a", b"2", os.XATTR_CREATE) == "EEXIST"
    assert os.getxattr(file.fd, "user.a") == b"1"
    os.setxattr(file.fd, "user.a", b"3", os.XATTR_REPLACE)
    assert os.getxattr(file.fd, "user.a") == b"3"


def test_sizes(file: VFile) -> None:
    largest = os.urandom(65536)
    os.setxattr(file.fd, "user.large", largest)
    assert os.getxattr(file.fd, "user.large") == largest
    assert errno_of(os.setxattr, file.fd, "user.large", largest + b"x") == "E2BIG"
    longest = "user." + "n" * 250
    os.setxattr(file.fd, longest, b"x")
    assert longest in os.listxattr(file.fd)
    assert errno_of(os.setxattr, file.fd, longest + "n", b"x") == "ERANGE"


def test_attributes_of_directories_survive_rename(fs: Mount) -> None:
    directory = fs.path / "directory"
    directory.mkdir()
    os.setxattr(directory, "user.a", b"1")
    directory.rename(fs.path / "renamed")
    assert os.getxattr(fs.path / "renamed", "user.a") == b"1"


def test_other_name_spaces_are_refused(file: VFile) -> None:
    assert errno_of(os.setxattr, file.fd, "bogus.a", b"1") == "EOPNOTSUPP"


def test_a_directory_takes_no_marks(fs: Mount) -> None:
    directory = fs.path / "directory"
    directory.mkdir()
    assert not errno_of(os.setxattr, directory, "user.fvrange.volatile", b"all").startswith("no ")
    assert os.listxattr(directory) == []


def test_the_root_tells_resident_volatile_and_purged(mount: MountFactory) -> None:
    mounted = mount()

    def numbers() -> list[int]:
        return [mounted.number(name) // PAGE for name in ("resident", "volatile", "purged")]

    assert numbers() == [0, 0, 0]
    file = mounted.file("file", 8)
    assert numbers() == [8, 0, 0]
    file.mark(*pages(0, 4))
    assert numbers()[:2] == [8, 4]
    file.purge(*pages(0, 3))
    resident, _, purged = numbers()
    assert (resident, purged) == (5, 3)
    file.unmark()
    assert numbers() == [5, 0, 0]
    file.path.unlink()
    file.close()
    assert eventually(lambda: numbers() == [0, 0, 0])


def test_the_root_tells_stats_as_json(mount: MountFactory) -> None:
    mounted = mount()
    before = mounted.stats()
    assert before
    file = mounted.file("file", 8)
    file.mark()
    file.purge()
    assert mounted.stats() != before
    assert mounted.stats().keys() == before.keys(), "all counters, from the start"
    assert mounted.stats().keys() > MEANINGS.keys()


@pytest.mark.parametrize("name", ["budget", "resident", "volatile", "purged"])
def test_an_attribute_of_its_own_says_what_stats_says(fs: Mount, name: str) -> None:
    file = fs.file("file", 5)
    fs.file("plain", 8)
    file.mark(0, 3 * PAGE)
    file.purge(0, PAGE)
    assert fs.number(name) == fs.stats()[name] != 0


@pytest.mark.parametrize(
    ("value", "expected"), [("4194304", 4 << 20), ("8M", 8 << 20), ("1G", 1 << 30)]
)
def test_the_budget_takes_sizes(mount: MountFactory, value: str, expected: int) -> None:
    mounted = mount(budget="16M")
    assert mounted.number("budget") == 16 << 20
    mounted.set_root("budget", value)
    assert mounted.number("budget") == expected


def test_the_budget_takes_a_percentage_of_memory(fs: Mount) -> None:
    before = fs.number("budget")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert before == pytest.approx(memory / 4, rel=0.01), "a quarter of memory by default"
    fs.set_root("budget", "50%")
    assert fs.number("budget") == pytest.approx(memory / 2, rel=0.01)
    fs.set_root("budget", str(before))


@pytest.mark.parametrize(
    "value", ["", "x", "-1", "1.5M", "M", "8m", "101x", "1 2", "%", "0x10", "9" * 5000]
)
def test_bad_sizes_give_einval_and_change_nothing(fs: Mount, value: str) -> None:
    budget = fs.number("budget")
    file = fs.file("file", 2)
    file.mark()
    assert errno_of(fs.set_root, "budget", value) == "EINVAL"
    assert errno_of(fs.set_root, "purge", value) == "EINVAL"
    assert fs.number("budget") == budget
    assert file.purged_pages() == []


@pytest.mark.parametrize("name", ["resident", "volatile", "purged", "stats"])
def test_what_the_root_only_tells_cannot_be_set(fs: Mount, name: str) -> None:
    assert errno_of(fs.set_root, name, "1") == "EPERM"


def test_purge_is_only_done_and_cannot_be_read(fs: Mount) -> None:
    assert errno_of(os.getxattr, fs.path, "user.vfs_volatile.purge") == "ENODATA"


def test_purge_all_takes_everything_volatile_and_nothing_else(mount: MountFactory) -> None:
    mounted = mount()
    files = [mounted.file(f"file{i}", 4) for i in range(3)]
    files[0].mark()
    files[1].mark(*pages(1, 2))
    mounted.set_root("purge", "all")
    assert [file.reads() for file in files] == ["XXXX", "aXXd", "abcd"]


def test_purge_of_a_size_takes_at_least_so_much_in_order(mount: MountFactory) -> None:
    mounted = mount()
    files = [mounted.file(f"file{i}", 4) for i in range(3)]
    for file in files:
        file.mark()
    mounted.set_root("purge", "20K")
    assert [file.reads() for file in files] == ["XXXX", "XXXX", "abcd"]
