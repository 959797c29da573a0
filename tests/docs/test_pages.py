"""Every example of the README and of the documentation does what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import read_blocks
from tests.docs.session import PAGE_SECONDS, Session
from tests.support.mount import ROOT
from tests.support.watchdog import Watchdog

PAGES = [ROOT / "README.md", *sorted((ROOT / "vfs_volatile" / "docs").glob("*.md"))]

MAY_BE_LEFT_OUT = 6
"""Examples that cannot be run here. Each says why; more of them would hide what is untested."""


@pytest.mark.timeout(PAGE_SECONDS + 20)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page(page: Path, tmp_path: Path, watchdog: Watchdog) -> None:
    blocks = read_blocks(page)
    with Session(tmp_path, watchdog) as session:
        for block in blocks:
            if block.runs:
                session.run(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_few_examples_are_not_run() -> None:
    left_out = {
        block.place: block.not_run
        for page in PAGES
        for block in read_blocks(page)
        if block.not_run is not None
    }
    assert all(left_out.values()), f"no reason: {left_out}"
    assert len(left_out) <= MAY_BE_LEFT_OUT, left_out
