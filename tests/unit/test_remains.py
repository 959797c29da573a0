"""What a deleted file held is given back, also if there is no memory for that at first."""

from __future__ import annotations

from itertools import count
from unittest.mock import Mock

import pytest
import trio
import trio.testing

from tests.support.space import File, P
from vfs_volatile.core.address_space import AddressSpace
from vfs_volatile.core.ranges import AT_ONCE
from vfs_volatile.fs.electorate import Electorate
from vfs_volatile.fs.remains import clear_away

FEW, MANY = 4, 3 * AT_ONCE


@pytest.mark.parametrize(
    ("ranges", "refused"),
    [(FEW, [0]), (FEW, [0, 1, 2]), (MANY, [0]), (MANY, [1]), (MANY, [2, 3])],
)
def test_what_a_deleted_file_held(
    ranges: int, refused: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = File(size=2 * ranges)
    file.write(0, b"x" * 2 * ranges * P)
    for page in range(0, 2 * ranges, 2):
        file.mark(page * P, P, 0)
    truncate, calls = AddressSpace.truncate, count()

    def refusing(space: AddressSpace, size: int) -> None:
        if next(calls) in refused:
            raise MemoryError
        truncate(space, size)

    monkeypatch.setattr(AddressSpace, "truncate", refusing)

    async def delete() -> None:
        clear_away(Mock(Electorate), file)
        await trio.sleep(60)

    trio.run(delete, clock=trio.testing.MockClock(autojump_threshold=0.01))
    assert next(calls) > len(refused)
    assert not file.fake.pages
    assert file.memory.resident == file.memory.volatile == 0
    assert file.memory.ranges == 0
