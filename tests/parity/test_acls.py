"""Access control lists: whom they let in, what they make of modes, and who inherits them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

from tests.parity.sides import USER, as_user, attempt, look, made, on_both, opened, try_open
from tests.parity.test_permissions import OTHER, mode_of, owned
from tests.parity.test_times import wait_for_the_next_tick
from tests.support.acls import ACCESS, DEFAULT, acl

GROUP = USER + 5
LISTS = (
    "u:rw,g:r,o:r",
    "u:,g:,o:",
    "u:rwx,g:rwx,m:,o:rwx",
    "u:rw,g:rw,m:r,o:",
    f"u:rw,u{USER}:r,g:,m:rw,o:",
    f"u:rw,u{USER}:rwx,g:r,m:rx,o:r",
    f"u:r,u{USER}:,g:rwx,m:rwx,o:rwx",
    f"u:rwx,u0:,u{OTHER}:x,g:w,g{GROUP}:r,g{OTHER}:w,m:rwx,o:",
    f"u:rwx,g:,g{USER}:rw,g{GROUP}:rx,m:rwx,o:rwx",
    f"u:rwx,g:,g{GROUP}:rwx,m:r,o:w",
)
NONE = acl("u:,g:,o:")
NO_LISTS = (
    b"", b"\2\0\0", b"\2\0\0\0", b"\1\0\0\0", b"\3" + NONE[1:], NONE[:-1], NONE + b"\0",
    *map(acl, (
        "u:,g:", "u:,o:", "g:,o:", "g:,u:,o:", "u:,g:,o:,m:", "u:,u:,g:,o:", "u:,g:,g:,o:",
        "u:,g:,o:,o:", "u:,g:,m:,m:,o:", "u:,u5:,g:,o:", "u:,g:,g5:,o:", "u:,u5:,u5:,g:,m:,o:",
        "u:,u6:,u5:,g:,m:,o:", "u:,g:,g6:,g5:,m:,o:", "u:,u4294967295:,g:,m:,o:",
    )),
    NONE.replace(b"\1\0\0\0", b"\1\0\x08\0"), NONE.replace(b"\4\0", b"\5\0"),
    NONE.replace(b"\xff" * 4, b"\5\0\0\0"),
)  # fmt: skip
"""What is no list, or is not in order: some of it the kernel takes all the same."""


def _make(here: Path) -> list[Path]:
    """An inode of each type that there is without more ado."""
    made(here / "file")
    (here / "dir").mkdir()
    os.mkfifo(here / "fifo")
    os.symlink("file", here / "link")
    return [here / name for name in ("file", "dir", "fifo", "link")]


def _lists(path: Path | int) -> list[object]:
    follow = isinstance(path, int)
    return [attempt(os.getxattr, path, name, follow_symlinks=follow) for name in (ACCESS, DEFAULT)]


def _all(path: Path) -> object:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return path.name, look(path), names, _lists(path)


@on_both
def test_lists_and_modes(here: Path) -> Iterator[object]:
    """Set, read, listed and removed, on everything; what says no more than the mode is not kept."""
    for path, name in product(_make(here), (ACCESS, DEFAULT)):
        give = partial(os.setxattr, path, name, follow_symlinks=False)
        take = partial(os.removexattr, path, name, follow_symlinks=False)
        yield attempt(take), _all(path)
        for text in LISTS:
            yield text, attempt(give, acl(text)), _all(path)
        for flags in (os.XATTR_CREATE, os.XATTR_REPLACE):
            yield flags, attempt(give, acl(LISTS[4]), flags), _all(path)
        yield attempt(take), _all(path), attempt(take), _all(path)
        for value in NO_LISTS:
            yield value, attempt(give, acl(LISTS[5])), attempt(give, value), _all(path)


@on_both
def test_chmod(here: Path) -> Iterator[object]:
    """The mask follows the bits of the group, and all others stay."""
    for path, text, mode in product(_make(here)[:3], LISTS, (0, 0o777, 0o640, 0o7421, 0o2070)):
        os.chmod(path, 0o600)
        os.setxattr(path, ACCESS, acl(text))
        if path.is_dir():
            os.setxattr(path, DEFAULT, acl(text))
        yield oct(mode), attempt(os.chmod, path, mode), _all(path)
        yield attempt(os.chown, path, USER, OTHER), _all(path)


@on_both
def test_ctime(here: Path) -> Iterator[object]:
    """A list is a change, also if it is that which was there, and when there is none to remove."""
    path = here / "dir"
    path.mkdir()
    calls: list[Callable[[], object]] = [
        *(partial(os.setxattr, path, name, acl(LISTS[4])) for name in (ACCESS, DEFAULT) * 2),
        *(partial(os.removexattr, path, name) for name in (ACCESS, DEFAULT) * 2),
        partial(os.setxattr, path, ACCESS, acl("u:rwx,g:rx,o:rx")),
        partial(os.setxattr, path, ACCESS, b"\2\0\0\0"),
        partial(os.getxattr, path, "user.none"),
    ]
    for call in calls:
        before = os.stat(path)
        wait_for_the_next_tick()
        result, after = attempt(call), os.stat(path)
        yield result, after.st_ctime_ns > before.st_ctime_ns, after.st_mtime_ns > before.st_mtime_ns


PEOPLE: list[tuple[int, int, tuple[int, ...]]] = [
    (0, 0, ()), (USER, USER, ()), (OTHER, OTHER, ()), (OTHER, GROUP, ()),
    (OTHER, 7, (GROUP, OTHER)), (USER, GROUP, (OTHER,)), (8, 8, ()), (8, 8, (OTHER,)),
    (8, USER, (GROUP,)),
]  # fmt: skip


def _try_everything(at: Path) -> Iterator[object]:
    start = os.open(at, os.O_PATH)
    for path in sorted(at.iterdir()):
        yield path.name, [os.access(path, way) for way in range(8)]
        yield [try_open(path, way) for way in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)]
        if path.is_dir():
            yield attempt(os.listdir, path), attempt(look, path / "inside")
            yield try_open(path / "new", os.O_CREAT | os.O_EXCL), attempt(os.unlink, path / "new")
            yield attempt(os.rename, path / "inside", path / "moved")
            yield attempt(os.rename, path / "moved", path / "inside")
            yield attempt(os.chdir, path)
            os.fchdir(start)
    os.close(start)


@on_both
def test_access(here: Path) -> Iterator[object]:
    """As owner, as somebody named, of a group named, masked, and as other; by path and by open."""
    for number, text in enumerate(LISTS):
        path = owned(here / f"file{number}", USER, 0o600, OTHER)
        os.setxattr(path, ACCESS, acl(text))
        path = here / f"dir{number}"
        path.mkdir()
        made(path / "inside")
        os.setxattr(path, ACCESS, acl(text))
        os.chown(path, 9, OTHER)
    for who, gid, groups in PEOPLE:
        yield who, gid, groups, as_user(_try_everything, here, who, gid, groups)


@on_both
def test_a_change_counts_at_once(here: Path) -> Iterator[object]:
    """Whatever the kernel remembers of a list."""
    path = owned(here / "file", 9, 0o640, 9)

    def enters(at: Path) -> Iterator[object]:
        yield try_open(at / "file", os.O_RDONLY), try_open(at / "file", os.O_RDWR)

    def seen() -> object:
        return as_user(enters, here), look(path)

    letting, closed = acl(f"u:rw,u{USER}:rw,g:r,m:rw,o:"), acl(f"u:rw,u{USER}:,g:r,m:rw,o:")
    yield "none", seen()
    for value in (letting, closed, letting):
        os.setxattr(path, ACCESS, value)
        yield "set", seen()
    for mode in (0o600, 0o640, 0o660, 0o606):
        os.chmod(path, mode)
        yield "chmod", seen(), _lists(path)
    os.chown(path, OTHER, OTHER)
    yield "chown", seen()
    os.chmod(path, 0o660)
    with opened(path) as fd:
        os.rename(path, here / "moved")
        owned(path, 9, 0o600, 9)
        yield "another by this name", seen()
        os.replace(here / "moved", path)
        yield "back", seen()
        os.removexattr(fd, ACCESS)
    yield "removed", seen()


DEFAULTS = (*LISTS, f"u:rwx,u{USER}:rwx,g:rwx,m:rwx,o:rwx", "u:rwx,g:rwx,o:rwx")
UMASKS = (0, 0o022, 0o077, 0o777)


def _create_all_kinds(at: Path) -> Iterator[object]:
    """With modes and umasks, below a directory ``dir``, and deeper; and without a name."""
    for umask, mode in product(UMASKS, (0, 0o777, 0o640, 0o2755, 0o1666)):
        old = os.umask(umask)
        names = [at / "dir" / f"{kind}{umask:o}.{mode:o}" for kind in ("f", "d", "p", "s", "n")]
        file, directory, fifo, link, node = names
        made_all = [
            try_open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode),
            attempt(os.mkdir, directory, mode),
            attempt(os.mkfifo, fifo, mode),
            attempt(os.symlink, "x", link),
            attempt(os.mknod, node, stat.S_IFREG | mode),
            attempt(os.mkdir, directory / "deeper", mode),
            try_open(directory / "deeper" / "file", os.O_CREAT | os.O_WRONLY, mode),
        ]
        with opened(at / "dir", os.O_TMPFILE | os.O_RDWR, mode) as fd:
            made_all += [look(fd), _lists(fd)]
        os.umask(old)
        yield oct(umask), oct(mode), made_all


@on_both
def test_inheriting(here: Path) -> Iterator[object]:
    """By files, directories, and nodes, with every umask; by links never."""
    for number, text in enumerate((None, *DEFAULTS)):
        for setgid in (0, stat.S_ISGID):
            at = here / f"{number}.{setgid}"
            (at / "dir").mkdir(parents=True)
            os.chown(at / "dir", USER, OTHER)
            os.chmod(at / "dir", 0o775 | setgid)
            if text is not None:
                os.setxattr(at / "dir", DEFAULT, acl(text))
            yield text, setgid, as_user(_create_all_kinds, at)
            yield [_all(path) for path in sorted((at / "dir").rglob("*"))]
            yield list(_create_all_kinds(at)), _all(at / "dir")


@on_both
def test_an_unnamed_or_moved_file_keeps_what_it_has(here: Path) -> Iterator[object]:
    for name in ("from", "to"):
        (here / name).mkdir()
    os.setxattr(here / "from", DEFAULT, acl(LISTS[5]))
    os.setxattr(here / "to", DEFAULT, acl(LISTS[8]))
    path = made(here / "from/file")
    yield _all(path)
    os.link(path, here / "to/link")
    os.rename(path, here / "to/file")
    yield _all(here / "to/link"), _all(here / "to/file")
    os.removexattr(here / "from", DEFAULT)
    yield _all(made(here / "from/later")), _all(here / "from")


@on_both
def test_set_group_id(here: Path) -> Iterator[object]:
    """Whoever is not of the group loses the bit with the list, as with chmod; root does not."""
    values = [acl(LISTS[4]), acl("u:rwx,g:rx,o:"), None]
    for number, (mode, value) in enumerate(product((0o2755, 0o2745, 0o6777), values)):
        for gid in (USER, OTHER, GROUP):
            names = [f"{number}.{gid}", f"dir{number}.{gid}"]
            made(here / names[0])
            (here / names[1]).mkdir()
            for name in names:
                os.chown(here / name, USER, gid)
                os.chmod(here / name, mode)
            yield names, as_user(partial(_give_or_take, names, value), here, USER, USER, [GROUP])
            yield [mode_of(here / name) for name in names]
            for name in names:
                os.chmod(here / name, mode)
            yield (
                "root",
                _give_or_take(names, value, here),
                [mode_of(here / name) for name in names],
            )


def _give_or_take(names: list[str], value: bytes | None, at: Path) -> list[object]:
    if value is None:
        return [attempt(os.removexattr, at / name, ACCESS) for name in names]
    return [attempt(os.setxattr, at / name, ACCESS, value) for name in names]


@on_both
def test_who_may_change_lists(here: Path) -> Iterator[object]:
    """The owner and root; nobody by a right that a list gives."""
    value = acl(f"u:rwx,u{OTHER}:rwx,g:rwx,m:rwx,o:rwx")
    for owner in (0, USER, OTHER):
        path = owned(here / f"{owner}", owner, 0o777)
        os.setxattr(path, ACCESS, value)

    def scene(at: Path) -> Iterator[object]:
        for owner in (0, USER, OTHER):
            path = at / f"{owner}"
            yield (
                attempt(os.setxattr, path, ACCESS, acl(LISTS[5])),
                attempt(os.getxattr, path, ACCESS),
            )
            yield attempt(os.removexattr, path, ACCESS), sorted(os.listxattr(path))
            yield attempt(os.chmod, path, 0o777)

    for uid in (OTHER, USER, 0):
        yield uid, as_user(scene, here, uid, uid)
