"""The examples in a page of documentation: every fenced block, and what is to be done with it.

The language of a fence decides:

``console``  lines ``$ COMMAND`` (continued by ``> MORE``), each followed by what it prints, stdout
             and stderr together. ``...`` stands for any text. A command that is shown to print
             nothing has to succeed.
``sh``       commands that all have to succeed. What they print is not looked at.
``python``   a piece of the page's one Python program; its names are there for the next piece.
``c``        a source file: compiled with warnings as errors, and run if it has a ``main``.
``output``   what the block before it has printed, with ``...`` as above.

Other blocks are not run, and have a language that says so: ``text``, ``toml`` and the like. A
comment before a fence changes what is done:

``<!-- file: NAME -->``       the block is written to that file instead of being run
``<!-- not run: REASON -->``  it is not run
``<!-- setup: COMMANDS -->``  run as ``sh``, and not shown to the reader
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

RUN = frozenset({"console", "sh", "python", "c", "output"})
INERT = frozenset({"text", "toml", "ini", "json", "yaml", "promql", "make"})

_MARKER = re.compile(r"<!--\s*(file|not run|setup):(.*?)-->\s*", re.DOTALL)


class PageError(AssertionError):
    """An example that cannot be understood, or that did not do what the page says."""


@dataclass(frozen=True, slots=True)
class Block:
    """One example."""

    page: str
    line: int
    """Where its fence is, from 1."""
    language: str
    text: str
    file: str | None = None
    """The file that it is the content of."""
    not_run: str | None = None
    """Why it is not run."""

    @property
    def runs(self) -> bool:
        """Whether there is something to do."""
        return self.not_run is None and (self.file is not None or self.language in RUN)

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """The examples of ``page`` in order. Raises PageError for one that says not what it is."""
    blocks = []
    markers: dict[str, str] = {}
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "html_block" and (marker := _MARKER.fullmatch(token.content)):
            if marker[1] == "setup":
                blocks.append(Block(page.name, line, "sh", marker[2]))
            else:
                markers = {marker[1]: marker[2].strip()}
        elif token.type in ("fence", "code_block"):
            language = _language(token, f"{page.name}:{line}")
            blocks.append(
                Block(
                    page.name,
                    line,
                    language,
                    token.content,
                    markers.get("file"),
                    markers.get("not run"),
                )
            )
            markers = {}
    return blocks


def _language(token: Token, place: str) -> str:
    """The first word after the fence."""
    language = token.info.partition(" ")[0]
    if language not in RUN | INERT:
        raise PageError(
            f"{place}: no example has the language '{language}'; those that run:"
            f" {', '.join(sorted(RUN))}; others: {', '.join(sorted(INERT))}"
        )
    return language


def read_console(block: Block) -> list[tuple[str, str]]:
    """(command, what it prints) of a ``console`` block. Raises PageError."""
    steps: list[tuple[list[str], list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            steps.append(([line[2:]], []))
        elif not steps:
            raise PageError(f"{block.place}: a console begins with '$ COMMAND'")
        elif line.startswith("> ") and not steps[-1][1]:
            steps[-1][0].append(line[2:])
        else:
            steps[-1][1].append(line + "\n")
    return [("\n".join(command), "".join(printed)) for command, printed in steps]
