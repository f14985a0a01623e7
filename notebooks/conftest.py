"""What `pytest --nbval notebooks` compares, strictly: text. It must live here; nbval's hook does not see tests/."""

import os
import tempfile
import time
from collections.abc import Generator
from typing import Any

import pytest

from labkit.peak import PeakMemory

# Text is compared, stderr as well: a new warning is news. What stands beside a text is not: a figure's JSON and SVG are
# one plotly version's, and HTML repeats the text in colour. nbval itself leaves out PNG and widgets.
NOT_COMPARED = ("application/vnd.plotly.v1+json", "text/html", "image/svg+xml")
SECONDS, BYTES = 60, 4 << 30  # what a lesson may take: of one processor, for another lesson runs beside it

_running: dict[str, tuple[tempfile.TemporaryDirectory, PeakMemory, float]] = {}


def pytest_collectstart(collector: pytest.Collector) -> None:
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += NOT_COMPARED


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Each notebook starts, as when it was built, with an empty work folder: the kernel starts just after this."""
    if item.path.stem not in _running:
        work = tempfile.TemporaryDirectory(prefix="labkit-", ignore_cleanup_errors=True)
        os.environ["LABKIT_WORK"] = work.name
        _running[item.path.stem] = work, PeakMemory().__enter__(), time.monotonic()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """After its last cell a notebook's time and memory are held to what a lesson may take."""
    yield
    if nextitem is None or nextitem.path != item.path:
        work, peak, start = _running[item.path.stem]
        seconds = time.monotonic() - start
        peak.__exit__()
        work.cleanup()
        assert peak.bytes, "no kernel was seen"
        said = f"{seconds:.1f} s, {peak.cpu:.1f} s of one processor, {peak.bytes / 2**30:.2f} GiB"
        item.user_properties.append((f"{item.path.stem}, unsolved", said))
        assert peak.cpu <= SECONDS
        assert peak.bytes <= BYTES


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was measured."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    notes = {f"{name}: {value}" for report in reports for name, value in getattr(report, "user_properties", [])}
    if notes:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(sorted(notes)))
