"""What the pictures of linear interpreters promise beyond what every explorer does: their numbers are F's own."""

import base64

import numpy as np
import pytest
import torch
from plotly.callbacks import Points

from labkit.charts import bars
from labkit.explorer import Explorer, pick, slider, steps
from labkit.linear_interpreters import interpret
from labkit.linear_interpreters.explorer import (
    AROUND,
    CELLS,
    CLASSIFIER,
    LARGE,
    SMALL,
    ends,
    explore,
    interpreter_figure,
    network,
)
from labkit.linear_interpreters.figures import flips_figure, pictures_figure, split_figure
from labkit.pictures import picture
from labkit.theme import SIGNED

PICTURE, ROW, COLUMN, FLIPS = 0, 1, 2, 7  # traces of the explorer
UPSCALERS = [SMALL, LARGE]


def drawn(figure, trace):
    z = figure.data[trace]._props["z"]
    numbers = np.frombuffer(base64.b64decode(z["bdata"]), np.float32)
    return torch.tensor(numbers).view(*map(int, z["shape"].split(", ")))


def of(figure, card):
    return float(figure.cards[card].rstrip("%"))


@pytest.mark.parametrize("name", UPSCALERS)
@pytest.mark.parametrize("walk", [0.0, 0.375])
@pytest.mark.parametrize(("column", "row"), [(12, 10), (0, 27)])
def test_the_row_and_the_column_drawn_are_those_of_the_whole_of_F(name, walk, column, row):
    x = ends(name)[0].lerp(ends(name)[1], walk)
    it = interpret(network(name), x)
    figure = interpreter_figure(network=name, column=column, row=row, walk=walk)
    reach = AROUND // 2
    top, left = max(row - reach, 0), max(column - reach, 0)
    for trace, whole, times in (
        (ROW, it.row((0, 2 * row, 2 * column)), 1),
        (COLUMN, it.column((0, row, column)), 2),
    ):
        z = drawn(figure, trace)
        there = whole[0, 0, top * times : (row + reach + 1) * times, left * times : (column + reach + 1) * times]
        assert z.shape == (AROUND * times, AROUND * times)
        torch.testing.assert_close(z[~z.isnan()].view(there.shape), there)
        assert float(there.abs().sum()) == pytest.approx(float(whole.abs().sum()), rel=1e-6)  # nothing is cut off
    torch.testing.assert_close(drawn(figure, PICTURE), x[0, 0])


@pytest.mark.parametrize("name", UPSCALERS)
def test_the_row_drawn_times_the_picture_drawn_and_r_is_the_networks_output(name):
    column, row, reach = 12, 9, AROUND // 2  # where all that is around lies inside
    for walk in (0.0, 1.0):
        figure = interpreter_figure(network=name, column=column, row=row, walk=walk)
        x = drawn(figure, PICTURE)[row - reach : row + reach + 1, column - reach : column + reach + 1]
        F_x = float((drawn(figure, ROW) * x).sum())
        with torch.no_grad():
            y = float(network(name)(ends(name)[0].lerp(ends(name)[1], walk))[0, 0, 2 * row, 2 * column])
        assert of(figure, "F x") == pytest.approx(F_x, abs=6e-4)
        assert F_x + of(figure, "r") == pytest.approx(y, abs=1e-3)
        assert of(figure, "F x + r") == pytest.approx(y, abs=6e-4) and of(figure, "the network") == round(y, 3)


def test_the_votes_of_all_cells_add_up_to_the_logit_without_the_residual():
    figure = interpreter_figure(network=CLASSIFIER, column=14, row=13, walk=0.0)
    cells = drawn(figure, ROW)
    assert cells.shape == (CELLS, CELLS)
    assert float(cells.sum()) == pytest.approx(of(figure, "F x"), abs=1e-3)
    assert of(figure, "F x + r") == pytest.approx(of(figure, "the network"), abs=1.1e-3)  # both are rounded
    bars_of, words = figure.data[5], figure.data[6]
    assert words.text[0].startswith("Egyptian cat: ") and len(bars_of.x) == len(words.text) == 5
    said = [float(word.split(": ")[1].split(" of ")[0]) for word in words.text]
    assert said[0] == pytest.approx(float(cells[13, 14]), abs=6e-4)
    longest = [x / (CELLS / 2) for x in bars_of.x]
    assert max(map(abs, longest)) <= 1
    assert np.corrcoef(said, longest)[0, 1] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", [*UPSCALERS, CLASSIFIER])
def test_at_the_beginning_of_the_walk_no_gate_has_flipped_and_the_map_is_the_network(name):
    start, end = (interpreter_figure(network=name, column=4, row=5, walk=walk) for walk in (0.0, 1.0))
    assert set(start.data[FLIPS].y) == {0.0} and of(start, "gates flipped") == 0
    assert of(start, "map of walk 0 is off by") == 0
    assert max(end.data[FLIPS].y) > 0.05 and of(end, "map of walk 0 is off by") > 1
    assert min(end.data[FLIPS].y) * 100 <= of(end, "gates flipped") <= max(end.data[FLIPS].y) * 100


def test_a_click_on_the_picture_moves_both_sliders_and_draws_once():
    explorer, drawn_at = explore(), []
    function = explorer.figure
    explorer.figure = lambda **at: drawn_at.append((at["column"], at["row"])) or function(**at)
    explorer.live.data[PICTURE]._dispatch_on_click(Points(xs=[3.375], ys=[20.6]), None)
    assert (explorer.controls["column"].value, explorer.controls["row"].value) == (3, 21)
    assert drawn_at == [(3, 21)] and explorer._error.value == ""
    explorer.controls["row"].value = 4  # and they still move by themselves
    assert drawn_at == [(3, 21), (3, 4)]


def test_pick_keeps_to_the_steps_and_the_range_of_a_control():
    controls = dict(a=slider("a", 0.0, -1.0, 1.0, 0.25), b=slider("b", 1, 1, 9, 2))
    explorer = Explorer(lambda a, b: bars({"a": a, "b": b}, title="Where?", axis="at"), controls)
    pick(explorer, 0, x="a", y="b")
    click = explorer.live.data[0]._dispatch_on_click
    for (x, y), expected in {(0.4, 5.9): (0.5, 5), (-7, 100): (-1.0, 9), (0.99, 0): (1.0, 1)}.items():
        click(Points(xs=[x], ys=[y]), None)
        assert (controls["a"].value, controls["b"].value) == expected
        assert list(explorer.live.data[0].x) == list(expected)
    click(Points(xs=[], ys=[]), None)  # a click beside all points
    assert (controls["a"].value, controls["b"].value) == (1.0, 1)


def test_pick_refuses_what_it_could_never_set():
    explorer = Explorer(lambda a: bars({"a": a}, title="Where?", axis="at"), dict(a=steps("a", 1, [1, 2, 5])))
    with pytest.raises(ValueError, match="a: expected a slider"):
        pick(explorer, 0, x="a")


def test_pictures_stand_beside_each_other_each_with_its_largest_number():
    images = {
        "chelsea": picture("chelsea"),
        "grey": torch.linspace(0, 1, 12).view(3, 4),
        "row <b>": torch.tensor([[[1.0, -3.0]], [[0.5, 1.0]], [[0.0, -0.5]]]),  # (3 1 2): its channels add up
        "V 1": torch.zeros(1, 1, 5, 5),
        "V 2": torch.eye(5)[None],
    }
    figure = pictures_figure(images, signed=["row <b>", "V 1", "V 2"])
    assert [trace.type for trace in figure.data] == ["image", "image", "heatmap", "heatmap", "heatmap"]
    assert drawn(figure, 2).tolist() == [[1.5, -2.5]] and figure.data[2].zmax == -figure.data[2].zmin == 2.5
    assert "row <b> ±2.5, V 1 ±0, V 2 ±1" in figure.summary and "nan" not in figure.summary
    captions = [note.text for note in figure.layout.annotations]
    assert captions[0] == "chelsea" and captions[2].startswith("row &lt;b&gt;") and "±2.5" in captions[2]
    assert figure.layout.width <= 760 and figure.layout.title.text.endswith("?")
    with pytest.raises(ValueError, match=r"two: expected \(h w\), \(1 h w\) or \(3 h w\), got \(2, 5, 5\)"):
        pictures_figure({"two": torch.zeros(2, 5, 5)})


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 9, 13])
def test_maps_and_captions_of_any_number_overlap_nowhere(n):
    tall = {f"a map with a long name that goes on and on, {i}": torch.ones(5 + i, 9) for i in range(n)}
    figure = pictures_figure(tall, signed=tall)
    height = figure.layout.height - 36
    boxes = []
    for i, note in enumerate(figure.layout.annotations):
        x, y = (figure.layout[f"{axis}axis{i + 1 if i else ''}"].domain for axis in "xy")
        assert 0 <= x[0] < x[1] <= 1.001 and 0 <= y[0] < y[1] <= 1
        assert (y[1] - y[0]) * height == pytest.approx((x[1] - x[0]) * 758 * (5 + i) / 9, abs=2)  # cells are square
        top = note.y * height + 16 * (note.text.count("<br>") + 1)
        boxes.append((x[0], x[1], y[0] * height, top))
    for i, (left, right, bottom, top) in enumerate(boxes):
        for other in boxes[:i]:
            assert left >= other[1] or right <= other[0] or bottom >= other[3] or top <= other[2]
    assert max(top for *_, top in boxes) <= height + 1


def test_red_is_below_and_blue_above_nothing():
    positions = [at for at, _ in SIGNED]
    assert positions == sorted(positions) and positions[0] == 0 and positions[-1] == 1
    middle = SIGNED[len(SIGNED) // 2]
    assert middle[0] == 0.5 and middle[1].endswith(",0.0)")


def test_a_logit_is_drawn_as_its_two_parts_and_their_sum():
    figure = split_figure({"cat": (-0.03, 9.06), "dog <i>": (2.0, -1.0)})
    assert [list(trace.x) for trace in figure.data] == [[-0.03, 2.0], [9.06, -1.0], [-0.03 + 9.06, 1.0]]
    assert figure.summary.endswith("cat -0.03 + 9.06 = 9.03; dog <i> 2.00 + -1.00 = 1.00")
    assert figure.data[0].y[1] == "dog &lt;i&gt;"


@pytest.mark.parametrize("n", [2, 33])
def test_every_unit_has_its_bar_even_where_names_are_alike(n):
    figure = flips_figure(torch.linspace(0, 0.4, n), ["relu"] * n)
    assert list(figure.data[0].x) == list(range(1, n + 1)) and figure.data[0].y[-1] == pytest.approx(0.4)
    assert figure.summary.count("relu") == n and figure.summary.endswith("relu 40.0%")
