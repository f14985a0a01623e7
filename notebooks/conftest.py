"""What `pytest --nbval notebooks` compares, strictly: text. It must live here; nbval's hook does not see tests/."""

import os
import tempfile

import pytest

# Text is compared, stderr as well: a new warning is news. What stands beside a text is not: a figure's JSON and SVG are
# one plotly version's, and HTML repeats the text in colour. nbval itself leaves out PNG and widgets.
NOT_COMPARED = ("application/vnd.plotly.v1+json", "text/html", "image/svg+xml")

_started: set[str] = set()


def pytest_collectstart(collector: pytest.Collector) -> None:
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += NOT_COMPARED


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Each notebook starts, as when it was built, with an empty work folder: the kernel starts just after this."""
    if item.parent is not None and item.parent.nodeid not in _started:
        _started.add(item.parent.nodeid)
        os.environ["LABKIT_WORK"] = tempfile.mkdtemp(prefix="labkit-")
