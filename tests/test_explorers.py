"""Every explorer draws at every corner of its controls, says so in words, and never hides an error."""

import importlib
import inspect
import itertools
import json
import statistics
import time
from pathlib import Path

import ipywidgets as w
import numpy as np
import pytest

import labkit
from labkit import attention_sinks, start_here, texts
from labkit.charts import bars, lines
from labkit.explorer import Explorer, slider
from labkit.live import LiveFigure
from labkit.theme import Figure, grid, token

EXPLORERS = {
    f"{path.parent.name}.{name}": function
    for path in sorted(Path(labkit.__file__).parent.glob("*/explorer.py"))
    for name, function in vars(importlib.import_module(f"labkit.{path.parent.name}.explorer")).items()
    if name.startswith("explore")
}


@pytest.fixture(scope="module")
def lm():
    return labkit.lm.load()


@pytest.fixture(scope="module", params=EXPLORERS)
def explorer(lm, request):
    explore = EXPLORERS[request.param]
    return explore(lm) if "lm" in inspect.signature(explore).parameters else explore()


def corners(control):
    if isinstance(control, (w.IntSlider, w.FloatSlider)):
        return [control.min, control.max, control.value]
    if isinstance(control, (w.Dropdown, w.SelectionSlider)):
        return [value for _, value in control._options_full if value != "your own"]
    if isinstance(control, w.Checkbox):
        return [False, True]
    return [control.value]


def test_every_corner_of_the_controls_draws_and_speaks(explorer):
    for values in itertools.product(*map(corners, explorer.controls.values())):
        figure = explorer.figure(**dict(zip(explorer.controls, values, strict=True)))
        assert figure.alt and figure.layout.meta["summary"] and figure.layout.title.text.endswith("?")
        assert "nan" not in figure.summary.lower().split()
        assert figure.summary == explorer.figure(**dict(zip(explorer.controls, values, strict=True))).summary
        assert figure.layout.width <= 760


def test_moving_a_control_changes_the_same_plot_in_place(explorer):
    live = explorer.live
    for name, control in explorer.controls.items():
        before = json.dumps(live.to_plotly_json(), default=str)
        kept = control.value
        control.value = next((v for v in corners(control) if v != kept), kept)
        changed = json.dumps(live.to_plotly_json(), default=str) != before
        assert changed or control.value == kept, name
        assert explorer._error.value == ""
        control.value = kept
        assert explorer.live is live


def test_the_plot_is_always_what_the_figure_function_drew(explorer):
    for values in list(itertools.product(*map(corners, explorer.controls.values())))[::7]:
        for control, value in zip(explorer.controls.values(), values, strict=True):
            control.value = value
        shown, drawn = explorer.live.to_plotly_json(), explorer.picture().to_plotly_json()
        for mine, new in zip(shown["data"], drawn["data"], strict=True):
            mine.pop("uid", None)
            assert plain(mine) == plain(new)
        for key in drawn["layout"].keys() - {"template", "meta"}:
            assert plain(shown["layout"][key]) == plain(drawn["layout"][key]), key


def plain(x):
    if isinstance(x, dict):
        return {key: plain(value) for key, value in x.items()}
    return (
        plain(x.tolist()) if isinstance(x, np.ndarray) else [plain(y) for y in x] if isinstance(x, (list, tuple)) else x
    )


def test_a_step_back_is_not_drawn_again():
    drawn = []

    def figure(n):
        drawn.append(n)
        return bars({"n": n}, title="How much is n?", axis="n")

    explorer = Explorer(figure, {"n": slider("n", 0, 0, 3)})
    for n in (1, 0, 2, 1):
        explorer.controls["n"].value = n
        assert explorer.live.data[0].x == (n,)
    assert drawn == [0, 1, 2]


def test_python_takes_a_small_part_of_the_hundred_milliseconds(explorer):
    control = next(c for c in explorer.controls.values() if len(corners(c)) > 1)
    took = []
    for value in corners(control) * 4:
        began = time.perf_counter()
        control.value = value
        took.append(time.perf_counter() - began)
    assert statistics.median(took) < 0.05


def test_the_learners_own_text_is_read_and_escaped(lm):
    explorer = start_here.explore(lm)
    explorer.controls["prompt"].value = "<script>alert(1)</script> <img src=x onerror=alert(2)>"
    assert explorer._error.value == ""
    assert "<script" not in explorer._words.value and "<img" not in explorer._words.value
    labels = [str(text) for text in explorer.live.data[0].text]
    assert not any("<" in label for label in labels)


def test_a_mistake_of_the_learner_is_shown_and_leaves_the_plot(lm):
    explorer = attention_sinks.explore_perplexity(lm)
    before = json.dumps(explorer.live.to_plotly_json(), default=str)
    explorer.controls["own"].value = "short"
    assert "your text is 1 tokens long; 2 to 512 can be shown" in explorer._error.value
    assert json.dumps(explorer.live.to_plotly_json(), default=str) == before
    explorer.controls["own"].value = ""
    assert explorer._error.value == ""


def test_an_own_text_is_measured_on_the_model(lm):
    explorer = attention_sinks.explore_perplexity(lm)
    explorer.controls["own"].value = texts.play("Macbeth")[:500]
    assert explorer._error.value == ""
    assert explorer.picture().summary.splitlines()[1].startswith("your own, n_sink 1")
    explorer.controls["source"].value = "Exodus"
    assert explorer.picture().summary.splitlines()[1].startswith("Exodus, n_sink 1")


def test_a_failing_picture_shows_its_error_escaped_instead_of_hiding_it():
    def figure(n):
        if n == 2:
            raise RuntimeError("no <b>picture</b> for 2")
        return bars({"a": n}, title="How large?", axis="size")

    explorer = Explorer(figure, dict(n=slider("n", 1, 0, 3)))
    explorer.controls["n"].value = 2
    assert "RuntimeError: no &lt;b&gt;picture&lt;/b&gt; for 2" in explorer._error.value
    explorer.controls["n"].value = 3
    assert explorer._error.value == "" and explorer.live.data[0].x[0] == 3


def test_a_figure_speaks_text_and_draws_without_the_network():
    bundle = bars({"one": 1.234, "two": 20}, title="How many?", axis="apples")._repr_mimebundle_()
    assert bundle["text/plain"] == "How many?  [bars of apples]\none 1.23, two 20"
    json.dumps(bundle, allow_nan=False)
    chart = lines({"up": [1, 2, 3]}, [0, 10, 20], title="Where to?", x_title="t", y_title="height")
    assert chart.summary.endswith("up: 1 first, 3 at most (at t 20), 3 last")


def test_a_heat_map_keeps_its_gaps():
    figure = Figure(
        [dict(type="heatmap", z=grid([[1, np.nan], [3, 4]]))], {}, title="Gaps?", alt="two by two", summary="one gap"
    )
    live = LiveFigure(figure)
    assert live.data[0]._props["z"]["shape"] == "2, 2"
    json.dumps(figure._repr_mimebundle_(), allow_nan=False)
    with pytest.raises(ValueError, match="expected two dimensions"):
        grid([1, 2])


def test_tokens_are_visible_and_escaped():
    assert token(" a\n") == "·a⏎"
    assert token("<b>") == "&lt;b&gt;"
    assert token("") == "∅"


def test_a_live_figure_takes_over_only_what_differs_and_refuses_another_number_of_traces():
    one = bars({"a": 1.0, "b": 2.0}, title="One?", axis="x")
    live = LiveFigure(one)
    sent = []
    live._send_update_msg = lambda *a, **k: sent.append((a, k))
    live.become(bars({"a": 1.0, "b": 2.0}, title="One?", axis="x"))
    assert not sent
    live.become(bars({"a": 1.0, "b": 3.0}, title="One?", axis="x"))
    assert len(sent) == 1
    with pytest.raises(ValueError, match="expected 1 traces as before, got 2"):
        live.become(lines({"a": [1], "b": [2]}, [0], title="Two?", x_title="x", y_title="y"))
