"""The extended attributes of a file: ``setfattr`` and ``getfattr`` are enough."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.errnos import errno_of
from tests.support.files import VFile
from tests.support.fvrange import PAGE, PARTIAL, SIGBUS, ZERO, Range, pages, priority
from tests.support.mount import Mount
from tests.support.waiting import PATIENCE


@pytest.fixture
def file(fs: Mount) -> VFile:
    """Eight pages, no mark."""
    return fs.file("file", 8)


def setfattr(file: VFile, name: str, value: str | None) -> str:
    """Set ``user.fvrange.<name>`` by attr(1), or remove it (None); returns its complaint."""
    how = ["-x", f"user.fvrange.{name}"]
    if value is not None:
        how = ["-n", f"user.fvrange.{name}", "-v", value]
    finished = subprocess.run(
        ["setfattr", *how, file.path],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    return finished.stderr.rpartition(": ")[2].strip()


def getfattr(path: Path, *how: str) -> str:
    return subprocess.run(
        ["getfattr", *how, path], capture_output=True, text=True, timeout=PATIENCE, check=True
    ).stdout.strip()


def get(file: VFile, name: str) -> str:
    return getfattr(file.path, "--only-values", "-n", f"user.fvrange.{name}")


def test_the_whole_story_by_setfattr_and_getfattr(file: VFile) -> None:
    assert setfattr(file, "volatile", "all") == ""
    assert get(file, "volatile") == "0+32768"
    assert get(file, "purged") == ""
    assert setfattr(file, "purge", "4096+8192,20480+4096") == ""
    assert get(file, "purged") == "4096+8192,20480+4096"
    assert file.reads() == "aXXdeXgh"
    assert setfattr(file, "nonvolatile", "0+8K") == ""
    assert get(file, "lost") == "4096+4096"
    assert get(file, "purged") == "8192+4096,20480+4096"
    assert setfattr(file, "volatile", None) == "", "removing unmarks all"
    assert get(file, "lost") == "4096+8192,20480+4096"
    assert get(file, "volatile") == ""
    assert file.reads() == "a00de0gh"
    assert setfattr(file, "lost", None) == "", "removing acknowledges"
    assert get(file, "lost") == ""


def test_setfattr_says_why_it_failed(file: VFile) -> None:
    assert setfattr(file, "volatile", "nonsense") == "Invalid argument"
    assert setfattr(file, "purged", "0+4096") == "Operation not permitted"
    assert setfattr(file, "lost", "0+4096") == "Operation not permitted"


@pytest.mark.parametrize(
    ("value", "behavior"),
    [
        ("4096+8192", 0),
        ("4K+8K", 0),
        ("4096+8192;full", 0),
        ("4096+8192;partial", PARTIAL),
        ("4096+8192;zero", ZERO),
        ("4096+8192;sigbus", SIGBUS),
        ("4096+8192;priority=7", priority(7)),
        ("4096+8192;priority=0", 0),
        ("4096+8192;partial;zero;priority=3", PARTIAL | ZERO | priority(3)),
        ("4096+8192;priority=3;zero;partial", PARTIAL | ZERO | priority(3)),
    ],
)
def test_marking_takes_ranges_suffixes_and_options(file: VFile, value: str, behavior: int) -> None:
    file.set_attribute("volatile", value)
    assert file.ranges() == [Range(*pages(1, 2), behavior, False)]
    assert file.attribute("volatile") == "4096+8192"


def test_many_ranges_in_one_value(file: VFile) -> None:
    file.set_attribute("volatile", "0+4096,8K+8K,28672+1M")
    assert file.attribute("volatile") == "0+4096,8192+8192,28672+4096"
    file.set_attribute("nonvolatile", "0+1,12288+4096")
    assert file.attribute("volatile") == "8192+4096,28672+4096"


@pytest.mark.parametrize("suffixed", ["1M+1M", "1G+1G", "1024K+1"])
def test_suffixes_beyond_the_end_are_clipped(file: VFile, suffixed: str) -> None:
    file.set_attribute("volatile", suffixed)
    assert file.attribute("volatile") == ""


def test_xattr_and_ioctl_are_one_state(file: VFile) -> None:
    file.mark(*pages(1, 2))
    assert file.attribute("volatile") == "4096+8192"
    file.set_attribute("purge", "all")
    assert file.ranges() == [Range(*pages(1, 2), 0, True)]
    file.set_attribute("nonvolatile", "all")
    assert file.ranges() == []
    assert file.reads() == "a00defgh"


def test_marking_by_xattr_needs_only_the_path_to_be_writable(fs: Mount, file: VFile) -> None:
    reader = fs.open("file", os.O_RDONLY)
    os.setxattr(file.path, "user.fvrange.volatile", b"all")
    assert os.getxattr(reader.fd, "user.fvrange.volatile") == b"0+32768"


BAD_RANGES = [
    "",
    " ",
    "x",
    "ALL",
    "all,all",
    "all,0+4096",
    "4096",
    "4096+",
    "+4096",
    "0+4096,",
    ",0+4096",
    "0+4096,,8192+4096",
    "0+4096 ",
    " 0+4096",
    "0 + 4096",
    "-1+4096",
    "0+-1",
    "0++4096",
    "0x0+4096",
    "0+4k",
    "0+4KiB",
    "0+4P",
    "0.5+1",
    "0-4096",
    "0:4096",
    "0+4096\n8192+4096",
    "18446744073709551615+2",
    "18446744073709551616+1",
    "99999999999999999999999999+1",
    "17179869184G+1",
    "\u0660+\u0664096",  # digits, but not decimal ASCII
    b"\xff\xfe+\x00",
    b"0+4096\x00",
    "0+4096,8192+4096,nonsense",
]
BAD_OPTIONS = [
    "0+4096;",
    "0+4096;;full",
    "0+4096;bogus",
    "0+4096;FULL",
    "0+4096; full",
    "0+4096;zero;sigbus",
    "0+4096;full;partial",
    "0+4096;priority",
    "0+4096;priority=",
    "0+4096;priority=8",
    "0+4096;priority=-1",
    "0+4096;priority=1.5",
    "0+4096;priority=00000000000000000000009",
    ";full",
    "full",
]


@pytest.mark.parametrize("value", [*BAD_RANGES, *BAD_OPTIONS], ids=ascii)
def test_bad_syntax_of_a_mark_gives_einval_and_changes_nothing(
    file: VFile, value: str | bytes
) -> None:
    assert errno_of(file.set_attribute, "volatile", value) == "EINVAL"
    assert file.ranges() == []


@pytest.mark.parametrize("value", [*BAD_RANGES, "0+4096;full", "all;zero"], ids=ascii)
@pytest.mark.parametrize("name", ["nonvolatile", "purge"])
def test_bad_syntax_of_the_others_gives_einval_and_changes_nothing(
    file: VFile, name: str, value: str | bytes
) -> None:
    file.mark()
    file.purge(*pages(1))
    assert errno_of(file.set_attribute, name, value) == "EINVAL"
    assert file.reads() == "aXcdefgh"
    assert file.attribute("volatile") == "0+32768"


def test_a_very_long_value_is_one_too(file: VFile) -> None:
    many = ",".join(["0+4096"] * 9000)
    file.set_attribute("volatile", many)
    assert file.attribute("volatile") == "0+4096"
    assert errno_of(file.set_attribute, "nonvolatile", many + ",") == "EINVAL"


@pytest.mark.parametrize("name", ["purged", "lost"])
def test_what_is_only_told_cannot_be_set(file: VFile, name: str) -> None:
    for value in ("all", "", "0+4096"):
        assert errno_of(file.set_attribute, name, value) == "EPERM"


@pytest.mark.parametrize("name", ["nonvolatile", "purge"])
def test_what_is_only_done_cannot_be_read(file: VFile, name: str) -> None:
    file.mark()
    file.purge()
    assert errno_of(file.attribute, name) == "ENODATA"


def test_lost_is_what_unmarking_by_xattr_found_until_rewritten_or_truncated(file: VFile) -> None:
    file.mark()
    file.purge(*pages(2, 4))
    file.set_attribute("nonvolatile", "all")
    assert file.attribute("lost") == "8192+16384"
    os.pwrite(file.fd, b"z" * PAGE, 3 * PAGE)
    assert file.attribute("lost") == "8192+4096,16384+8192"
    os.ftruncate(file.fd, 5 * PAGE)
    assert file.attribute("lost") == "8192+4096,16384+4096"
    os.removexattr(file.fd, "user.fvrange.lost")
    assert file.attribute("lost") == ""


def test_what_the_ioctl_reported_is_not_lost_again(file: VFile) -> None:
    file.mark()
    file.purge()
    assert file.unmark() == 8 * PAGE
    assert file.attribute("lost") == ""


def test_nothing_is_listed_where_there_is_nothing(file: VFile) -> None:
    assert os.listxattr(file.path) == []
    file.mark()
    file.purge()
    file.set_attribute("nonvolatile", "all")
    os.removexattr(file.fd, "user.fvrange.lost")
    assert os.listxattr(file.path) == []
    assert getfattr(file.path, "-d", "-m", "-") == ""


def test_cp_a_and_archives_carry_other_attributes_but_no_state(fs: Mount, file: VFile) -> None:
    os.setxattr(file.fd, "user.origin", b"test")
    file.mark(*pages(0, 4))
    subprocess.run(["cp", "-a", file.path, fs.path / "copy"], check=True, timeout=PATIENCE)
    copy = fs.open("copy")
    assert os.getxattr(copy.fd, "user.origin") == b"test"
    assert copy.attribute("volatile") == ""
    assert copy.reads() == "abcdefgh"
