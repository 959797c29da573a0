"""What holds memory in very many places is purged in steps, each with a look of its own."""

from __future__ import annotations

import os

import pytest

from tests.support.fvrange import PAGE
from tests.support.mount import Mount, MountFactory
from tests.support.waiting import eventually
from vfs_volatile.core.pages import CHUNK_PAGES
from vfs_volatile.core.ranges import AT_ONCE

PLACES = 2 * AT_ONCE + 1


def looks(mounted: Mount) -> int:
    found = mounted.stats()["looks_at_processes"]
    assert isinstance(found, int)
    return found


@pytest.mark.parametrize("access", ["sigbus", "zero"])
@pytest.mark.parametrize("how", ["request", "budget"])
def test_pages_far_apart_go_in_steps(mount: MountFactory, access: str, how: str) -> None:
    """Also a FULL range, of which the budget wants a page: others are served meanwhile."""
    mounted = mount(size="64M", access=access)
    file = mounted.file("file", 0)
    for place in range(PLACES):
        os.pwrite(file.fd, b"x" * PAGE, place * CHUNK_PAGES * PAGE)
    file.mark()
    before = looks(mounted)
    if how == "request":
        assert file.purge() == PLACES * PAGE
    else:
        mounted.set_root("budget", str((PLACES - 1) * PAGE))
    assert eventually(lambda: mounted.resident == 0)
    assert looks(mounted) - before == 3
    assert file.unmark() == PLACES * PAGE
