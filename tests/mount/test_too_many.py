"""Nobody can make as many ranges as the daemon has memory for: calls fail before, and cleanly."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.anonymous import Family, compile_client
from tests.support.files import VFile
from tests.support.fvrange import PAGE
from tests.support.mount import Mount, MountFactory, run
from tests.support.small_daemon import MOST
from vfs_volatile import VRANGE_NONVOLATILE, VRANGE_VOLATILE, fvrange_many

Act = Callable[[VFile], object]


@pytest.fixture(params=["cached", "passthrough"])
def small(request: pytest.FixtureRequest, mount: MountFactory) -> Mount:
    options = {"access": "zero"} if request.param == "passthrough" else {}
    return mount(module="tests.support.small_daemon", **options)


@pytest.fixture
def file(small: Mount) -> VFile:
    """One range less than there may be, the last of them of ten pages."""
    made = small.open("file")
    os.pwrite(made.fd, b"x" * (2 * MOST + 10) * PAGE, 0)
    spans = [(2 * number * PAGE, PAGE) for number in range(MOST - 2)]
    fvrange_many(made.fd, spans, VRANGE_VOLATILE)
    made.mark(2 * MOST * PAGE, 10 * PAGE)
    return made


TOO_MANY: dict[str, Act] = {
    "two marks": lambda file: fvrange_many(
        file.fd, [((2 * MOST - page) * PAGE, PAGE) for page in (2, 4, 6)], VRANGE_VOLATILE
    ),
    "the whole file": lambda file: file.mark(),
    "by attribute": lambda file: file.set_attribute("volatile", "all"),
    "marks by attribute": lambda file: file.set_attribute(
        "volatile", ",".join(f"{(2 * MOST - page) * PAGE}+{PAGE}" for page in (2, 4, 6))
    ),
    "two cuts": lambda file: fvrange_many(
        file.fd, [((2 * MOST + page) * PAGE, PAGE) for page in (3, 5, 7)], VRANGE_NONVOLATILE
    ),
    "cuts by attribute": lambda file: file.set_attribute(
        "nonvolatile", ",".join(f"{(2 * MOST + page) * PAGE}+{PAGE}" for page in (3, 5, 7))
    ),
}


@pytest.mark.parametrize("name", TOO_MANY)
def test_what_would_make_too_many_changes_nothing(file: VFile, name: str) -> None:
    before = file.attribute("volatile")
    with pytest.raises(OSError, match="allocate memory"):
        TOO_MANY[name](file)
    assert file.attribute("volatile") == before
    file.unmark(0, 0)
    file.mark()
    assert file.attribute("volatile") == f"0+{(2 * MOST + 10) * PAGE}"


def test_the_command_tells_what_to_do(file: VFile) -> None:
    done = run("mark", file.path)
    assert done.returncode == 1
    assert "Cannot allocate memory; unmark other ranges" in done.stderr
    assert run("unmark", file.path).returncode == 0
    assert run("mark", file.path).returncode == 0


def test_memory_of_a_process_counts_too(file: VFile, small: Mount, tmp_path: Path) -> None:
    """What was refused is not taken for marked."""
    family = Family(compile_client(tmp_path), tmp_path)
    try:
        process = family.first().start(small.path, 8)
        process.fill(0, 8, "a")
        assert process.mark(3, 5) == 0
        assert process.ask("unmark 5 1") == "ENOMEM"
        assert process.unmark(3, 5) == 0
        assert process.mark(0, 1) == 0
        assert process.ask("mark 2 1 1") == "ENOMEM"
        file.unmark(0, 0)
        assert process.mark(2, 1) == 0
        small.set_root("purge", "all")
        assert process.show().replace("X", "0") == "0a0aaaaa"
    finally:
        family.end()
