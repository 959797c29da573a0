"""A page of the documentation (Markdown) as the sections of a man page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tools.manpages import roff


def sections(text: str) -> list[str]:
    """Everything below the title: headings, paragraphs, lists, examples, tables of two columns."""
    tokens = iter(MarkdownIt("commonmark").enable("table").parse(text))
    body: list[str] = []
    for token in tokens:
        body += _BLOCKS.get(token.type, _nothing)(token, tokens)
    return body


def _heading(token: Token, tokens: Iterator[Token]) -> list[str]:
    text = _inline(next(tokens))
    next(tokens)
    match token.tag:
        case "h1":
            return []
        case "h2":
            return [f".SH {_quoted(text.upper())}"]
        case _:
            return [f".SS {_quoted(text)}"]


def _quoted(text: str) -> str:
    return '"' + re.sub(r"\\f.", "", text).replace('"', "\\(dq") + '"'


def _paragraph(token: Token, tokens: Iterator[Token]) -> list[str]:
    return [".PP", *roff.lines(_inline(next(tokens)))]


def _item(token: Token, tokens: Iterator[Token]) -> list[str]:
    next(tokens)  # the paragraph that it begins with
    return [".IP \\(bu 2", *roff.lines(_inline(next(tokens)))]


def _table(token: Token, tokens: Iterator[Token]) -> list[str]:
    cells: list[str] = []
    for inner in tokens:
        if inner.type == "inline":
            cells.append(_inline(inner))
        if inner.type == "thead_close":
            assert len(cells) == 2, "a table of two columns becomes a list"
            cells.clear()
        if inner.type == "table_close":
            break
    pairs = zip(cells[::2], cells[1::2], strict=True)
    return [line for tag, text in pairs for line in roff.tagged(tag, text)]


def _fence(token: Token, tokens: Iterator[Token]) -> list[str]:
    return roff.example(token.content)


def _nothing(token: Token, tokens: Iterator[Token]) -> list[str]:
    return []


_BLOCKS: dict[str, Callable[[Token, Iterator[Token]], list[str]]] = {
    "heading_open": _heading,
    "paragraph_open": _paragraph,
    "list_item_open": _item,
    "table_open": _table,
    "fence": _fence,
}


def _inline(token: Token) -> str:
    parts = []
    for child in token.children or []:
        match child.type:
            case "text":
                parts.append(roff.plain(child.content))
            case "code_inline":
                parts.append(roff.bold(child.content))
            case "softbreak":
                parts.append("\n")
            case "strong_open":
                parts.append("\\fB")
            case "em_open":
                parts.append("\\fI")
            case "strong_close" | "em_close":
                parts.append("\\fR")
            case "link_open" | "link_close":
                pass
            case other:
                raise ValueError(f"no way to say {other} in a man page")
    return "".join(parts)
