"""A flow network to play with: how sharp its capacities are, how strong two nodes are, what the ribbons show."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from torch import Tensor

from labkit.explorer import Explorer, choice, slider, steps, switch
from labkit.theme import BLUE, FAINT, INK, ORANGE, WIDTH, Figure, grid

from .figures import (
    CENTRE,
    COLOURS,
    MIDDLES,
    NAMES,
    SINK,
    SINKS,
    SLOT,
    SOURCE,
    SOURCES,
    STAGES,
    Box,
    Word,
    boxes_trace,
    canvas,
    diagram,
    mean_evenness,
    network,
    ribbons,
    several,
    words_trace,
)
from .forms import allocation, competition, flows, weights
from .layer import linear_weights, softmax_weights

TEMPERATURES = [0.25, 0.35, 0.5, 0.7, 1.0, 2.0, 4.0]
CHOICES = [
    ("capacities A", "capacities"),
    ("A / O: a source gives 1", "incoming"),
    ("A / I: a sink takes 1", "outgoing"),
    ("what is taken: weights", "taken"),
]
HEADS, ROW = 36, 22  # px: the height of the columns' heads, and of a row of a heat map
FIRST = 58  # px: where the first heat map begins
WIDEST = 46  # px: the longest bar of a column
PALE = {INK: FAINT, BLUE: "rgba(37,99,235,.4)", ORANGE: "rgba(217,119,6,.4)"}


class Column(NamedTuple):
    """Where a column begins (px), what its numbers mean, the number whose bar is WIDEST, the stage it belongs to."""

    x: float
    means: str
    longest: float
    stage: str


COLUMNS = {
    "O": Column(62, "flow", 12, "capacities"),
    "Ô": Column(117, "conserved", 2.7, "outgoing"),
    "c": Column(183, "let in", 2, "taken"),
    "I": Column(549, "flow", 12, "capacities"),
    "Î": Column(604, "conserved", 2.7, "incoming"),
    "a": Column(670, "kept", 1, "taken"),
}


def explore() -> Explorer:
    """Five sources, four sinks: the flows of the chosen stage, what conservation makes of each node, and the rows."""
    controls = dict(
        temperature=steps("temperature", 0.7, TEMPERATURES),
        source=slider(f"source {SOURCE + 1}", 0.0, -3.0, 3.0, 0.25),
        sink=slider(f"sink {SINK + 1}", 0.0, -3.0, 3.0, 0.25),
        stage=choice("ribbons", "incoming", CHOICES),
        clamped=switch("cut Ô off above 1", True),
    )
    return Explorer(flows_figure, controls)


def flows_figure(*, temperature: float, source: float, sink: float, stage: str, clamped: bool) -> Figure:
    """Above, the network between columns of its nodes' flows; below, the attention rows of three mechanisms."""
    clamp = 1.0 if clamped else math.inf
    q, k = network(temperature, source, sink)
    flow = flows(q, k)
    taken = weights(q, k, clamp=clamp)[0, 0]
    rows = {
        "flow": taken / taken.sum(1, keepdim=True),
        "elu + 1": linear_weights(q, k)[0, 0],
        "softmax": softmax_weights(q, k)[0, 0],
    }
    c, a = competition(flow, clamp)[0, 0], allocation(flow)[0, 0]
    numbers = {name: x[0, 0] for name, x in zip(("I", "O", "Î", "Ô"), flow, strict=True)} | {"c": c, "a": a}
    traces, boxes, words = diagram(ribbons(q, k, stage, clamp), stage, between=(284, 488), names=(0, 722))
    for name, x in numbers.items():
        more = _column(name, x.tolist(), clamp, stage)
        boxes, words = boxes + more[0], words + more[1]
    maps, more_words = _maps(rows)
    cut = int((numbers["Ô"] > clamp).sum())
    said = "; ".join(f"{name} {several(numbers[name])}" for name in COLUMNS)
    return Figure(
        [*traces, boxes_trace(boxes), words_trace(words + more_words), maps],
        canvas(WIDTH, SLOT + 36 + SINKS * ROW + 38, above=HEADS),
        title="Where does each source's flow go, and what does each sink take?",
        alt="ribbons from five sources to four sinks, between columns of small bars with the flows of every node; "
        "below, the attention rows of three mechanisms as heat maps",
        summary=f"temperature {temperature:g}, source {SOURCE + 1} {source:+.2f}, sink {SINK + 1} {sink:+.2f}, "
        f"ribbons: {STAGES[stage][1]}; {said}; of Ô, {cut} cut off",
        cards={
            "ΣÎ = S": f"{numbers['Î'].sum():.3f}",
            "ΣÔ = L": f"{numbers['Ô'].sum():.3f}",
            "evenness: flow": f"{mean_evenness(rows['flow']):.2f}",
            "elu + 1": f"{mean_evenness(rows['elu + 1']):.2f}",
            "softmax": f"{mean_evenness(rows['softmax']):.2f}",
        },
    )


def _column(name: str, numbers: list[float], clamp: float, stage: str) -> tuple[list[Box], list[Word]]:
    """A bar under each number; what of Ô is cut off is thin, and a mark stands where the cut is."""
    column, boxes = COLUMNS[name], []
    x, px, shown = column.x, WIDEST / column.longest, column.stage == stage
    words = [Word(x, -26, f"<b>{name}</b>" if shown else name), Word(x, -12, column.means, size=10)]
    nodes = range(SOURCES) if len(numbers) == SOURCES else range(SOURCES, SOURCES + SINKS)
    for node, number in zip(nodes, numbers, strict=True):
        colour, y = COLOURS[node], MIDDLES[node] + 8
        kept = min(number, clamp) if name == "Ô" else number
        words.append(Word(x, MIDDLES[node] - 4, f"{number:.2f}", colour))
        boxes.append(Box(x, y, kept * px, 5, colour if shown else PALE[colour]))
        if name == "Ô":
            boxes.append(Box(x + kept * px, y, (number - kept) * px, 2, PALE[colour]))
            boxes.append(Box(x + px, y, 1.5 if clamp == 1 else 0, 13, INK))
    return boxes, words


def _maps(rows: Mapping[str, Tensor]) -> tuple[dict, list[Word]]:
    """Heat maps side by side as one trace, which has one colour scale, with each row's largest number."""
    top, side = SLOT + 36, (WIDTH - FIRST) / ((SOURCES + 1) * len(rows) - 1)
    gap, down = np.full((SINKS, 1), np.nan), [top + (i + 0.5) * ROW for i in range(SINKS)]
    z = np.concatenate([part for x in rows.values() for part in (x.numpy(), gap)][:-1], 1)
    words = [Word(FIRST - 6, y, NAMES[SOURCES + i], COLOURS[SOURCES + i], "middle left") for i, y in enumerate(down)]
    words.append(Word((FIRST + WIDTH) / 2, top + SINKS * ROW + 28, "source", place=CENTRE))
    for m, (name, x) in enumerate(rows.items()):
        left = FIRST + m * (SOURCES + 1) * side
        words.append(Word(left, top - 10, f"{name} attention: rows"))
        for j in range(SOURCES):
            middle = left + (j + 0.5) * side
            words.append(Word(middle, top + SINKS * ROW + 11, str(j + 1), COLOURS[j], CENTRE))
        largest = x.max(1)  # a word is what takes longest to draw, so one a row
        for y, j, weight in zip(down, largest.indices.tolist(), largest.values.tolist(), strict=True):
            colour = "#fff" if weight > 0.5 else "#374151"
            words.append(Word(left + (j + 0.5) * side, y, f"{weight:.2f}", colour, CENTRE, 11))
    place = dict(x0=FIRST + side / 2, dx=side, y0=down[0], dy=ROW, xgap=1, ygap=1)
    look = dict(zmin=0, zmax=1, showscale=False, hoverinfo="skip")
    return dict(type="heatmap", z=grid(z), **place, **look), words
