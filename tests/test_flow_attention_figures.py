"""What the pictures of flow attention promise beyond what every explorer does: they fit, and their numbers are right."""

import itertools
import math

import pytest
import torch

from labkit.flow_attention import causal, flows
from labkit.flow_attention.explorer import CHOICES, COLUMNS, TEMPERATURES, explore
from labkit.flow_attention.figures import (
    SINKS,
    SLOT,
    SOURCES,
    STAGES,
    draw_network,
    mean_evenness,
    network,
    ribbons,
    rows_figure,
    triangles_figure,
)
from labkit.flow_attention.forms import allocation, competition

CORNERS = list(itertools.product((*TEMPERATURES[:4], TEMPERATURES[-1]), (-3.0, 0.0, 3.0), (-3.0, 0.0, 3.0)))


@pytest.mark.parametrize("stage", STAGES)
def test_every_node_fits_its_slot_whatever_the_controls(stage: str):
    unit = STAGES[stage][2]
    for corner, clamp in itertools.product(CORNERS, (1.0, math.inf)):
        numbers = ribbons(*network(*corner), stage, clamp)
        assert float(numbers.sum(0).max()) * unit <= SLOT / SOURCES - 3
        assert float(numbers.sum(1).max()) * unit <= SLOT / SINKS - 3


def test_no_bar_is_longer_than_its_column():
    for corner, clamp in itertools.product(CORNERS, (1.0, math.inf)):
        flow = flows(*network(*corner))
        numbers = dict(zip(("I", "O", "Î", "Ô"), flow, strict=True)) | {"c": competition(flow, clamp)}
        for name, x in (numbers | {"a": allocation(flow)}).items():
            assert float(x.max()) <= COLUMNS[name].longest, name


def test_the_ribbons_of_a_stage_add_up_to_what_is_conserved():
    q, k = network(0.5, 1.0, -1.0)
    flow = flows(q, k)
    for stage, axis, total in (("incoming", 1, flow.conserved_incoming), ("outgoing", 0, flow.conserved_outgoing)):
        numbers = ribbons(q, k, stage)
        torch.testing.assert_close(numbers.sum(axis), total[0, 0])
        torch.testing.assert_close(numbers.sum(1 - axis), torch.ones(numbers.shape[axis]))


def test_conservation_stands_on_the_cards_wherever_the_sliders_are():
    figure = explore().figure
    for (temperature, source, sink), (_, stage) in itertools.product(CORNERS[::4], CHOICES):
        cards = figure(temperature=temperature, source=source, sink=sink, stage=stage, clamped=True).cards
        assert (cards["ΣÎ = S"], cards["ΣÔ = L"]) == ("5.000", "4.000")


def test_the_triangles_show_the_flows_of_the_causal_form():
    said = triangles_figure(t=8, source=3).summary
    assert "sinks 3 to 8 draw on it, sinks 1 to 3 count for it" in said
    incoming, outgoing = (said.split(f"; {name} ")[1].split(";")[0].split(", ") for name in "IO")
    assert len(incoming) == len(outgoing) == 8 and incoming[0] == outgoing[0]


def test_evenness_is_1_for_rows_that_draw_on_all_alike_and_0_for_rows_that_draw_on_one():
    assert mean_evenness(torch.ones(3, 7)) == pytest.approx(1)
    assert mean_evenness(torch.eye(4)) == 0
    assert mean_evenness(torch.ones(6, 6).tril()) == pytest.approx(1)  # causal: on all up to its own place
    assert mean_evenness(torch.tensor([[1.0, 1.0, 0.0, 0.0]])) == pytest.approx(0.5)


def test_rows_are_drawn_beside_each_other_with_their_evenness():
    q, k = torch.randn(2, 1, 1, 12, 4, generator=torch.Generator().manual_seed(0))
    figure = rows_figure({"flow <b>": causal.weights(q, k)[0, 0], "alike": torch.ones(12, 12).tril()})
    assert figure.layout.annotations[0].text == "flow &lt;b&gt;"
    assert figure.summary.endswith(", alike 1.00")
    assert len(figure.data) == 2 and figure.layout.width <= 760


@pytest.mark.parametrize("figure", [draw_network(stage=stage) for stage in STAGES] + [triangles_figure()])
def test_a_static_picture_asks_and_speaks(figure):
    assert figure.layout.title.text.endswith("?") and figure.alt and "nan" not in figure.summary
    assert figure.layout.width <= 760
