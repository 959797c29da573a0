"""scenarios: the rules of the thread, tried out by real processes on real mounts."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from vfs_volatile.cli.arguments import examples
from vfs_volatile.core.semantics import Preset
from vfs_volatile.errors import UsageError

if TYPE_CHECKING:
    from vfs_volatile.scenarios.matrix import Row
    from vfs_volatile.scenarios.model import Scenario

_Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILE|NAME", help="Scenarios by name, or files of yours. [default: all]"
    ),
]


def list_scenarios() -> None:
    """Show which scenarios there are: name and title, by topic. Where presets differ: ≠."""
    from vfs_volatile.scenarios.loader import shipped  # here: other commands need none of it

    scenarios = shipped()
    width = max(len(scenario.name) for scenario in scenarios)
    topic = ""
    for scenario in scenarios:
        if scenario.topic != topic:
            topic = scenario.topic
            print(topic)
        sign = "≠" if scenario.shown.differs else " "
        print(f"  {scenario.name:{width}} {sign} {scenario.title}")


def run(
    names: _Names = None,
    semantics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="|".join(get_args(Preset)),
            help="Play under this preset only; may be repeated. [default: all]",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Every result of every step, for programs.")
    ] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="The matrix as a table of Markdown.")
    ] = False,
) -> None:
    """Play scenarios under each preset, on a fresh mount each, and show what came of them.

    A row stands for a scenario, a column for a preset; a cell says what was seen at the step that
    tells the presets apart (or at the last look). Rows in which the presets differ have a ≠.
    Exit code 0 only if every step of every scenario went as its file says.
    """
    if as_json and as_markdown:
        raise UsageError("--json and --markdown are both given; give one of them")
    from vfs_volatile.cli import mount_checks  # here: other commands need none of it
    from vfs_volatile.scenarios import matrix
    from vfs_volatile.scenarios.loader import choose

    presets = _presets(semantics or [])
    mount_checks.check_fuse(allow_other=False)
    found = _play(choose(names or []), presets)
    if as_json:
        print(json.dumps(matrix.as_json(found), indent=2))
    elif as_markdown:
        print(matrix.as_markdown(found, presets))
    else:
        _show(found, presets)
    if not all(row.held for row in found):
        raise typer.Exit(1)


def explain(
    name: Annotated[str, typer.Argument(metavar="FILE|NAME", help="A scenario.")],
) -> None:
    """Tell a scenario step by step, what comes of it under each preset, and where it is from."""
    from vfs_volatile.scenarios.loader import choose
    from vfs_volatile.scenarios.story import tell

    for scenario in choose([name]):
        print(tell(scenario))


def _presets(chosen: list[str]) -> list[Preset]:
    """Those chosen, or all, in their order. Raises UsageError."""
    known: tuple[Preset, ...] = get_args(Preset)
    for name in chosen:
        if name not in known:
            raise UsageError(f"--semantics {name} is not known; give one of {', '.join(known)}")
    return [preset for preset in known if not chosen or preset in chosen]


def _play(scenarios: Sequence[Scenario], presets: Sequence[Preset]) -> list[Row]:
    """Play all, with progress on stderr if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from vfs_volatile.scenarios.matrix import rows
    from vfs_volatile.scenarios.play import play_all, players

    plays = [(scenario, preset) for scenario in scenarios for preset in presets]
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
        players() as executor,
    ):
        task = bar.add_task("", total=len(plays))
        outcomes = {}
        for scenario, outcome in play_all(executor, plays):
            outcomes[scenario.path, outcome.preset] = outcome
            bar.update(task, advance=1, description=f"{scenario.name}, {outcome.preset}")
    return rows(((one, outcomes[one.path, preset]) for one, preset in plays), presets)


def _show(found: Sequence[Row], presets: Sequence[Preset]) -> None:
    from rich.console import Console

    from vfs_volatile.scenarios import matrix

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(matrix.as_table(found, presets))
    console.print(matrix.LEGEND, style="dim", markup=False)
    for row in found:
        for line in row.failures():
            console.print(line, style="red", markup=False)
    console.print(matrix.summary(found, presets), markup=False)


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    commands = typer.Typer(
        name="scenarios",
        help="Try the rules out: real processes, pressure, and what each process sees then.",
        rich_markup_mode=None,
        no_args_is_help=True,
    )
    commands.command("list")(list_scenarios)
    commands.command(
        epilog=examples(
            "scenarios run                         # all, a minute or two",
            "scenarios run private-holds-its-pages my.toml",
            "scenarios run --semantics unified --semantics kim --json",
        )
    )(run)
    commands.command(epilog=examples("scenarios explain private-holds-its-pages"))(explain)
    app.add_typer(commands)
