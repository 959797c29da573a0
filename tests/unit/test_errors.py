"""What clients can cause as often as they like is not said as often."""

from __future__ import annotations

import errno
import logging
import os

import pytest

from vfs_volatile.errors import Seldom

from vfs_volatile.native import shim  # isort: skip  # noqa: F401  # must come before answering
from vfs_volatile.native import answering


def test_each_reason_is_said_once_in_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("vfs_volatile.errors.time.monotonic", lambda: now)
    seldom = Seldom()
    assert [seldom.is_due(reason) for reason in "aabba"] == [True, False, True, False, False]
    now += 9.9
    assert not seldom.is_due("a")
    now += 0.1
    assert [seldom.is_due("a"), seldom.is_due("a")] == [True, False]


def test_refusals_that_a_client_repeats_do_not_fill_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(answering, "_refusals", Seldom())
    no_files = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    with caplog.at_level(logging.WARNING):
        told = [answering.errno_of(error) for error in [MemoryError(), no_files] * 50]
    assert told == [errno.ENOMEM] * 100
    assert len(caplog.records) == 2
