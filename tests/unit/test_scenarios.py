"""Scenarios before they are played: the grammar, the loader's errors, the matrix, the stories."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from vfs_volatile.cli import scenarios
from vfs_volatile.core.semantics import Preset
from vfs_volatile.errors import UsageError
from vfs_volatile.scenarios import matrix
from vfs_volatile.scenarios.grammar import SYSTEM_VERBS, VERBS, GrammarError, parse_command
from vfs_volatile.scenarios.loader import choose, parse, shipped
from vfs_volatile.scenarios.matrix import Row, in_words
from vfs_volatile.scenarios.model import ALL_PRESETS, Outcome, Scenario, Seen
from vfs_volatile.scenarios.story import tell
from vfs_volatile.units import PAGE_SIZE

DOCS = Path(__file__).parents[2] / "vfs_volatile/docs/scenarios.md"

TEXT = """\
title = "A title"
topic = "lifetime"
source = "Somebody, 2013"
quote = "Some words"
story = "What happens."
files = { f = "ddd0" }
steps = [
  { A = "open f" },
  { A = "fvrange f volatile" },
  { A = "fork B" },
  { system = "purge f 0-1" },
  { B = "read f", expect = { default = "EEd0", kim = "ddd0" } },
]
"""


def read(text: str = TEXT) -> Scenario:
    return parse(text, Path("my.toml"))


def replaced(old: str, new: str) -> str:
    assert TEXT.count(old) == 1
    return TEXT.replace(old, new)


# ---- the grammar ----


def test_a_command_is_understood_by_its_usage() -> None:
    assert parse_command("map f private 1-2 ro as m", VERBS) == (
        "map",
        {
            "FD": "f",
            "shared|private": "private",
            "RANGE": (PAGE_SIZE, 2 * PAGE_SIZE),
            "ro": True,
            "as": "m",
        },
    )
    assert parse_command("fvrange f volatile 100+8192 partial zero priority 3", VERBS) == (
        "fvrange",
        {
            "FD": "f",
            "volatile|nonvolatile": "volatile",
            "RANGE": (100, 8192),
            "full|partial": "partial",
            "zero|sigbus": "zero",
            "priority": 3,
        },
    )
    assert parse_command("purge f 3", SYSTEM_VERBS) == (
        "purge",
        {"FILE": "f", "RANGE": (3 * PAGE_SIZE, PAGE_SIZE)},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no verb"),
        ("mapp f", "'mapp' is no verb here; known are open, close, map,"),
        ("purge f", "'purge' is no verb here"),
        ("map f", "the end stands where shared|private is due; usage: map FD shared|private"),
        ("map f shard", "'shard' stands where shared|private is due"),
        ("map f shared 3-1", "'3-1' is too much"),
        ("open f rw", "'rw' is too much"),
        ("open F", "'F' stands where FILE is due"),
        ("fork b", "'b' stands where ACTOR is due"),
        ("fork D", "'D' stands where ACTOR is due"),
        ("truncate f x", "'x' stands where N is due"),
        ("exit now", "'now' is too much"),
        ("open f as", "'as' is too much"),
    ],
)
def test_what_a_usage_does_not_allow_is_an_error(text: str, message: str) -> None:
    with pytest.raises(GrammarError, match=re.escape(message)):
        parse_command(text, VERBS)


def test_every_verb_is_documented() -> None:
    text = DOCS.read_text().replace("\\|", "|")
    for verb in (*VERBS.values(), *SYSTEM_VERBS.values()):
        assert f"`{verb.usage}`" in text


def test_the_example_of_the_documentation_is_a_scenario() -> None:
    example = re.search(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert example is not None
    assert parse(example[1], DOCS).shown.differs


# ---- the loader ----


def test_a_scenario_is_read() -> None:
    scenario = read()
    assert scenario.name == "my"
    assert scenario.files == {"f": "ddd0"}
    assert [(step.number, step.actor) for step in scenario.steps] == [
        (1, "A"),
        (2, "A"),
        (3, "A"),
        (4, "system"),
        (5, "B"),
    ]
    assert scenario.shown.number == 5
    assert scenario.shown.expect == {"unified": "EEd0", "stultz": "EEd0", "kim": "ddd0"}


def test_the_shown_step_is_the_marked_one_or_the_last_that_differs() -> None:
    last = '  { A = "read f", expect = "EEd0" },\n]'
    assert read(TEXT.replace("]", last)).shown.number == 5
    marked = last.replace('"EEd0"', '"EEd0", outcome = true')
    assert read(TEXT.replace("]", marked)).shown.number == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title = x\n", "my.toml: Invalid value (at line 1, column 9)"),
        (replaced('topic = "lifetime"\n', ""), "my.toml: 'topic' is missing"),
        (replaced("topic", "topics"), "my.toml: unknown key 'topics'"),
        (replaced('"A title"', "3"), "my.toml: 'title' is not a text"),
        (
            replaced('{ f = "ddd0"', '{ f = "ddx0"'),
            "my.toml: file 'f' is not a letter for each page",
        ),
        (replaced('{ f = "ddd0" }', '"f"'), "my.toml: 'files' is not a table"),
        (
            replaced("story =", 'mount = { privat = "keep" }\nstory ='),
            "my.toml: mount: unknown key 'privat'; known are mvrange, private,",
        ),
        (
            replaced("story =", 'mount = { private = "kept" }\nstory ='),
            "my.toml: mount: 'kept' is no private; one of block, keep",
        ),
        (replaced('A = "open f"', 'A = "opn f"'), "my.toml, step 1: 'opn' is no verb here"),
        (replaced('A = "open f"', 'A = "open g"'), "my.toml, step 1: no file is called 'g'"),
        (replaced('A = "open f"', 'D = "open f"'), "my.toml, step 1: unknown key 'D'"),
        (replaced('A = "open f"', 'expect = "ok"'), "my.toml, step 1: not exactly one actor"),
        (
            replaced('A = "open f"', 'A = "open f", C = "open f"'),
            "my.toml, step 1: not exactly one actor",
        ),
        (replaced('A = "open f"', 'B = "open f"'), "my.toml, step 1: B is forked only later"),
        (
            replaced('A = "fork B"', 'A = "fork B" }, { A = "fork B"'),
            "my.toml, step 4: B is there already",
        ),
        (
            replaced('A = "fork B"', 'A = "exit" }, { A = "fork B"'),
            "my.toml, step 4: A has exited before",
        ),
        (
            replaced('"fvrange f volatile"', '"fvrange f volatile priority 8"'),
            "my.toml, step 2: priority 8 is above 7",
        ),
        (
            replaced(', expect = { default = "EEd0", kim = "ddd0" }', ""),
            "my.toml, step 5: this step looks, but has no expect",
        ),
        (
            replaced("default = ", "unified = "),
            "my.toml, step 5: expect says nothing of stultz; add it, or a default",
        ),
        (replaced("kim = ", "kin = "), "my.toml, step 5: expect: unknown key 'kin'"),
        (replaced('"EEd0"', '"XXd0"'), "my.toml, step 5: 'XXd0' is not what this verb can give"),
        (replaced("kim =", "outcome ="), "my.toml, step 5: expect: unknown key 'outcome'"),
        (
            replaced('"fork B"', '"fork B", outcome = true'),
            "my.toml, step 3: 'outcome' is not true beside an expect",
        ),
    ],
)
def test_a_mistake_is_named_with_its_file_and_step(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        read(text)


def test_scenarios_are_chosen_by_name_or_as_files(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(TEXT)
    chosen = choose([str(mine), "one-mark-by-address"])
    assert [scenario.name for scenario in chosen] == ["one-mark-by-address", "mine"]
    with pytest.raises(UsageError, match="no scenario is called 'one-mark'"):
        choose(["one-mark"])
    with pytest.raises(UsageError, match=r"nowhere\.toml cannot be read"):
        choose(["nowhere.toml"])


# ---- what comes with the package ----


def test_enough_scenarios_come_with_the_package() -> None:
    all_of_them = shipped()
    assert len(all_of_them) >= 40
    assert len({scenario.title for scenario in all_of_them}) == len(all_of_them)
    assert {rule for scenario in all_of_them for rule in scenario.mount} >= {
        "mvrange",
        "private",
        "lifetime",
        "conflict",
    }


@pytest.mark.parametrize("scenario", shipped(), ids=lambda scenario: scenario.name)
def test_a_shipped_scenario_can_be_told(scenario: Scenario) -> None:
    story = tell(scenario)
    assert all(step.text in story for step in scenario.steps)
    assert max(map(len, story.splitlines())) <= 100


# ---- the matrix ----


def outcome(preset: str, result: str, problem: str = "") -> Outcome:
    scenario = read()
    step = scenario.shown
    assert step.expect is not None
    (known,) = [one for one in ALL_PRESETS if one == preset]
    seen = () if problem else (Seen(step.number, result, step.expect[known] == result),)
    return Outcome(scenario.name, known, seen, problem, 0.1)


def row(*outcomes: Outcome) -> Row:
    (found,) = matrix.rows(((read(), one) for one in outcomes), ALL_PRESETS)
    return found


def test_a_row_tells_where_presets_differ() -> None:
    found = row(outcome("unified", "EEd0"), outcome("stultz", "EEd0"), outcome("kim", "ddd0"))
    assert found.differs
    assert found.held
    assert [found.cell(preset) for preset in ALL_PRESETS] == ["EEd0", "EEd0", "ddd0"]
    assert "| **EEd0** | **EEd0** | **ddd0** |" in matrix.as_markdown([found], ALL_PRESETS)


def test_results_are_put_in_words() -> None:
    read_step = read().steps[4]
    mark_step = read().steps[1]
    assert in_words(read_step, "EEEE") == "ENODATA"
    assert in_words(read_step, "0000") == "zeros"
    assert in_words(read_step, "aaaa") == "all 'a'"
    assert in_words(mark_step, "0 purged") == "marked"
    assert in_words(mark_step, "3 purged") == "3 purged"


def test_a_failure_says_what_was_seen() -> None:
    found = row(outcome("unified", "EEd0"), outcome("kim", "EEd0"))
    assert not found.held
    assert found.failures() == ["my, kim, step 5: B read f: expected ddd0, saw EEd0"]
    console = Console(width=100, color_system=None, force_terminal=False)
    with console.capture() as shown:
        console.print(matrix.as_table([found], ["unified", "kim"]))
    assert "FAILED: EEd0" in shown.get()
    assert "1 FAILED" in matrix.summary([found], ["unified", "kim"])


def test_a_play_that_broke_off_is_a_failure() -> None:
    found = row(outcome("unified", "", "step 2: A died"))
    assert found.failures() == ["my, unified: step 2: A died"]
    assert found.cell("unified") == "not reached"
    assert "(FAILED)" in matrix.as_markdown([found], ["unified"])


def test_json_holds_every_step() -> None:
    found = row(outcome("kim", "EEd0"))
    tree = json.loads(json.dumps(matrix.as_json([found])))
    assert tree["held"] is False
    (scenario,) = tree["scenarios"]
    assert scenario["presets"]["kim"]["steps"] == [
        {
            "step": 5,
            "actor": "B",
            "do": "read f",
            "expected": "ddd0",
            "seen": "EEd0",
            "held": False,
        }
    ]


def as_expected(scenario: Scenario, preset: Preset) -> Outcome:
    told = [(step.number, step.expect) for step in scenario.steps if step.expect]
    seen = tuple(Seen(number, expect[preset], True) for number, expect in told)
    return Outcome(scenario.name, preset, seen, "", 0.0)


def test_the_table_fits_a_terminal_of_100_columns() -> None:
    plays = [(one, as_expected(one, preset)) for one in shipped() for preset in ALL_PRESETS]
    found = matrix.rows(plays, ALL_PRESETS)
    console = Console(width=100, color_system=None)
    with console.capture() as shown:
        console.print(matrix.as_table(found, ALL_PRESETS))
    lines = [line for line in shown.get().splitlines() if line.strip()]
    topics = len({scenario.topic for scenario in shipped()})
    assert len(lines) == len(found) + topics + 2, "no cell is folded"


# ---- the commands ----


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    scenarios.register(made)
    return made


def test_list_names_all_by_topic(app: typer.Typer) -> None:
    text = CliRunner().invoke(app, ["scenarios", "list"]).output
    for scenario in shipped():
        assert f"\n  {scenario.name} " in text
        assert f"{scenario.topic}\n" in text


def test_explain_tells_a_story(app: typer.Typer) -> None:
    text = CliRunner().invoke(app, ["scenarios", "explain", "one-mark-by-address"]).output
    assert "The heart of the dispute." in text
    assert "kim      dddd  data" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--semantics", "kin"], "--semantics kin is not known; give one of unified, stultz, kim"),
        (["--json", "--markdown"], "--json and --markdown are both given; give one of them"),
        (["nowhere"], "no scenario is called 'nowhere'"),
    ],
)
def test_a_wrong_command_line_is_named(
    app: typer.Typer, arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(app, ["scenarios", "run", *arguments])
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
