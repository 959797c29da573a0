"""The verbs of a step, each given by its usage line, and the parser that follows these lines.

In a usage line an UPPER word stands for a value, ``a|b`` for one of some words, and what is in
brackets may be left out. A verb's line is its whole grammar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from vfs_volatile.abi.ioctls import PRIORITY_MAX
from vfs_volatile.units import PAGE_SIZE

Value = str | int | bool | tuple[int, int]
Arguments = dict[str, Value]
"""By the words of the usage line: ``FD``, ``shared|private``, ``as``. Ranges are bytes."""

Result = Literal["ok", "purged", "state", "read", "load", "store"]
"""What kind of result a verb gives, see ``RESULTS``."""

RESULTS: dict[Result, str] = {
    "ok": r"ok",
    "purged": r"\d+ purged|\d+ bytes purged",
    "state": r"[-vp]+",
    "read": r"[a-z0E?]+",
    "load": r"[a-z0X?]+",
    "store": r"[wX]+",
}
"""The results of each kind, as regular expressions; an errno's name is a result of any kind."""

ACTOR = re.compile(r"[A-CE-WYZ]")
"""Not D or X: what A stores is ``a``, and ``d`` is the first content, X a signal."""
SYSTEM = "system"

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PAGES = re.compile(r"(\d+)(?:-(\d+))?")
_BYTES = re.compile(r"(\d+)\+(\d+)")
_ELEMENT = re.compile(r"\[[^]]*\]|\S+")


class Verb(NamedTuple):
    """What a step can do."""

    usage: str
    gives: Result
    meaning: str


def _table(*verbs: Verb) -> dict[str, Verb]:
    return {verb.usage.split()[0]: verb for verb in verbs}


_BEHAVIOR = "[full|partial] [zero|sigbus] [priority N]"

VERBS: Mapping[str, Verb] = _table(
    Verb("open FILE [ro] [as NAME]", "ok", "open(2) for reading and writing; NAME: as FILE"),
    Verb("close FD", "ok", "close(2)"),
    Verb(
        "map FD shared|private [RANGE] [ro] [as NAME]",
        "ok",
        "mmap(2) of the file or of some pages; NAME: as FD",
    ),
    Verb(
        "anon NAME N",
        "ok",
        "allocates N pages of anonymous memory and fills them; NAME is used like a mapping",
    ),
    Verb("unmap MAPPING [RANGE]", "ok", "munmap(2), of some pages perhaps"),
    Verb("mlock MAPPING", "ok", "mlock(2)"),
    Verb(
        f"fvrange FD volatile|nonvolatile [RANGE] {_BEHAVIOR}",
        "purged",
        "marks or unmarks by file offset; pages that were found purged",
    ),
    Verb(
        f"mvrange MAPPING volatile|nonvolatile [RANGE] {_BEHAVIOR}",
        "purged",
        "marks or unmarks by the address where the pages are mapped",
    ),
    Verb("query FD", "state", "the state of each page, by FVRANGE_IOC_NEXT"),
    Verb("read FD [RANGE]", "read", "read(2) of each page"),
    Verb("write FD RANGE", "ok", "write(2)"),
    Verb("load MAPPING [RANGE]", "load", "touches each page"),
    Verb("store MAPPING [RANGE]", "store", "fills each page through the mapping"),
    Verb("send MAPPING [RANGE]", "ok", "write(2) to a pipe, straight from the mapping"),
    Verb("truncate FD N [bytes]", "ok", "ftruncate(2) to N pages, or bytes"),
    Verb("punch FD RANGE", "ok", "fallocate(2), FALLOC_FL_PUNCH_HOLE"),
    Verb("copy FD TO", "ok", "copy_file_range(2) of all of FD into the open file TO"),
    Verb("rename FILE NEW", "ok", "rename(2)"),
    Verb("unlink FILE", "ok", "unlink(2)"),
    Verb("fork ACTOR", "ok", "fork(2); the child is that actor"),
    Verb("exec", "ok", "execve(2) of a fresh program; open files stay open"),
    Verb("exit", "ok", "exit(2); the next step comes after the process is gone"),
)

SYSTEM_VERBS: Mapping[str, Verb] = _table(
    Verb("purge FILE [RANGE]", "ok", "purges what may be purged there, page-exact"),
    Verb("reclaim N", "ok", "purges N pages of the mount, or somewhat more, in the order of rule"),
    Verb("budget N", "ok", "sets the mount's budget to N pages; done once no more are resident"),
    Verb("status FILE", "state", "the state of each page, seen from outside: FILE is not opened"),
)
"""What happens from outside. FILE is the first name of a file, also when it is unlinked."""


class GrammarError(ValueError):
    """A step says what its verb's usage does not allow."""


class Command(NamedTuple):
    """A step's words, understood."""

    verb: str
    arguments: Arguments


def parse_command(text: str, verbs: Mapping[str, Verb]) -> Command:
    """The command that ``text`` gives. Raises GrammarError."""
    name, *words = text.split() or [""]
    if name not in verbs:
        raise GrammarError(f"'{name}' is no verb here; known are {', '.join(verbs)}")
    usage = verbs[name].usage
    arguments: Arguments = {}
    for element in _ELEMENT.findall(usage)[1:]:
        optional = element.startswith("[")
        taken = _match(element.strip("[]"), words)
        if taken:
            key, value, count = taken
            arguments[key] = value
            del words[:count]
        elif not optional:
            found = f"'{words[0]}'" if words else "the end"
            raise GrammarError(f"'{text}': {found} stands where {element} is due; usage: {usage}")
    if words:
        raise GrammarError(f"'{text}': '{words[0]}' is too much; usage: {usage}")
    return Command(name, arguments)


def _match(element: str, words: list[str]) -> tuple[str, Value, int] | None:
    """(key, value, number of words) if ``words`` begin with ``element``."""
    if not words:
        return None
    keyword, _, kind = element.partition(" ")
    if kind:
        if words[0] != keyword or len(words) < 2 or (value := _value(kind, words[1])) is None:
            return None
        return keyword, value, 2
    if element.isupper():
        value = _value(element, words[0])
        return None if value is None else (element, value, 1)
    if words[0] not in element.split("|"):
        return None
    return element, words[0] if "|" in element else True, 1


def _value(kind: str, word: str) -> Value | None:
    """What ``word`` means as a value of that kind; None if it is none."""
    match kind:
        case "RANGE":
            return _range(word)
        case "N":
            return int(word) if word.isdecimal() else None
        case "ACTOR":
            return word if ACTOR.fullmatch(word) else None
        case _:
            return word if _NAME.fullmatch(word) else None


def _range(word: str) -> tuple[int, int] | None:
    """(start, length) in bytes of ``3`` or ``0-3``, pages, or ``100+8192``, bytes."""
    if match := _BYTES.fullmatch(word):
        return int(match[1]), int(match[2])
    if (match := _PAGES.fullmatch(word)) is None:
        return None
    first = int(match[1])
    last = int(match[2] or first)
    return (first * PAGE_SIZE, (last - first + 1) * PAGE_SIZE) if last >= first else None


def check_numbers(command: Command) -> None:
    """Raise GrammarError for a number that no call would take."""
    priority = command.arguments.get("priority", 0)
    if isinstance(priority, int) and priority > PRIORITY_MAX:
        raise GrammarError(f"priority {priority} is above {PRIORITY_MAX}")
