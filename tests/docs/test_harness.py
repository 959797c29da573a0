"""An example that does not do what its page says is a failure; this is what proves the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import session
from tests.docs.pages import PageError, read_blocks
from tests.docs.session import Session
from tests.support.mountinfo import mounts_below
from tests.support.watchdog import Watchdog


def fence(language: str, text: str) -> str:
    return f"```{language}\n{text}```\n\n"


class Playground:
    """Plays texts as pages, each from its beginning."""

    def __init__(self, work: Path, watchdog: Watchdog) -> None:
        self.work = work
        self._watchdog = watchdog
        self._played = 0

    def play(self, text: str) -> Path:
        """Where it was played. Raises PageError."""
        self._played += 1
        work = self.work / str(self._played)
        work.mkdir()
        page = work / "page.md"
        page.write_text(text)
        with Session(work, self._watchdog) as playing:
            for block in read_blocks(page):
                if block.runs:
                    playing.run(block)
        return playing.directory


@pytest.fixture
def playground(tmp_path: Path, watchdog: Watchdog) -> Playground:
    return Playground(tmp_path, watchdog)


def test_what_a_page_may_say(playground: Playground) -> None:
    directory = playground.play(
        "<!-- setup: where=here -->\n\n"
        + fence("console", "$ echo $where \\\n> and there\nhere and ...\n$ cat /none\ncat: ...\n")
        + fence("sh", "echo not looked at\ncd /tmp\n")
        + fence("console", "$ pwd; echo 'a   b'\n/tmp\na b\n")
        + fence("python", "import os\nname = 'a name'\n")
        + fence("python", "print(name)\nopen('written', 'w').close()\n")
        + fence("output", "a ...\n")
        + fence("toml", "not a toml file\n")
        + "<!-- file: kept.txt -->\n"
        + fence("text", "content\n")
        + "<!-- not run: it would end the machine -->\n"
        + fence("sh", "false\n")
    )
    assert (directory / "written").exists()
    assert (directory / "kept.txt").read_text() == "content\n"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (fence("console", "$ echo b\na\n"), r"- a\n *\+ b"),
        (fence("console", "$ echo b\n"), r"\+ b"),
        (fence("console", "$ true\na\n"), "- a"),
        (fence("console", "$ false\n"), "ended with 1"),
        (fence("console", "$ echo a; exit 4\na\n"), "ended with None"),
        (fence("console", "echo a\n"), "begins with"),
        (fence("sh", "false\ntrue\n"), "ended the interpreter"),
        (fence("python", "print('before')\n1 / 0\n"), r"before\n(.*\n)*ZeroDivisionError"),
        (fence("python", "import os\nos.abort()\n"), "ended the interpreter"),
        (fence("python", "print(1)\n") + fence("output", "2\n"), r"- 2\n *\+ 1"),
        (fence("output", "2\n"), "nothing that prints"),
        (fence("bash", "true\n"), "the language 'bash'"),
        (fence("", "true\n"), "the language ''"),
        ("text\n\n    indented\n", "the language ''"),
    ],
)
def test_what_is_noticed(playground: Playground, text: str, word: str) -> None:
    with pytest.raises(PageError, match=word):
        playground.play(text)


def test_what_does_not_end_is_ended(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "BLOCK_SECONDS", 0.5)
    with pytest.raises(PageError, match="no end after"):
        playground.play(fence("console", "$ sleep 1000\n"))


def test_a_page_leaves_nothing_mounted(playground: Playground) -> None:
    mounted = fence("console", "$ mkdir m && vfs-volatile mount m\n$ exec 5>m/held\n")
    playground.play(mounted)
    with pytest.raises(PageError, match="ended with 1"):
        playground.play(mounted + fence("console", "$ false\n"))
    assert mounts_below(playground.work) == {}
