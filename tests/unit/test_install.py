"""What is put beside the command: man pages, shell completion, the unit; by ``make install``."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support.mount import ROOT, command, run
from tests.support.waiting import PATIENCE
from tools.manpages.__main__ import main as write_man_pages
from vfs_volatile.cli.app import command_names


def output(*words: object, **variables: str) -> str:
    """What a program prints; it must succeed and complain of nothing."""
    done = subprocess.run(
        [*map(str, words)],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# ---- man pages ----


@pytest.fixture(scope="module")
def man(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All man pages."""
    made = tmp_path_factory.mktemp("man")
    write_man_pages(made)
    return made


@pytest.mark.parametrize("page", ["man1/vfs-volatile.1", "man3/fvrange.3"])
def test_the_man_pages_are_well_formed(man: Path, page: str) -> None:
    assert output("mandoc", "-T", "lint", "-W", "warning", man / page) == ""


def test_every_command_and_option_has_its_place(man: Path) -> None:
    text = output("mandoc", "-T", "ascii", "-O", "width=200", man / "man1/vfs-volatile.1")
    plain = re.sub(".\b", "", text)
    for name in command_names():
        assert re.search(rf"^ +vfs-volatile {name} ", plain, re.MULTILINE), name
        for option in re.findall(
            r"^ +(?:-\w, )?(--[a-z-]+)", run(name, "--help").stdout, re.MULTILINE
        ):
            assert option == "--help" or option in plain, option


def test_the_calls_are_told_with_their_errors(man: Path) -> None:
    plain = re.sub(".\b", "", output("mandoc", "-T", "ascii", man / "man3/fvrange.3"))
    header = (ROOT / "vfs_volatile/fvrange.h").read_text()
    for name in {
        *re.findall(r"\bVRANGE_[A-Z]+", header),
        *re.findall(r"^ \* (E[A-Z]+) ", header, re.MULTILINE),
    }:
        assert name in plain, name


# ---- make install ----


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of PREFIX=/opt/here below a directory."""
    tree = tmp_path_factory.mktemp("tree")
    output("tools/install", DESTDIR=str(tree), PREFIX="/opt/here")
    return tree / "opt/here"


def test_everything_is_where_a_machine_looks_for_it(installed: Path) -> None:
    found = {str(path.relative_to(installed)) for path in installed.rglob("*") if not path.is_dir()}
    assert found == {
        "bin/vfs-volatile",
        "lib/systemd/system/vfs-volatile@.service",
        "share/bash-completion/completions/vfs-volatile",
        "share/fish/vendor_completions.d/vfs-volatile.fish",
        "share/man/man1/vfs-volatile.1",
        "share/man/man3/fvrange.3",
        "share/man/man3/mvrange.3",
        "share/man/man3/mvrange_fd.3",
        "share/zsh/site-functions/_vfs-volatile",
    }
    assert os.readlink(installed / "bin/vfs-volatile") == f"{ROOT}/.venv/bin/vfs-volatile"
    assert (installed / "share/man/man3/mvrange.3").read_text().startswith('.\\"')
    unit = (installed / "lib/systemd/system/vfs-volatile@.service").read_text()
    assert "ExecStart=/opt/here/bin/vfs-volatile mount " in unit


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("vfs-volatile um", {"umount"}),
        ("vfs-volatile mount --sem", {"--semantics"}),
        ("vfs-volatile mount --semantics ", {"unified", "stultz", "kim"}),
    ],
)
def test_bash_completes(installed: Path, tmp_path: Path, typed: str, offered: set[str]) -> None:
    program = tmp_path / "vfs-volatile"
    program.write_text(f'#!/bin/sh\ncd {ROOT} && exec {shlex.join(command())} "$@"\n')
    program.chmod(0o755)
    words = [shlex.quote(word) for word in typed.split(" ")]
    script = (
        f"source {installed}/share/bash-completion/completions/vfs-volatile;"
        f" COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1};"
        ' $(complete -p vfs-volatile | sed "s/.*-F \\([^ ]*\\).*/\\1/") vfs-volatile;'
        ' echo "${COMPREPLY[@]}"'
    )
    found = output("bash", "-c", script, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert set(found.split()) == offered


def test_zsh_and_fish_are_told_the_same() -> None:
    typed = {"_TYPER_COMPLETE_ARGS": "vfs-volatile um", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    zsh = output(*command(), _VFS_VOLATILE_COMPLETE="complete_zsh", **typed)
    assert '"umount":' in zsh
    assert "mark" not in zsh
    fish = output(*command(), _VFS_VOLATILE_COMPLETE="complete_fish", **typed)
    assert fish.startswith("umount\t")


def test_the_file_for_zsh_begins_as_it_must(installed: Path) -> None:
    script = (installed / "share/zsh/site-functions/_vfs-volatile").read_text()
    assert script.startswith("#compdef vfs-volatile\n")
