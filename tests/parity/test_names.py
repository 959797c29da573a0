"""Names: open flags, making and removing entries, links, rename with all its corners."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from tests.parity.calls import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, renameat2
from tests.parity.sides import as_user, attempt, look, made, on_both, opened, try_open

LONG = "n" * 255


def one_of_each(here: Path) -> list[str]:
    """An entry of every type, among them links that lead to a file, a directory, and nowhere."""
    made(here / "file", b"content")
    os.link(here / "file", here / "hard")
    (here / "dir").mkdir()
    (here / "full").mkdir()
    made(here / "full" / "inside")
    os.symlink("file", here / "link")
    os.symlink("dir", here / "dirlink")
    os.symlink("nothing", here / "dangling")
    os.symlink("loop", here / "loop")
    os.mkfifo(here / "fifo")
    return ["file", "hard", "dir", "full", "link", "dirlink", "dangling", "loop", "missing",
            "file/", "dir/", "dirlink/", "missing/", "dir/.", "dir/..", ".", "..",
            "full/inside", "missing/inside", "file/inside", LONG, LONG + "n"]  # fmt: skip


def tree(here: Path) -> list[tuple[object, ...]]:
    """Everything below ``here``: path, stat, and where a link points."""
    return sorted(
        (str(path.relative_to(here)), look(path), os.readlink(path) if path.is_symlink() else "")
        for path in here.rglob("*")
    )


def inside(here: Path, name: str) -> str:
    """Joined by hand: pathlib would drop a trailing slash and a dot."""
    return f"{here}/{name}"


@on_both
def test_open_flags(here: Path) -> Iterator[object]:
    names = one_of_each(here)
    ways = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
    extras = (
        0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_NOFOLLOW, os.O_DIRECTORY, os.O_PATH,
        os.O_PATH | os.O_NOFOLLOW, os.O_APPEND, os.O_DIRECT, os.O_CREAT | os.O_DIRECTORY,
        os.O_CREAT | os.O_NOFOLLOW, os.O_PATH | os.O_DIRECTORY, os.O_TRUNC, os.O_NOATIME,
        os.O_TRUNC | os.O_DIRECTORY,
    )  # fmt: skip
    for name, way, extra in product(names, ways, extras):
        yield name, way, extra, try_open(inside(here, name), way | extra)
    yield from tree(here)


@on_both
def test_files_without_a_name(here: Path) -> Iterator[object]:
    """O_TMPFILE, with every way, mode and umask; and the name that it may get, once."""
    one_of_each(here)
    for way, extra in product(
        (os.O_RDONLY, os.O_WRONLY, os.O_RDWR), (0, os.O_EXCL, os.O_CREAT, os.O_APPEND)
    ):
        for name in (".", "dir", "dirlink", "file", "link", "missing"):
            yield name, way, extra, try_open(inside(here, name), os.O_TMPFILE | way | extra, 0o666)
    for number, mask in enumerate((0, 0o022, 0o777)):
        before = os.umask(mask)
        fd = os.open(here, os.O_TMPFILE | os.O_RDWR, 0o7666)
        os.umask(before)
        yield os.pwrite(fd, b"content", number), look(fd)
        for name in ("a", "b", "file"):
            yield attempt(link_of, fd, here / f"{name}{number if name != 'file' else ''}"), look(fd)
        os.close(fd)
    with opened(here, os.O_TMPFILE | os.O_RDWR | os.O_EXCL) as fd:
        yield attempt(link_of, fd, here / "never")
    yield from tree(here)


def link_of(fd: int, name: Path) -> None:
    # With a src_dir_fd, which an absolute path ignores, Python follows the link.
    os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=fd, follow_symlinks=True)


@on_both
def test_creating_gives_mode_and_owner(here: Path) -> Iterator[object]:
    for number, mask in enumerate((0, 0o022, 0o077, 0o777)):
        before = os.umask(mask)
        with opened(here / f"file{number}", mode=0o7777) as fd:
            yield look(fd)
        os.mkdir(here / f"dir{number}", 0o7777)
        os.mkfifo(here / f"fifo{number}", 0o666)
        os.symlink("x", here / f"link{number}")
        os.umask(before)
    yield from tree(here)
    with opened(here / "unwritable", os.O_RDWR | os.O_CREAT, 0o000) as fd:
        yield os.write(fd, b"the descriptor may write")
    yield (
        "O_TRUNC",
        try_open(here / "unwritable", os.O_WRONLY | os.O_TRUNC),
        look(here / "unwritable"),
    )


@on_both
def test_making_and_removing_what_cannot_be(here: Path) -> Iterator[object]:
    names = one_of_each(here)
    for name in names:
        path = inside(here, name)
        yield name, "mkdir", attempt(os.mkdir, path), attempt(os.rmdir, path)
    yield from tree(here)
    for name in names:
        path = inside(here, name)
        yield name, "rmdir", attempt(os.rmdir, path)
        yield name, "unlink", attempt(os.unlink, path)
        yield name, "symlink", attempt(os.symlink, "target", path), attempt(os.unlink, path)
        yield name, "mkfifo", attempt(os.mkfifo, path), attempt(os.unlink, path)
        yield name, "readlink", attempt(os.readlink, path)
    yield from tree(here)


@on_both
def test_link(here: Path) -> Iterator[object]:
    names = one_of_each(here)
    for source, goal in product([*names, "fifo"], ["new", "new/", "file", "dir", "dangling", LONG]):
        result = attempt(os.link, inside(here, source), inside(here, goal), follow_symlinks=False)
        yield source, goal, result, attempt(os.unlink, inside(here, "new"))
    yield "followed", attempt(os.link, here / "link", here / "new", follow_symlinks=True)
    yield os.path.samefile(here / "new", here / "file")
    yield from tree(here)


@on_both
def test_rename(here: Path) -> Iterator[object]:
    """Every source over every goal, with every flag, on a fresh set each."""
    flags = (0, RENAME_NOREPLACE, RENAME_EXCHANGE)
    sources = ["file", "dir", "full", "link", "missing", "file/", "dir/", ".."]
    goals = ["file", "hard", "dir", "full", "dirlink", "fifo", "new", "new/", "dir/new", "full/new",
             "missing/new", "dir/."]  # fmt: skip
    for number, (source, goal, flag) in enumerate(product(sources, goals, flags)):
        at = here / str(number)
        at.mkdir()
        made(at / "file", b"content")
        os.link(at / "file", at / "hard")
        (at / "dir").mkdir()
        (at / "full").mkdir()
        made(at / "full" / "inside")
        os.symlink("file", at / "link")
        os.symlink("dir", at / "dirlink")
        os.mkfifo(at / "fifo")
        result = attempt(renameat2, inside(at, source), inside(at, goal), flag)
        yield source, goal, flag, result, tree(at)


@on_both
def test_rename_between_directories(here: Path) -> Iterator[object]:
    """Link counts and sizes of both directories, and where .. leads."""
    for flag in (0, RENAME_EXCHANGE):
        for source, goal in product(("file", "dir"), repeat=2):
            at = here / f"{flag}{source}{goal}"
            for side, name in (("left", source), ("right", goal)):
                (at / side).mkdir(parents=True)
                if name == "dir":
                    (at / side / name).mkdir()
                else:
                    made(at / side / name)
            moved, over = at / "left" / source, at / "right" / goal
            yield flag, source, goal, attempt(renameat2, moved, over, flag), tree(at)
            if over.is_dir():
                yield os.path.samefile(over / "..", at / "right")
    yield "below itself", attempt(os.rename, here / "0filefile", here / "0filefile/left/new")
    yield "above", attempt(os.rename, here / "0filefile/right", here / "0filefile")
    yield attempt(renameat2, here / "0filefile", here / "0filefile/right", RENAME_EXCHANGE)
    both = RENAME_NOREPLACE | RENAME_EXCHANGE
    yield "contradiction", attempt(renameat2, here / "0filefile", here / "new", both)


@on_both
def test_whiteout(here: Path) -> Iterator[object]:
    made(here / "file")
    for flag in (RENAME_WHITEOUT, RENAME_WHITEOUT | RENAME_EXCHANGE, 8):
        yield flag, attempt(renameat2, here / "file", here / "new", flag), tree(here)


@on_both
def test_whose_a_whiteout_is(here: Path) -> Iterator[object]:
    """Who renames owns it, as what he makes; not who owns the file."""
    os.mkdir(here / "of a group")
    os.chown(here / "of a group", 0, 78)
    os.chmod(here / "of a group", 0o2777)
    for path in (here / "file", here / "of a group" / "file"):
        os.chown(made(path), 34, 56)
        renameat2(path, here / "new", RENAME_WHITEOUT)
        yield look(path), look(here / "new")


@on_both
def test_odd_names(here: Path) -> Iterator[object]:
    for name in (
        b"\xff\xfe",
        b"new\nline",
        b" ",
        b"...",
        b"\\",
        b"\x01",
        "\u00e9".encode(),
        b"n" * 255,
    ):
        path = bytes(here) + b"/" + name
        yield name, try_open(os.fsdecode(path), os.O_CREAT | os.O_EXCL)
        yield attempt(os.link, path, path + b"n"), attempt(os.symlink, name, path + b"n")
        yield attempt(os.mkdir, path + b"n"), attempt(os.rename, path, path + b"n")
    yield sorted(os.listdir(bytes(here)))
    for length in (1, 4094, 4095, 4096):
        yield length, attempt(os.symlink, "t" * length, here / f"link{length}")
        yield attempt(
            lambda path: (os.readlink(path), os.lstat(path).st_size), here / f"link{length}"
        )
    yield "nothing", attempt(os.symlink, "", here / "nothing")


@on_both
def test_deep_paths(here: Path) -> Iterator[object]:
    """Deeper than PATH_MAX, step by step."""
    start = os.open(".", os.O_PATH)
    try:
        os.chdir(here)
        for _ in range(30):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        yield try_open("file", os.O_CREAT), look(Path("file"))
        for _ in range(30):
            os.chdir("..")
        yield os.path.samefile(".", here)
    finally:
        os.chdir(start)
        os.close(start)
    yield attempt(os.stat, here / "/".join(["d" * 200] * 30))


@on_both
def test_special_files(here: Path) -> Iterator[object]:
    kinds = (stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR, 0)
    for kind, device in product(kinds, (0, os.makedev(1, 3), os.makedev(259, 70000))):
        path = here / f"{kind}-{device}"
        yield kind, device, attempt(os.mknod, path, kind | 0o640, device), attempt(look, path)
    os.mknod(here / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with opened(here / "null", os.O_RDWR) as null:
        yield os.write(null, b"gone"), os.read(null, 1)
    yield as_user(lambda at: [attempt(os.mknod, at / "x", stat.S_IFCHR, os.makedev(1, 3))], here)


@on_both
def test_socket(here: Path) -> Iterator[object]:
    path = here / "socket"
    before = os.open(".", os.O_PATH)
    os.chdir(here)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            yield attempt(server.bind, "socket"), look(path), attempt(server.bind, "socket")
            yield "not listening", attempt(client.connect, "socket")
            server.listen()
            client.connect("socket")
            client.send(b"hello")
            with server.accept()[0] as connection:
                yield connection.recv(10), client.getpeername()
            yield "open", try_open(path, os.O_RDWR)
    finally:
        os.chdir(before)
        os.close(before)
    yield look(path), attempt(os.unlink, path)


@on_both
def test_fifo(here: Path) -> Iterator[object]:
    os.mkfifo(here / "fifo")
    yield "no reader", try_open(here / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    with opened(here / "fifo", os.O_RDONLY | os.O_NONBLOCK) as reader:
        with opened(here / "fifo", os.O_WRONLY) as writer:
            yield os.write(writer, b"through"), os.read(reader, 100), attempt(os.read, reader, 1)
            yield attempt(os.lseek, writer, 0, os.SEEK_CUR), attempt(os.ftruncate, writer, 0)
        yield "end of file", os.read(reader, 1)
    yield look(here / "fifo"), attempt(os.truncate, here / "fifo", 1)


@on_both
def test_unlinked_but_open(here: Path) -> Iterator[object]:
    path = made(here / "file", b"content")
    os.link(path, here / "other")
    with opened(path) as fd:
        os.unlink(path)
        yield look(fd), os.pread(fd, 10, 0), os.pwrite(fd, b"CONTENT", 0)
        os.rename(made(here / "new", b"x"), here / "other")
        yield look(fd), os.pread(fd, 10, 0), os.pwrite(fd, b"more", 10), look(fd)
        own = f"/proc/self/fd/{fd}"
        yield attempt(os.link, own, here / "back", follow_symlinks=True)
        with opened(own, os.O_RDWR) as again:
            yield os.pread(again, 20, 0)
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, 3)
        yield look(fd), attempt(os.utime, fd, (1, 2)), os.fstat(fd).st_mtime
        yield try_open(path, os.O_CREAT | os.O_EXCL), os.pread(fd, 10, 0), look(path)


@on_both
def test_removed_directory_that_is_open(here: Path) -> Iterator[object]:
    (here / "dir").mkdir()
    with opened(here / "dir", os.O_RDONLY) as fd:
        os.rmdir(here / "dir")
        yield look(fd), os.listdir(fd)
        yield attempt(os.open, "new", os.O_CREAT | os.O_RDWR, dir_fd=fd)
        yield attempt(os.mkdir, "new", dir_fd=fd), attempt(os.stat, "new", dir_fd=fd)
        made(here / "file")
        yield attempt(os.rename, here / "file", "new", dst_dir_fd=fd)
        yield attempt(os.link, here / "file", "new", dst_dir_fd=fd)
        yield attempt(os.symlink, "x", "new", dir_fd=fd), attempt(os.fchmod, fd, 0o700), look(fd)
    yield look(here)
