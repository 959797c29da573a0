"""Each scenario under each preset on a real mount, and scenarios that have to fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.support.mount import ROOT
from tests.support.mountinfo import is_mounted
from tests.support.waiting import eventually
from vfs_volatile.cli import scenarios
from vfs_volatile.core.semantics import Preset
from vfs_volatile.scenarios import play as playing
from vfs_volatile.scenarios.cast import Cast
from vfs_volatile.scenarios.loader import parse, shipped
from vfs_volatile.scenarios.matrix import Row
from vfs_volatile.scenarios.model import ALL_PRESETS, Outcome, Scenario
from vfs_volatile.scenarios.play import begin, play, players

SCENARIOS = shipped()

HEAD = 'title = "t"\ntopic = "t"\nsource = "s"\nstory = "s"\nfiles = { f = "dd" }\n'


Ahead = dict[str, dict[Preset, Future[Outcome]]]


@pytest.fixture(scope="module")
def crew() -> Iterator[Executor]:
    with players() as executor:
        yield executor


@pytest.fixture(scope="module")
def ahead(crew: Executor, request: pytest.FixtureRequest) -> Ahead:
    """All plays that this session asks for, begun: both processors have something to do."""
    asked_for = {item.name for item in request.session.items}
    return {
        scenario.name: {preset: begin(crew, scenario, preset) for preset in ALL_PRESETS}
        for scenario in SCENARIOS
        if f"test_a_scenario_goes_as_its_file_says[{scenario.name}]" in asked_for
    }


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_scenario_goes_as_its_file_says(scenario: Scenario, ahead: Ahead) -> None:
    outcomes = {preset: ahead[scenario.name][preset].result() for preset in ALL_PRESETS}
    assert Row(scenario, outcomes).failures() == []


def written(steps: str) -> Scenario:
    return parse(f"{HEAD}steps = [\n{steps}\n]", Path("written.toml"))


def test_a_wrong_expectation_fails_and_says_what_was_seen(crew: Executor) -> None:
    scenario = written(
        '{ A = "open f" }, { A = "fvrange f volatile" }, { system = "purge f 0" },'
        '{ A = "read f", expect = "dd" }, { A = "fvrange f nonvolatile", expect = "1 purged" }'
    )
    outcome = begin(crew, scenario, "unified").result()
    assert not outcome.held
    assert Row(scenario, {"unified": outcome}).failures() == [
        "written, unified, step 4: A read f: expected dd, saw Ed"
    ]


def test_a_step_without_expect_has_to_succeed(crew: Executor) -> None:
    scenario = written(
        '{ A = "open f ro" }, { A = "fvrange f volatile" }, { A = "query f", expect = "--" }'
    )
    outcome = begin(crew, scenario, "kim").result()
    assert Row(scenario, {"kim": outcome}).failures() == [
        "written, kim, step 2: A fvrange f volatile: expected success, saw EBADF"
    ]


def test_a_name_that_an_actor_does_not_have_ends_the_play(crew: Executor) -> None:
    scenario = written('{ A = "open f" }, { A = "load f", expect = "dd" }')
    outcome = begin(crew, scenario, "unified").result()
    assert outcome.problem == "step 2: A has no mapping 'f'"
    assert not outcome.held


def test_a_play_whose_time_is_up_leaves_nothing_mounted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(playing, "LIMIT_SECONDS", 0.0)
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: str(tmp_path))
    outcome = play(written('{ A = "open f" }, { A = "query f", expect = "--" }'), "unified")
    assert outcome.problem.endswith("in time")
    assert not is_mounted(tmp_path / "mnt")


def test_an_actor_that_hangs_is_ended_with_its_mount(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The purger stays above the budget, and the time of the play is up before it gives in."""
    create = Cast.create

    def create_and_begin(cast: Cast, name: str, letters: str) -> None:
        """What comes before the first step may take its time."""
        create(cast, name, letters)
        cast._ends = time.monotonic() + 2.0

    monkeypatch.setattr(Cast, "create", create_and_begin)
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: str(tmp_path))
    outcome = play(written('{ system = "budget 0" }, { A = "open f", expect = "ok" }'), "unified")
    assert outcome.problem == "step 1: system did not answer in time"
    assert not is_mounted(tmp_path / "mnt")
    assert not tmp_path.exists()


def test_the_command_fails_with_its_scenario(tmp_path: Path) -> None:
    app = typer.Typer()
    scenarios.register(app)
    file = tmp_path / "mine.toml"
    steps = '[{ A = "open f" }, { A = "query f", expect = { default = "--", kim = "vv" } }]'
    file.write_text(f"{HEAD}steps = {steps}")
    run = ["scenarios", "run", str(file), "--json"]
    result = CliRunner().invoke(app, run)
    assert result.exit_code == 1
    (scenario,) = json.loads(result.stdout)["scenarios"]
    held = {preset: outcome["held"] for preset, outcome in scenario["presets"].items()}
    assert held == {"unified": True, "stultz": True, "kim": False}
    assert CliRunner().invoke(app, [*run, "--semantics", "unified"]).exit_code == 0


RUN = """
from vfs_volatile.scenarios.loader import shipped
from vfs_volatile.scenarios.play import play_all, players
with players() as executor:
    list(play_all(executor, [(scenario, "unified") for scenario in shipped()]))
"""


def test_a_killed_run_leaves_nothing_mounted(tmp_path: Path) -> None:
    def mounts() -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [line for line in lines if str(tmp_path) in line]

    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", RUN], env=environment, cwd=ROOT)
    try:
        assert eventually(mounts)
    finally:
        process.kill()
        process.wait()
    assert eventually(lambda: not mounts() and not list(tmp_path.iterdir()))
