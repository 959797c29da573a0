"""Looks at processes that run, map, clone, run other programs and end between any two calls of the
look: no private mapping is overlooked that was there before the look and is there still.
"""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.support.process_model import INO, World
from vfs_volatile.processes.mappings import MappingScanner
from vfs_volatile.processes.maps import OwnMount
from vfs_volatile.processes.openers import Openers

LOOKS = 30


class Somewhere(OwnMount):
    numbers = (0, 1)


@given(st.integers(0, 2**32), st.integers(0, 24))
def test_no_mapping_older_than_a_look_is_overlooked(seed: int, most_files: int) -> None:
    dice = random.Random(seed)
    world = World(dice)
    scanner = MappingScanner(Somewhere("/"), world, only_uid=None, most_files=most_files)
    for _ in range(LOOKS):
        before = world.private
        found = scanner.scan({INO: Openers()})
        seen = {page for mapper in found.of(INO) for page in mapper.pages or ()}
        if not found.unreadable:  # else all of it counts as mapped private
            assert before & world.private <= seen
        assert world.open_files <= most_files
        if dice.random() < 0.3:
            world.happen(0.6)
        world.use_pids_again()
