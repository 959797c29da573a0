"""Reading scenarios: every mistake is an error that names the file and the step."""

from __future__ import annotations

import errno
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, get_args

from vfs_volatile.core.semantics import Conflict, Lifetime, Mvrange, Preset, Private
from vfs_volatile.errors import UsageError
from vfs_volatile.scenarios.grammar import (
    ACTOR,
    RESULTS,
    SYSTEM,
    SYSTEM_VERBS,
    VERBS,
    Command,
    GrammarError,
    Result,
    check_numbers,
    parse_command,
)
from vfs_volatile.scenarios.model import ALL_PRESETS, Scenario, Step

CASES = Path(__file__).with_name("cases")
"""The scenarios that come with the package."""

TOPICS = (
    "who must agree",
    "mvrange",
    "private mappings",
    "fork, exec, exit",
    "anonymous memory",
    "lifetime",
    "touching",
    "reporting",
    "order and pressure",
    "files",
)
"""The order in which scenarios are shown; other topics come last."""

_TEXTS = ("title", "topic", "source", "quote", "story")
_OPTIONAL = {"quote", "mount"}
_KEYS = (*_TEXTS, "files", "mount", "steps")
_STEP_KEYS = ("expect", "outcome")
_NEEDS_EXPECT = ("state", "read", "load")

MOUNT_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "mvrange": get_args(Mvrange),
    "private": get_args(Private),
    "lifetime": get_args(Lifetime),
    "conflict": get_args(Conflict),
    "access": ("sigbus", "zero"),
}
_FILE = re.compile(r"[d0]+")


def shipped() -> list[Scenario]:
    """All scenarios of the package, in the order in which they are shown."""
    return in_order(load(path) for path in CASES.glob("*.toml"))


def choose(names: list[str]) -> list[Scenario]:
    """The scenarios named: of the package, or paths of files. None named: all of the package.

    Raises UsageError.
    """
    if not names:
        return shipped()
    found = {}
    for name in names:
        scenario = load(_path_of(name))
        found[scenario.name] = scenario
    return in_order(found.values())


def in_order(scenarios: Iterable[Scenario]) -> list[Scenario]:
    """By topic, then by name."""
    rank = {topic: number for number, topic in enumerate(TOPICS)}
    return sorted(scenarios, key=lambda one: (rank.get(one.topic, len(rank)), one.topic, one.name))


def load(path: Path) -> Scenario:
    """Read one file. Raises UsageError, which names the file and the line or step."""
    try:
        return parse(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}); give a scenario") from None


def parse(text: str, path: Path) -> Scenario:
    """The scenario that ``text``, found at ``path``, describes. Raises UsageError."""
    try:
        return _Reader(path).scenario(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:  # it says line and column
        raise UsageError(f"{path}: {error}; mend the TOML") from None


def _path_of(name: str) -> Path:
    if "/" in name or name.endswith(".toml"):
        return Path(name)
    path = CASES / f"{name}.toml"
    if not path.is_file():
        raise UsageError(
            f"no scenario is called '{name}'; see vfs-volatile scenarios list, or give a FILE.toml"
        )
    return path


class _Reader:
    """Reads one file, and knows where it is when something is wrong."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._where = ""
        self._alive: set[str] = set()
        self._gone: set[str] = set()
        self._to_fork: set[str] = set()
        self._names: set[str] = set()

    def scenario(self, table: Mapping[str, Any]) -> Scenario:
        self._keys(table, _KEYS)
        for key in _KEYS:
            if key not in table and key not in _OPTIONAL:
                self._fail(f"'{key}' is missing", "add it")
        texts = {key: self._text(key, table.get(key, "")) for key in _TEXTS}
        files = self._files(table["files"])
        mount = self._mount(table.get("mount", {}))
        self._names = set(files)
        steps = self._steps(table["steps"])
        if all(step.expect is None for step in steps):
            self._fail("no step has an expect", "say what is to be seen")
        return Scenario(
            name=self._path.stem,
            path=str(self._path),
            files=files,
            mount=mount,
            steps=steps,
            **texts,
        )

    def _text(self, key: str, value: object) -> str:
        if not isinstance(value, str) or (key not in _OPTIONAL and not value.strip()):
            self._fail(f"'{key}' is not a text", "write some words")
        return " ".join(str(value).split())

    def _files(self, table: object) -> dict[str, str]:
        if not isinstance(table, dict):
            self._fail("'files' is not a table", 'write files = { f = "dddd" }')
        for name, pages in table.items():
            if not isinstance(pages, str) or not _FILE.fullmatch(pages):
                self._fail(f"file '{name}' is not a letter for each page", "d is data, 0 a hole")
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                self._fail(f"file '{name}' has a name that no step can say", "use small letters")
        return table

    def _mount(self, table: object) -> dict[str, str]:
        if not isinstance(table, dict):
            self._fail("'mount' is not a table", 'write mount = { private = "keep" }')
        self._keys(table, MOUNT_OPTIONS, "mount: ")
        for key, value in table.items():
            if value not in MOUNT_OPTIONS[key]:
                self._fail(
                    f"mount: '{value}' is no {key}", f"one of {', '.join(MOUNT_OPTIONS[key])}"
                )
        return table

    def _steps(self, tables: object) -> tuple[Step, ...]:
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._fail("'steps' is not a list of tables", 'write steps = [ { A = "open f" } ]')
        self._to_fork = {str(v).split()[1] for t in tables for v in t.values() if _forks(v)}
        return tuple(self._step(number, table) for number, table in enumerate(tables, 1))

    def _step(self, number: int, table: dict[str, Any]) -> Step:
        self._where = f", step {number}"
        actors = [key for key in table if key == SYSTEM or ACTOR.fullmatch(key)]
        self._keys(table, (*actors, *_STEP_KEYS))
        if len(actors) != 1:
            self._fail("not exactly one actor", 'write A = "open f", or system = "purge f"')
        actor, text = actors[0], table[actors[0]]
        verbs = SYSTEM_VERBS if actor == SYSTEM else VERBS
        try:
            command = parse_command(str(text), verbs)
            check_numbers(command)
        except GrammarError as error:
            self._fail(str(error), "see docs/scenarios.md")
        self._follow(actor, command)
        gives = verbs[command.verb].gives
        outcome = table.get("outcome", False)
        if not isinstance(outcome, bool) or (outcome and "expect" not in table):
            self._fail("'outcome' is not true beside an expect", "write outcome = true")
        return Step(
            number=number,
            actor=actor,
            text=str(text),
            command=command,
            gives=gives,
            expect=self._expect(table.get("expect"), gives),
            outcome=outcome,
        )

    def _follow(self, actor: str, command: Command) -> None:
        """Keep account of processes and names, so that a slip is found before anything runs."""
        if actor in self._gone:
            self._fail(f"{actor} has exited before", "give the step to another")
        if actor in self._to_fork and actor not in self._alive:
            self._fail(f"{actor} is forked only later", "move the fork before this step")
        file = command.arguments.get("FILE")
        if file is not None and file not in self._names:
            self._fail(f"no file is called '{file}'", "add it to files")
        if actor == SYSTEM:
            return
        self._alive.add(actor)
        if command.verb == "exit":
            self._gone.add(actor)
        elif command.verb == "fork":
            child = str(command.arguments["ACTOR"])
            if child in self._alive:
                self._fail(f"{child} is there already", "give the child another letter")
            self._alive.add(child)
        elif command.verb == "rename":
            self._names.add(str(command.arguments["NEW"]))

    def _expect(self, value: object, gives: Result) -> dict[Preset, str] | None:
        if value is None:
            if gives in _NEEDS_EXPECT:
                self._fail("this step looks, but has no expect", "say what it should see")
            return None
        given = {"default": value} if isinstance(value, str) else value
        if not isinstance(given, dict):
            self._fail("'expect' is neither a text nor a table", 'write expect = "dddd"')
        self._keys(given, ("default", *ALL_PRESETS), "expect: ")
        for result in given.values():
            if not _possible(result, gives):
                self._fail(
                    f"'{result}' is not what this verb can give",
                    f"an errno, or what matches {RESULTS[gives]}",
                )
        missing = [preset for preset in ALL_PRESETS if preset not in given]
        if missing and "default" not in given:
            self._fail(f"expect says nothing of {', '.join(missing)}", "add it, or a default")
        return {preset: str(given.get(preset, given.get("default"))) for preset in ALL_PRESETS}

    def _keys(self, table: Mapping[str, Any], known: Iterable[str], prefix: str = "") -> None:
        known = list(known)
        for key in table:
            if key not in known:
                self._fail(f"{prefix}unknown key '{key}'", f"known are {', '.join(known)}")

    def _fail(self, cause: str, mend: str) -> NoReturn:
        raise UsageError(f"{self._path}{self._where}: {cause}; {mend}")


def _forks(value: object) -> bool:
    return isinstance(value, str) and value.split()[:1] == ["fork"] and len(value.split()) == 2


def _possible(result: object, gives: Result) -> bool:
    return isinstance(result, str) and (
        result in errno.errorcode.values() or re.fullmatch(RESULTS[gives], result) is not None
    )
