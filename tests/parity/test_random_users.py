"""Random calls by several users on both sides: what access control lists, modes, owners and umasks
let each of them do, and what becomes of them.

With numbers of its own, not of hypothesis: that makes short sequences of few kinds of calls.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.parity.sides import Sides, attempt, made
from tests.support.acls import ACCESS, DEFAULT, acl
from tests.support.mount import Mount

ROUNDS, STEPS = 15, 60


class Person(NamedTuple):
    """Who makes a call."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class Call(NamedTuple):
    """What is called, of a name relative to the root of the side."""

    function: Callable[..., object]
    arguments: tuple[object, ...]


PEOPLE = [
    Person(0, 0), Person(1, 11), Person(1, 11, (12,)), Person(2, 12), Person(2, 13, (11,)),
    Person(3, 13), Person(3, 13, (11, 12)),
]  # fmt: skip
NAMES = ["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "e", "e/a", "e/d"]
MODES = [0o777, 0o666, 0o640, 0o2755, 0o6777, 0o1770, 0o2460, 0o570]
UMASKS = [0, 0o022, 0o077, 0o027]
FLAGS = [os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_TRUNC]


def _list(random: Random) -> bytes:
    """An access control list, about some of the people and their groups."""

    def entry(who: str) -> str:
        return f"{who}:{''.join(letter for letter in 'rwx' if random.random() < 0.7)}"

    users = [f"u{uid}" for uid in (1, 2, 3) if random.random() < 0.3]
    groups = [f"g{gid}" for gid in (11, 12, 13) if random.random() < 0.3]
    mask = ["m"] if users or groups else []
    return acl(",".join(map(entry, ["u", *users, "g", *groups, *mask, "o"])))


def _draw(random: Random) -> Call:
    name, other, mode = random.choice(NAMES), random.choice(NAMES), random.choice(MODES)
    kind = random.choice([ACCESS, DEFAULT])
    owner = random.choice([-1, 1, 2]), random.choice([-1, 11, 12])
    calls: list[tuple[object, ...]] = [
        (os.setxattr, name, ACCESS, _list(random)),
        (os.setxattr, random.choice(["d", "e", "d/e"]), DEFAULT, _list(random)),
        (os.removexattr, name, kind),
        (os.chmod, name, mode),
        (os.chown, name, *owner),
        (_open, name, random.choice(FLAGS), mode),
        (_open, name, random.choice(FLAGS), mode),
        (os.mkdir, name, mode),
        (os.mkdir, name, mode),
        (os.mkfifo, name, mode),
        (random.choice([os.rmdir, os.unlink]), name),
        (random.choice([os.rename, os.link]), name, other),
        (_write, name),
        (_ask, name),
        (_entries, name),
    ]
    function, *arguments = random.choice(calls)
    return Call(function, tuple(arguments))  # type: ignore[arg-type]


@contextlib.contextmanager
def being(who: Person) -> Iterator[None]:
    """This process acts as somebody else; root in the end."""
    groups = os.getgroups()
    try:
        os.setgroups(who.groups)
        os.setegid(who.gid)
        os.seteuid(who.uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


class Side:
    """One side. Names are relative: the way to it leads through directories of root's alone."""

    def __init__(self, root: Path) -> None:
        for directory in (root, root / "d", root / "d/e", root / "e"):
            directory.mkdir()
            directory.chmod(0o2777)
            os.chown(directory, 1, 12)
        for number, name in enumerate(("a", "d/a", "d/e/a", "e/a")):
            os.chown(made(root / name), number % 3, 11 + number % 3)
        self.root = root

    def play(self, who: Person, call: Call) -> object:
        os.chdir(self.root)
        with being(who):
            return attempt(call.function, *call.arguments)

    def look(self) -> list[object]:
        os.chdir(self.root)
        return [(str(path), _look(path)) for path in sorted(Path().rglob("*"))]

    def end(self) -> None:
        os.chdir("/")
        shutil.rmtree(self.root)


def _look(path: Path) -> object:
    found = os.stat(path)
    lists = [(name, os.getxattr(path, name)) for name in sorted(os.listxattr(path))]
    return stat.filemode(found.st_mode), found.st_uid, found.st_gid, found.st_nlink, lists


def _open(name: str, flags: int, mode: int) -> None:
    os.close(os.open(name, os.O_RDWR | os.O_NONBLOCK | flags, mode))


def _entries(name: str) -> list[str]:
    return sorted(os.listdir(name))


def _write(name: str) -> int:
    fd = os.open(name, os.O_WRONLY | os.O_NONBLOCK)
    try:
        return os.write(fd, b"x")
    finally:
        os.close(fd)


def _ask(name: str) -> list[bool]:
    return [os.access(name, way, effective_ids=True) for way in range(8)]


def test_random_calls_of_users(sides: Sides, ours: Mount) -> None:
    before = os.umask(0o022), Path.cwd()
    try:
        for seed in range(ROUNDS):
            ours.rearm()
            _play(Random(seed), [Side(side / str(seed)) for side in sides])
    finally:
        os.umask(before[0])
        os.chdir(before[1])


def _play(random: Random, both: list[Side]) -> None:
    trail = []
    for _ in range(STEPS):
        who, call, umask = random.choice(PEOPLE), _draw(random), random.choice(UMASKS)
        os.umask(umask)
        ours, tmpfs = ((side.play(who, call), side.look()) for side in both)
        trail.append((who, call, oct(umask), tmpfs[0]))
        assert ours == tmpfs, trail[-5:]
    os.umask(0o022)
    for side in both:
        side.end()
