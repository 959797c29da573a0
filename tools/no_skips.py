"""pytest plugin for CI (``-p tools.no_skips``): a test or a module that skips itself has failed.

A test that cannot mount has shown nothing; on a developer's machine it may say so, in CI it counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator


def _fail_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure that tells its reason; an expected failure stays one."""
    if report.skipped and not hasattr(report, "wasxfail"):
        _path, _line, reason = cast("tuple[str, int, str]", report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"a skip counts as a failure in CI: {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_skipped(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_skipped(report)
    return report
