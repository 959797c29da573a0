"""Text as man(7) wants it."""

from __future__ import annotations

from collections.abc import Iterable

from vfs_volatile import __version__

_DATE = "2026-11-25"
"""Of the version, as a man page has to have one."""


def plain(text: str) -> str:
    """``text`` with nothing in it that roff would take for its own."""
    return (
        text.replace("\\", "\\e").replace("'", "\\(aq").replace("`", "\\(ga").replace("^", "\\(ha")
    )


def literal(text: str) -> str:
    """Something that is typed as it stands: its hyphens are no hyphenation."""
    return plain(text).replace("-", "\\-").replace("~", "\\(ti")


def bold(text: str) -> str:
    return f"\\fB{literal(text)}\\fR"


def lines(text: str) -> list[str]:
    """Lines of running text that is escaped already; none looks like a macro."""
    return [line if line[0] not in ".'" else f"\\&{line}" for line in text.split("\n") if line]


def example(text: str) -> list[str]:
    """Lines to be shown as they are."""
    shown = [literal(line) or "\\&" for line in text.rstrip("\n").split("\n")]
    return [".PP", ".RS 4", ".EX", *(s if s[0] != "." else f"\\&{s}" for s in shown), ".EE", ".RE"]


def tagged(tag: str, text: str) -> list[str]:
    """A paragraph under a tag; both escaped."""
    return [".TP", *lines(tag), *lines(text)]


def page(name: str, section: int, manual: str, body: Iterable[str]) -> str:
    """The whole page; ``body`` may begin a paragraph where a section has begun one already."""
    head = f'.TH {name.upper()} {section} {_DATE} "vfs\\-volatile {__version__}" "{manual}"'
    written = ['.\\" Made from --help and the documentation.', head, ".nh", ".ad l"]
    for line in body:
        if line != ".PP" or not written[-1].startswith((".SH", ".SS")):
            written.append(line)
    return "\n".join([*written, ""])
