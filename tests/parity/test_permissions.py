"""Who may do what, set-id bits, and what a new entry inherits."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

from tests.parity.sides import USER, Sides, as_user, attempt, look, made, on_both, opened, try_open
from tests.support.files import fallocate

OTHER = USER + 1
SET_IDS = (0o6777, 0o6755, 0o2755, 0o2745, 0o4711, 0o6644, 0o1777)
"""With and without execution by the group: without it set-group-ID means mandatory locking."""


def owned(path: Path, uid: int, mode: int, gid: int | None = None) -> Path:
    """A file of ``uid`` with content, its mode set last: chown clears set-id bits."""
    made(path, b"content" * 1000)
    os.chown(path, uid, uid if gid is None else gid)
    os.chmod(path, mode)
    return path


def _list(path: Path) -> list[str]:
    return sorted(os.listdir(path))


def mode_of(path: Path) -> str:
    return stat.filemode(os.lstat(path).st_mode)


@on_both
def test_access(here: Path) -> Iterator[object]:
    """access(2) and open(2) as owner, as group, as other and as root."""
    for mode in range(0o1000):
        if mode % 8 == mode // 8 % 8 == mode // 64 or mode in (0o640, 0o604, 0o046, 0o460):
            owned(here / f"{mode:03o}", USER, mode, OTHER)
            (here / f"dir{mode:03o}").mkdir()
            made(here / f"dir{mode:03o}" / "inside")
            os.chown(here / f"dir{mode:03o}", USER, OTHER)
            os.chmod(here / f"dir{mode:03o}", mode)

    def scene(at: Path) -> Iterator[object]:
        start = os.open(at, os.O_PATH)
        for name in sorted(os.listdir(at)):
            path = at / name
            yield name, [os.access(path, way) for way in range(8)]
            yield [try_open(path, way) for way in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_PATH)]
            if name.startswith("dir"):
                yield attempt(_list, path), attempt(look, path / "inside")
                yield try_open(path / "new", os.O_CREAT | os.O_EXCL)
                yield attempt(os.unlink, path / "new")
                yield attempt(os.mkdir, path / "newdir"), attempt(os.rmdir, path / "newdir")
                yield attempt(os.rename, path / "inside", path / "moved")
                yield attempt(os.rename, path / "moved", path / "inside")
                yield attempt(os.chdir, path)
                os.fchdir(start)

    for uid, gid in ((0, 0), (USER, USER), (OTHER, OTHER), (OTHER + 1, OTHER + 1), (USER, OTHER)):
        yield uid, gid, as_user(scene, here, uid, gid)


@on_both
def test_who_may_change_attributes(here: Path) -> Iterator[object]:
    calls: list[tuple[Callable[..., object], tuple[object, ...]]] = [
        (os.chmod, (0o4755,)), (os.chmod, (0o2755,)), (os.chmod, (0o600,)), (os.chown, (-1, -1)),
        (os.chown, (USER, -1)), (os.chown, (OTHER, -1)), (os.chown, (-1, USER)),
        (os.chown, (-1, OTHER)),
        (os.truncate, (5,)), (os.setxattr, ("user.x", b"1")), (os.getxattr, ("user.x",)),
        (os.setxattr, ("trusted.x", b"1")), (os.getxattr, ("trusted.x",)),
        (os.removexattr, ("user.x",)),
        (os.setxattr, ("security.x", b"1")), (os.getxattr, ("security.x",)),
    ]  # fmt: skip
    cases = list(product((0, USER), (0o644, 0o666, 0o400, 0o6777), range(len(calls))))
    for owner, mode, number in cases:
        owned(here / f"{owner}.{mode:o}.{number}", owner, mode)

    def scene(at: Path) -> Iterator[object]:
        for owner, mode, number in cases:
            call, arguments = calls[number]
            yield attempt(call, at / f"{owner}.{mode:o}.{number}", *arguments)

    for (owner, mode, number), result in zip(cases, as_user(scene, here), strict=True):
        after = look(here / f"{owner}.{mode:o}.{number}")
        yield owner, oct(mode), calls[number][0].__name__, calls[number][1], result, after


@on_both
def test_set_ids_are_cleared(here: Path) -> Iterator[object]:
    """By chown, and by changing content; root keeps them in the latter case (CAP_FSETID)."""
    calls: dict[str, Callable[[Path], object]] = {
        "write": lambda path: _with(path, lambda fd: os.pwrite(fd, b"x", 0)),
        "write nothing": lambda path: _with(path, lambda fd: os.pwrite(fd, b"", 0)),
        "append": lambda path: _with(path, lambda fd: os.pwrite(fd, b"x", 10**5)),
        "truncate": lambda path: os.truncate(path, 5),
        "truncate to the same": lambda path: os.truncate(path, 7000),
        "grow": lambda path: os.truncate(path, 10_000),
        "ftruncate": lambda path: _with(path, lambda fd: os.ftruncate(fd, 5)),
        "O_TRUNC": lambda path: try_open(path, os.O_WRONLY | os.O_TRUNC),
        "open": lambda path: try_open(path, os.O_RDWR),
        "allocate": lambda path: _with(path, lambda fd: fallocate(fd, 0, 0, 9000)),
        "punch": lambda path: _with(path, lambda fd: fallocate(fd, 3, 0, 4096)),
        "copy": lambda path: _with(path, lambda fd: os.copy_file_range(fd, fd, 10, 0, 6000)),
        "chown to the same": lambda path: os.chown(path, -1, -1),
        "chgrp": lambda path: os.chown(path, -1, USER),
        "chmod": lambda path: os.chmod(path, 0o6751),
        "utime": lambda path: os.utime(path, (1, 2)),
        "link": lambda path: os.link(path, f"{path}.link"),
        "rename": _there_and_back,
    }
    os.chmod(here, 0o777)
    cases = [(mode, name, f"{name}{mode:o}") for mode, name in product(SET_IDS, calls)]
    for mode, name, file in cases:
        path = owned(here / file, USER, mode)
        yield oct(mode), name, "root", attempt(calls[name], path), mode_of(path)
        os.chmod(path, mode)
    for group, groups in ((USER, ()), (OTHER, ()), (OTHER, (OTHER,))):
        for mode, _, file in cases:
            os.chown(here / file, USER, group)
            os.chmod(here / file, mode)
            (here / f"{file}.link").unlink(missing_ok=True)
        results = as_user(
            lambda at: [attempt(calls[name], at / file) for _, name, file in cases],
            here,
            groups=groups,
        )
        for (mode, name, file), result in zip(cases, results, strict=True):
            yield oct(mode), name, "owner", group, groups, result, mode_of(here / file)
    for mode, _, file in cases:
        os.chmod(here / file, mode)
        yield attempt(os.chown, here / file, OTHER, -1), mode_of(here / file)


def _there_and_back(path: Path) -> None:
    os.rename(path, f"{path}.new")
    os.rename(f"{path}.new", path)


def _with(path: Path, call: Callable[[int], object]) -> object:
    with opened(path, os.O_RDWR) as fd:
        return call(fd)


@on_both
def test_writing_by_another_user_clears_set_ids(here: Path) -> Iterator[object]:
    for mode in (0o6777, 0o2777, 0o4666, 0o2666):
        path = owned(here / f"{mode:o}", 0, mode)
        yield as_user(partial(_write, path.name), here), mode_of(path)
        os.chmod(path, mode)
        yield as_user(partial(_truncate, path.name), here), mode_of(path)
        os.chmod(path, mode)
        yield as_user(partial(_allocate, path.name), here), mode_of(path)


def _write(name: str, at: Path) -> list[object]:
    return [_with(at / name, lambda fd: os.pwrite(fd, b"x", 0))]


def _allocate(name: str, at: Path) -> list[object]:
    return [_with(at / name, lambda fd: fallocate(fd, 0, 0, 9000))]


def _truncate(name: str, at: Path) -> list[object]:
    return [attempt(os.truncate, at / name, 3)]


@on_both
def test_inheriting_from_a_setgid_directory(here: Path) -> Iterator[object]:
    (here / "dir").mkdir()
    os.chown(here / "dir", 0, OTHER)
    os.chmod(here / "dir", 0o2777)

    def scene(at: Path) -> Iterator[object]:
        for number, mode in enumerate((0o644, 0o2755, 0o2745, 0o2644)):
            with opened(at / f"dir/file{number}", mode=mode) as fd:
                yield look(fd)
            os.mkdir(at / f"dir/dir{number}", mode)
            os.mkfifo(at / f"dir/fifo{number}", mode)
            yield look(at / f"dir/dir{number}"), look(at / f"dir/fifo{number}")
            yield (
                attempt(os.chmod, at / f"dir/file{number}", 0o2755),
                look(at / f"dir/file{number}"),
            )
        os.symlink("x", at / "dir/link")
        yield look(at / "dir/link")

    for uid, gid in ((USER, USER), (USER, OTHER)):
        yield as_user(scene, here, uid, gid)
        for path in (here / "dir").iterdir():
            path.rmdir() if path.is_dir() else path.unlink()
    yield from scene(here)


@on_both
def test_sticky_directories(here: Path) -> Iterator[object]:
    for mode, owner in product((0o1777, 0o777, 0o3777), (0, USER)):
        at = here / f"{mode:o}{owner}"
        at.mkdir()
        for name in ("mine", "foreign", "foreign2"):
            made(at / name)
        (at / "dir").mkdir()
        os.chown(at / "mine", USER, USER)
        os.chown(at, owner, owner)
        os.chmod(at, mode)

        def scene(at: Path) -> Iterator[object]:
            yield "over mine", attempt(os.rename, at / "foreign2", at / "mine")
            yield "over foreign", attempt(os.rename, at / "mine", at / "foreign")
            yield "rmdir", attempt(os.rmdir, at / "dir")
            yield [
                (name, attempt(os.unlink, at / name)) for name in ("mine", "foreign", "foreign2")
            ]
            yield attempt(os.mkdir, at / "new"), attempt(os.rename, at / "new", at / "newer")

        yield oct(mode), owner, as_user(scene, at), sorted(os.listdir(at)), look(at)


@on_both
def test_changing_a_link_itself(here: Path) -> Iterator[object]:
    made(here / "file")
    os.symlink("file", here / "link")
    yield attempt(os.chown, here / "link", 5, 6, follow_symlinks=False), look(here / "link")
    yield look(here / "file"), attempt(os.chown, here / "link", 7, 8), look(here / "file")
    yield attempt(os.setxattr, here / "link", "user.x", b"1", follow_symlinks=False)
    yield attempt(os.setxattr, here / "link", "trusted.x", b"1", follow_symlinks=False)
    yield os.listxattr(here / "link", follow_symlinks=False), os.listxattr(here / "file")


@on_both
def test_programs_run(here: Path) -> Iterator[object]:
    """Copied onto the mount; busy while it runs; as a script; not executable."""
    program = here / "sleep"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    yield "not executable", attempt(subprocess.run, [program, "0"]), os.access(program, os.X_OK)
    program.chmod(0o755)
    yield subprocess.run([program, "0"], check=False).returncode
    running = subprocess.Popen([program, "100"])
    yield (
        try_open(program, os.O_WRONLY),
        attempt(os.truncate, program, 0),
        attempt(os.unlink, program),
    )
    running.kill()
    running.wait()
    script = made(here / "script", b"#!/bin/sh\necho $0 | tail -c 7\n", 0o755)
    yield subprocess.run([script], capture_output=True, check=False).stdout
    with opened(script, os.O_WRONLY):
        yield "open for writing", attempt(subprocess.run, [script])


def test_set_id_programs_run(sides: Sides) -> None:
    """Not compared: tmpfs is detached here, and the kernel heeds set-id on attached mounts only."""
    identity = made(sides.ours / "id", Path("/usr/bin/id").read_bytes())
    os.chown(identity, OTHER, OTHER)
    os.chmod(identity, 0o6755)
    assert as_user(_run, sides.ours) == [f"{OTHER} {OTHER}"]


def _run(at: Path) -> list[str]:
    command = "./id -u && ./id -g"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    return [" ".join(done.stdout.split())]
