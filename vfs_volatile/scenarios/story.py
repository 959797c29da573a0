"""A scenario told: who does what, and what comes of it under each preset."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill

from vfs_volatile.core.semantics import Preset
from vfs_volatile.scenarios.matrix import in_words
from vfs_volatile.scenarios.model import Scenario, Step

_WIDTH = 88


def tell(scenario: Scenario) -> str:
    """The whole story as text, at most 88 columns wide."""
    quote = f'{scenario.source}: "{scenario.quote}"' if scenario.quote else scenario.source
    mounted = " ".join(f"--{name} {value}" for name, value in scenario.mount.items())
    parts = [
        fill(f"{scenario.name}: {scenario.title}", _WIDTH, subsequent_indent="  "),
        fill(quote, _WIDTH, initial_indent="  ", subsequent_indent="  "),
        fill(scenario.story, _WIDTH),
        *([f"Mounted with {mounted}, whatever the preset."] if mounted else []),
        "\n".join(f"file {name}: {_pages(letters)}" for name, letters in scenario.files.items()),
        "\n".join(line for step in scenario.steps for line in _step(step)),
    ]
    return "\n\n".join(parts)


def _pages(letters: str) -> str:
    holes = letters.count("0")
    text = f"{len(letters)} page{'s' * (len(letters) > 1)}"
    return text + (f", {holes} of them never written ({letters})" if holes else "")


def _step(step: Step) -> list[str]:
    text = f"{step.number:3}. {step.actor:6}  {step.text}"
    if step.expect is None:
        return [text]
    if not step.differs:
        return [f"{text:<52}  {_both(step, next(iter(step.expect.values())))}"]
    return [text, *(f"{'':16}{line}" for line in _by_preset(step, step.expect))]


def _by_preset(step: Step, expect: Mapping[Preset, str]) -> list[str]:
    return [f"{preset:8} {_both(step, result)}" for preset, result in expect.items()]


def _both(step: Step, result: str) -> str:
    """A result as the file says it, and in words if these say more."""
    words = in_words(step, result)
    return result if words == result else f"{result}  {words}"
