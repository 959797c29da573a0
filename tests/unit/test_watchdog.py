"""The thread that watches requests goes on whatever happens to it."""

from __future__ import annotations

import pytest
import trio

from vfs_volatile.daemon import watchdog
from vfs_volatile.native.requests import Request, Requests


class Short(Requests):
    """There is no memory to look at them the first time."""

    looks = 0

    def __len__(self) -> int:
        return 1

    def older_than(self, seconds: float) -> list[tuple[int, Request]]:
        self.looks += 1
        if self.looks == 1:
            raise MemoryError
        return []


async def test_it_watches_again_after_it_had_no_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog, "TICK_SECONDS", 0.0)
    requests = Short(lambda _tid: False)
    with trio.fail_after(60), watchdog.Watchdog(requests).watching():
        while requests.looks < 10:
            await trio.lowlevel.checkpoint()
    assert "watching requests failed: the system refused: Cannot allocate memory" in caplog.text
