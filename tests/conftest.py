"""What all tests share: in CI nothing is skipped quietly, and what was measured is printed at the end."""

import os
from collections.abc import Generator
from typing import Any

import pytest


def _no_skip_in_ci(report: pytest.CollectReport | pytest.TestReport, allowed: bool) -> None:
    if os.environ.get("CI") == "true" and report.outcome == "skipped" and not allowed:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"in CI only a test that needs a GPU may skip, not this one ({reason})"
        vars(report).pop("wasxfail", None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _no_skip_in_ci(report, allowed=item.get_closest_marker("gpu") is not None)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _no_skip_in_ci(report, allowed=False)
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what tests noted with `record_property`, such as a lesson's seconds or a redraw's milliseconds."""
    passed_or_not = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    notes = [f"{name}: {value}" for report in passed_or_not for name, value in report.user_properties]
    if notes:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(notes))


@pytest.fixture(scope="session")
def browser() -> Generator[Any, None, None]:
    """One Chromium for all browser tests."""
    from labkit import browser as harness

    if harness.chromium() is None:
        pytest.skip(harness.NONE_FOUND)
    with harness.browser() as running:
        yield running
