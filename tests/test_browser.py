"""Every lesson, solved, in a real headless Chromium on a real `labkit lab`: it runs, its explorers answer, all stays here.

Unsolved, `pytest --nbval notebooks` runs it.
"""

import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import nbformat
import psutil
import pytest
from explorers import Explorer, explorers, moves, press, redraw_ms, restore, step, watch_redraws
from PIL import Image

from labkit import assets, build
from labkit import browser as harness
from labkit.launch import LESSONS

NAMES = sorted(path.name for path in LESSONS.glob("[0-9]*.ipynb"))
REDRAW_MS = 100
SECONDS = 60
BYTES = int(2.5 * 2**30)  # of JupyterLab and the open lesson's kernel together

pytestmark = pytest.mark.browser


@dataclass
class Lesson:
    name: str
    page: Any
    seconds: float = 0.0  # that a learner waits until all cells have run
    explorers: list[Explorer] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def address(browser: Any, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`labkit lab` for a learner with an empty home, who has the assets and has solved every exercise."""
    work = tmp_path_factory.mktemp("work")
    for source in build.sources():
        nbformat.write(build.solved(build.fresh(source)), work / f"{source.stem}.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_CACHE", str(assets.cache_dir()))
        patch.setenv("HOME", str(home))
        with harness.server(work) as address:
            yield address


@pytest.fixture(scope="module")
def window(browser: Any) -> Any:
    """The smallest window that all must be readable in, with one browser cache for all pages."""
    return browser.new_context(viewport={"width": harness.WIDTH, "height": harness.HEIGHT})


@pytest.fixture(scope="module", params=NAMES, ids=lambda name: name.removesuffix(".ipynb"))
def lesson(request: pytest.FixtureRequest, address: str, window: Any) -> Iterator[Lesson]:
    """The lesson opened, and run."""
    page = window.new_page()
    opened = Lesson(request.param, page)
    allowed = (address, address.replace("http", "ws"), "data:", "blob:")
    page.on("request", lambda asked: None if asked.url.startswith(allowed) else opened.outside.append(asked.url))
    page.on("websocket", lambda socket: None if socket.url.startswith(allowed) else opened.outside.append(socket.url))
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    harness.open_notebook(page, address, request.param)
    start = time.monotonic()
    harness.run_all(page)
    opened.seconds = time.monotonic() - start
    opened.explorers = explorers(page)
    yield opened
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.close()


def test_the_landing_lesson_opens_by_itself_and_nothing_asks_anything(address: str, window: Any):
    page = window.new_page()
    page.goto(address)
    page.wait_for_selector("text=/Python 3.* \\| Idle/", timeout=90_000)
    page.wait_for_selector(".lm-TabBar-tabLabel:has-text('00_start_here.ipynb')", timeout=10_000)
    page.wait_for_timeout(1000)
    assert page.locator(".jp-Dialog, .Toastify__toast").all_inner_texts() == []
    page.close()


def test_it_runs_to_the_end_without_an_error_or_a_warning(lesson: Lesson):
    cells = [cell for cell in harness.notebook(lesson.page)["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    expected = sum("raises-exception" in cell["metadata"].get("tags", []) for cell in cells)
    failures = [output["evalue"] for output in outputs if output["output_type"] == "error"]
    assert len(failures) == expected, failures
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []
    assert [cell["source"] for cell in cells if not cell["execution_count"]] == []
    assert lesson.page.get_by_text("Error displaying widget").count() == 0


def test_every_exercise_passes_and_the_lesson_takes_at_most_a_minute(lesson: Lesson, record_property):
    for cell in harness.notebook(lesson.page)["cells"]:
        if "check" in cell["metadata"].get("tags", []):
            verdict = "".join("".join(output["data"]["text/plain"]) for output in cell["outputs"] if "data" in output)
            assert "pass" in verdict, f"{cell['source']}: {verdict!r}"
    record_property(f"{lesson.name}, solved", f"{lesson.seconds:.0f} s")
    assert 0 < lesson.seconds <= SECONDS


def test_it_has_an_explorer_that_fits_the_window(lesson: Lesson):
    assert lesson.explorers
    for explorer in lesson.explorers:
        explorer.element.scroll_into_view_if_needed()
        harness.settled(lesson.page)
        _shot(explorer, f"{lesson.name}-{explorer.where[1:]}-light")
        assert explorer.element.evaluate(_CUT_OFF) <= 1, f"{explorer.where} is wider than its place"


def test_every_control_moves_the_picture_by_keyboard(lesson: Lesson):
    for explorer in lesson.explorers:
        restore(explorer)
        pixels = explorer.element.screenshot()
        for control in _buttons_last(explorer):
            assert moves(explorer, control, press), (
                f"{explorer.where}: {control.kind} {control.label!r} changes nothing"
            )
        harness.settled(lesson.page)
        assert explorer.element.screenshot() != pixels  # what is seen changed, not only what is held


def test_every_control_moves_the_picture_by_its_value(lesson: Lesson):
    for explorer in lesson.explorers:
        restore(explorer)
        for control in _buttons_last(explorer):
            assert moves(explorer, control, step), f"{explorer.where}: {control.kind} {control.label!r} changes nothing"


def test_a_key_press_is_redrawn_in_a_tenth_of_a_second(lesson: Lesson, record_property):
    for explorer in lesson.explorers:
        explorer.element.scroll_into_view_if_needed()
        restore(explorer)
        watch_redraws(explorer)
        times, fast = [], [control for control in explorer.controls if not control.slow]
        for control in fast:
            redraw_ms(explorer, control, 0)  # the first may fill a cache
            attempts = range(1, 1 + max(4, 12 // len(fast)))
            times += [ms for attempt in attempts if (ms := redraw_ms(explorer, control, attempt)) is not None]
        if not times:
            assert all(control.slow for control in explorer.controls)
            continue
        what = f"{lesson.name} {explorer.where}, {len(times)} redraws"
        record_property(what, f"median {median(times):.0f} ms, slowest {max(times):.0f} ms")
        assert median(times) <= REDRAW_MS


def test_it_is_readable_in_the_dark_theme(lesson: Lesson):
    _theme(lesson.page, "JupyterLab Dark", light="false")
    for explorer in lesson.explorers:
        explorer.element.scroll_into_view_if_needed()
        harness.settled(lesson.page)
        picture = Image.open(io.BytesIO(_shot(explorer, f"{lesson.name}-{explorer.where[1:]}-dark"))).convert("L")
        tones = picture.histogram()
        background = max(range(256), key=tones.__getitem__)
        ink = sum(count for tone, count in enumerate(tones) if abs(tone - background) > 60)
        assert background < 64, "a light patch in a dark page"
        assert ink > 0.005 * sum(tones), "next to nothing can be seen"
    _theme(lesson.page, "JupyterLab Light", light="true")


def test_nothing_left_this_machine_and_the_page_had_no_error(lesson: Lesson):
    assert lesson.outside == []
    assert lesson.errors == []


def test_jupyterlab_and_the_lesson_hold_at_most_2_5_gib(lesson: Lesson, record_property):
    """The kernel at its peak, while it ran and its explorers were moved, and the server as it is now."""
    said = harness.run_in_kernel(lesson.page, "import os, labkit.peak; print(os.getpid(), labkit.peak.most_held())")
    pid, kernel = (int(number) for number in said.split())
    server = psutil.Process(pid).parent().memory_info().rss
    record_property(f"{lesson.name} kernel and server", f"{kernel / 2**30:.2f} + {server / 2**30:.2f} GiB")
    assert kernel + server <= BYTES


def test_the_users_own_jupyter_is_left_alone(lesson: Lesson, home: Path):
    assert [path for path in (home / ".jupyter", home / ".local" / "share" / "jupyter") if path.exists()] == []


# How many pixels of an explorer lie beyond its own box, or its box beyond the cell's output.
_CUT_OFF = """root => {
  const right = element => element.getBoundingClientRect().right;
  const beyond = right(root) - right(root.closest('.jp-OutputArea-output'));
  return Math.max(root.scrollWidth - root.clientWidth, beyond);
}"""


def _buttons_last(explorer: Explorer) -> list:
    """A button such as "reset" changes something only after something was changed."""
    return sorted(explorer.controls, key=lambda control: control.kind == "button")


def _theme(page: Any, theme: str, light: str) -> None:
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    page.wait_for_selector(f"body[data-jp-theme-light='{light}']", state="attached", timeout=30_000)


def _shot(explorer: Explorer, name: str) -> bytes:
    png = explorer.element.screenshot()
    if folder := os.environ.get("LABKIT_SHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f"{name}.png").write_bytes(png)
    return png
