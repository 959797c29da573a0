"""A large file lets go of its memory at once, and the system has it back soon after."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.support.files import VFile, fallocate
from tests.support.fvrange import PAGE
from tests.support.holdings import memfd_blocks
from tests.support.mount import MountFactory
from tests.support.waiting import eventually
from vfs_volatile.core.pages import CHUNK_PAGES
from vfs_volatile.store.arena import CHUNKS_AT_ONCE

LARGE = (CHUNKS_AT_ONCE + 8) * CHUNK_PAGES * PAGE
BLOCK = 512


def delete(file: VFile) -> None:
    file.close()
    file.path.unlink()


@pytest.mark.parametrize("give_back", [delete, lambda file: os.ftruncate(file.fd, 0)])
def test_more_than_is_freed_at_once(
    mount: MountFactory, give_back: Callable[[VFile], None]
) -> None:
    mounted = mount(size="1G")
    file = mounted.file("large", 0)
    fallocate(file.fd, 0, 0, LARGE)
    assert memfd_blocks(mounted) * BLOCK >= LARGE
    give_back(file)
    assert eventually(lambda: mounted.resident == 0)
    assert eventually(lambda: memfd_blocks(mounted) == 0)
    again = mounted.file("again", 3)
    assert again.reads() == "abc"
