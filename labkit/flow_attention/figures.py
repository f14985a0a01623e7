"""A small flow network, the triangles of a causal chunk and rows of attention: each picture is pure in its numbers."""

import base64
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float
from plotly.colors import sample_colorscale
from torch import Tensor

from labkit.theme import BLUE, INK, ORANGE, SEQUENTIAL, Figure, grid, token

from . import causal
from .forms import flows, phi, weights
from .layer import evenness

SOURCES, SINKS, D_K, SEED = 5, 4, 4, 6
SOURCE, SINK = 1, 1  # the two nodes whose strength can be set, drawn in blue and in orange
SLOT = 210  # px: the height of the diagram, which the nodes of a side share
NAMES = [f"source {j + 1}" for j in range(SOURCES)] + [f"sink {i + 1}" for i in range(SINKS)]
MIDDLES = [SLOT * (n + 0.5) / of for of in (SOURCES, SINKS) for n in range(of)]
CENTRE = "middle center"
COLOURS = [BLUE if j == SOURCE else INK for j in range(SOURCES)] + [ORANGE if i == SINK else INK for i in range(SINKS)]
STAGES = {  # what the ribbons are, in symbols and in words, and the px of a flow of 1: the largest must fit its slot
    "capacities": ("A<sub>ij</sub>", "capacities", 4.0),
    "incoming": ("A<sub>ij</sub> / O<sub>j</sub>", "every source gives out 1", 17.5),
    "outgoing": ("A<sub>ij</sub> / I<sub>i</sub>", "every sink takes in 1", 22.5),
    "taken": ("a<sub>i</sub> (A<sub>ij</sub> / I<sub>i</sub>) c<sub>j</sub>", "what is taken", 16.5),
}


# ------------------------------------------------------------------ numbers
def network(temperature: float = 0.7, source: float = 0.0, sink: float = 0.0) -> tuple[Tensor, Tensor]:
    """q (1 1 SINKS d_k) and k (1 1 SOURCES d_k) over the temperature, one of each strengthened in all its entries."""
    noise = torch.Generator().manual_seed(SEED)
    q, k = (torch.randn(n, D_K, generator=noise) for n in (SINKS, SOURCES))
    q, k = ((x - x.mean(0)) / temperature for x in (q, k))
    q[SINK] += sink
    k[SOURCE] += source
    return q[None, None], k[None, None]


def ribbons(q: Tensor, k: Tensor, stage: str, clamp: float = 1.0) -> Float[Tensor, "L S"]:
    """The numbers of a stage, of one head."""
    if stage == "taken":
        return weights(q, k, clamp=clamp)[0, 0]
    flow, capacity = flows(q, k), einsum(phi(q), phi(k), "b h i d, b h j d -> b h i j")[0, 0]
    if stage == "incoming":
        return capacity / flow.outgoing[0, 0]
    return capacity / flow.incoming[0, 0][:, None] if stage == "outgoing" else capacity


def mean_evenness(rows: Float[Tensor, "L S"]) -> float:
    """The mean over rows of `layer.evenness`; a square matrix with nothing above its diagonal is that of a text."""
    L, S = rows.shape
    return float(evenness(rows.double(), torch.arange(1, L + 1) if is_causal(rows) else torch.full((L,), S)).mean())


def is_causal(rows: Float[Tensor, "L S"]) -> bool:
    return rows.shape[0] == rows.shape[1] > 1 and not rows.triu(1).any()


def several(numbers: Tensor) -> str:
    """Numbers with two digits after the point."""
    return ", ".join(f"{x:.2f}" for x in numbers.tolist())


# ------------------------------------------------------------------ the network
def draw_network(
    *, stage: str = "capacities", temperature: float = 0.7, source: float = 0.0, sink: float = 0.0, clamp: float = 1.0
) -> Figure:
    """The diagram alone, sources left and sinks right, with each node's flow; stage is one of STAGES."""
    numbers = ribbons(*network(temperature, source, sink), stage, clamp)
    traces, boxes, words = diagram(numbers, stage, between=(104, 316), names=(0, 374))
    return Figure(
        [*traces, boxes_trace(boxes), words_trace(words)],
        canvas(424, SLOT, above=34),
        title="How much flows from each source to each sink?",
        alt="ribbons from five sources on the left to four sinks on the right, as wide as their flow",
        summary=f"{STAGES[stage][1]}: out of the sources {several(numbers.sum(0))}; "
        f"into the sinks {several(numbers.sum(1))}",
    )


class Box(NamedTuple):
    """A filled box that begins at x and has its middle at y."""

    x: float
    y: float
    wide: float
    high: float
    colour: str


class Word(NamedTuple):
    """A name or a number at (x, y)."""

    x: float
    y: float
    text: str
    colour: str = INK
    place: str = "middle right"
    size: int = 12


def diagram(
    numbers: Float[Tensor, "L S"], stage: str, *, between: tuple[float, float], names: tuple[float, float]
) -> tuple[list[dict], list[Box], list[Word]]:
    """Ribbons `between` two x (px), as five traces, and the nodes at their ends with their flows and their `names`."""
    symbol, says, unit = STAGES[stage]
    flow = [*numbers.sum(0).tolist(), *numbers.sum(1).tolist()]
    wide = numbers.double().numpy() * unit  # (L S), as all that follows
    top = np.array(MIDDLES) - np.array(flow) * unit / 2
    begin = top[:SOURCES] + wide.cumsum(0) - wide
    end = top[SOURCES:, None] + wide.cumsum(1) - wide
    way = np.linspace(0, 1, 15)
    upper = begin[..., None] + (end - begin)[..., None] * way**2 * (3 - 2 * way)
    outline = np.concatenate([upper, upper[..., ::-1] + wide[..., None]], 2)
    across = between[0] + (between[1] - between[0]) * np.concatenate([way, way[::-1]])
    of_source, to_sink = np.meshgrid(np.arange(SOURCES) == SOURCE, np.arange(SINKS) == SINK)
    kinds = [(of, to) for of in (False, True) for to in (False, True)]
    traces = [_group(across, outline[(of_source == of) & (to_sink == to)], of, to) for of, to in kinds]
    links = [f"source {j + 1} → sink {i + 1}: {numbers[i, j]:.3f}" for i in range(SINKS) for j in range(SOURCES)]
    roots = dict(x=[between[0] + 6] * len(links), y=packed((begin + wide / 2).ravel()))  # each ribbon's, not to be seen
    unseen = dict(marker=dict(size=8, opacity=0), hovertext=links, hovertemplate="%{hovertext}<extra></extra>")
    hover = dict(type="scatter", mode="markers", **roots, **unseen)
    boxes, words = [], [Word(sum(between) / 2, -19, f"{symbol}: {says}", place=CENTRE)]
    for n, (name, y, colour, f) in enumerate(zip(NAMES, MIDDLES, COLOURS, flow, strict=True)):
        left = n < SOURCES
        place = "middle left" if left else "middle right"
        boxes.append(Box(between[0] - 10 if left else between[1], y, 10, round(f * unit, 2), colour))
        words.append(Word(between[0] - 14 if left else between[1] + 14, y, f"{f:.2f}", colour, place))
        words.append(Word(names[0] if left else names[1], y, name, colour))
    return [*traces, hover], boxes, words


def _group(across: np.ndarray, outline: np.ndarray, of_source: bool, to_sink: bool) -> dict:
    """Ribbons of one colour in one path, which goes on from each to the next along the edge that all begin at."""
    grey, blue, orange = "rgba(128,128,128,.38)", "rgba(37,99,235,.62)", "rgba(217,119,6,.62)"
    colours = [[0, blue if of_source else grey], [1, orange if to_sink else grey]]
    fill = dict(fill="toself", fillgradient=dict(type="horizontal", colorscale=colours), line_width=0)
    x, y = packed(np.tile(across, len(outline))), packed(outline.ravel())
    return dict(type="scatter", mode="lines", x=x, y=y, hoverinfo="skip", **fill)


def packed(x: np.ndarray | list[float]) -> dict[str, str]:
    """Numbers in a row as a typed array, as `grid` does for a heat map."""
    return dict(dtype="f4", bdata=base64.b64encode(np.asarray(x, np.float32).tobytes()).decode())


def boxes_trace(boxes: Iterable[Box]) -> dict:
    """All boxes as the bars of one trace."""
    x, y, wide, high, colours = (list(part) for part in zip(*boxes, strict=True))
    marker = dict(color=colours, line_width=0)
    place = dict(base=x, x=packed(wide), y=packed(y), width=high)
    return dict(type="bar", orientation="h", marker=marker, hoverinfo="skip", **place)


def words_trace(words: Iterable[Word]) -> dict:
    """All words as one trace, which is redrawn sooner than as many annotations."""
    x, y, texts, colours, places, sizes = (list(part) for part in zip(*words, strict=True))
    shown = dict(text=texts, textposition=places, textfont=dict(color=colours, size=sizes), hoverinfo="skip")
    return dict(type="scatter", mode="text", x=packed(x), y=packed(y), **shown)


def canvas(width: int, height: int, *, above: int) -> dict:
    """A layout whose data are pixels, y downwards from -above (under the title) to height."""
    bare = dict(showgrid=False, showticklabels=False, ticks="", linewidth=0, fixedrange=True)
    sides = dict(xaxis=bare | dict(range=[0, width]), yaxis=bare | dict(range=[height, -above]))
    shown = dict(barmode="overlay", hovermode="closest", margin=dict(l=0, r=0, t=34, b=0))
    return dict(width=width, height=34 + above + height, **shown, **sides)


# ------------------------------------------------------------------ one causal chunk
ORANGES = ["#fff7ed", "#fee0c0", "#fdc48c", "#f7a24f", "#e37a1c", "#b4530a"]
CELL, FIRST = 34, 62  # px: a side of a capacity, and where the first begins


def triangles_figure(*, t: int = 8, source: int = 3) -> Figure:
    """The capacities of a chunk of t tokens, in blue where a sink draws on a source, in orange where it counts for it.

    A diagonal capacity is both. Outlined: what concerns one source.
    """
    q, k = torch.randn(2, 1, 1, t, D_K, generator=torch.Generator().manual_seed(SEED))
    flow, capacity = causal.flows(q, k), einsum(phi(q), phi(k), "b h i d, b h j d -> b h i j")[0, 0]
    incoming, outgoing = flow.incoming[0, 0], flow.outgoing[0, 0]
    top = float(capacity.max()) * 1.5  # so that dark numbers can be read on all cells
    draw, count = f"sinks {source} to {t} draw on it", f"sinks 1 to {source} count for it"
    last, right = CELL * t, FIRST + CELL * (t + 1.5)
    words = [
        Word(FIRST + last / 2, -32, "source", place=CENTRE),
        Word(0, last / 2, "sink"),
        Word(FIRST + last + 24, -12, "I", BLUE, CENTRE),
        Word(FIRST - 14, last + 16, "O", ORANGE, CENTRE),
        Word(right, 26, "A row, up to its diagonal: what a sink<br>may draw on. Its sum is I.", BLUE),
        Word(
            right,
            94,
            "A column, down to its diagonal:<br>what a source's outgoing flow is<br>counted by. Its sum is O.",
            ORANGE,
        ),
        Word(right, 160, f"Outlined, source {source}:"),
        Word(right, 180, draw, BLUE),
        Word(right, 198, count, ORANGE),
    ]
    for n in range(t):
        at = CELL * (n + 0.5)
        words += [Word(FIRST + at, -12, str(n + 1), place=CENTRE), Word(FIRST - 14, at, str(n + 1), place=CENTRE)]
        words.append(Word(FIRST + last + 24, at, f"{incoming[n]:.2f}", BLUE, CENTRE, 11))
        words.append(Word(FIRST + at, last + 16, f"{outgoing[n]:.2f}", ORANGE, CENTRE, 11))
        for j, x in enumerate(capacity[n].tolist()):
            words.append(Word(FIRST + CELL * (j + 0.5), at, f"{x:.2f}", "#1f2937", CENTRE, 10))
    column = dict(type="rect", x0=FIRST + CELL * (source - 1), x1=FIRST + CELL * source, line_width=2.5)
    shapes = [_corner(n, float(capacity[n, n]) / top, colours) for n in range(t) for colours in (SEQUENTIAL, ORANGES)]
    shapes.append(column | dict(y0=CELL * (source - 1), y1=last, line_color=BLUE))
    shapes.append(column | dict(y0=0, y1=CELL * source, line_color=ORANGE))
    place = dict(x0=FIRST + CELL / 2, dx=CELL, y0=CELL / 2, dy=CELL, xgap=2, ygap=2, hoverinfo="skip")
    halves = [
        dict(type="heatmap", z=grid(z.where(z > 0, torch.nan)), colorscale=colours, zmin=0, zmax=top, showscale=False)
        for z, colours in ((capacity.tril(-1), SEQUENTIAL), (capacity.triu(1), ORANGES))
    ]
    return Figure(
        [*(half | place for half in halves), words_trace(words)],
        canvas(int(right) + 250, last + 30, above=44) | dict(shapes=shapes),
        title="Who draws on a source, and who counts for it?",
        alt="a matrix of capacities, sinks by sources: the lower triangle blue, the upper orange, the diagonal both",
        summary=f"of source {source}: {draw}, {count}; I {several(incoming)}; O {several(outgoing)}",
    )


def _corner(n: int, share: float, colours: list[str]) -> dict:
    """The half of a diagonal cell that belongs to its row (blue, below) or to its column (orange, above)."""
    low, high = CELL * n + 1, CELL * (n + 1) - 1
    third = f"{FIRST + low},{high}" if colours is SEQUENTIAL else f"{FIRST + high},{low}"
    path = f"M{FIRST + low},{low} L{FIRST + high},{high} L{third} Z"
    colour = sample_colorscale(colours, [share])[0]
    return dict(type="path", path=path, fillcolor=colour, line_width=0, layer="below")


# ------------------------------------------------------------------ rows of attention
def rows_figure(
    attention: Mapping[str, Float[Tensor, "L S"]], *, title: str = "How evenly does each sink draw on the sources?"
) -> Figure:
    """Attention matrices side by side, rows made to sum to 1, on one colour scale (a root), with their evenness."""
    rows = {name: (x / x.sum(-1, keepdim=True)).detach().cpu().float() for name, x in attention.items()}
    even = {name: mean_evenness(x) for name, x in rows.items()}
    gap, tall = 0.03, max(x.shape[0] / x.shape[1] for x in rows.values())
    wide = (1 + gap) / len(rows) - gap
    ticks = [0, 0.01, 0.05, 0.2, 0.5, 1]
    bar = dict(tickvals=[v**0.5 for v in ticks], ticktext=[f"{v:g}" for v in ticks], tickfont_size=10, ticklen=2)
    bar |= dict(x=1.01, len=1, thickness=8, outlinewidth=0, xpad=4)
    layout: dict[str, Any] = dict(margin=dict(l=48, r=52, t=54, b=58), title_pad_b=30, annotations=[])
    layout["coloraxis"] = dict(cmin=0, cmax=1, colorscale=SEQUENTIAL, colorbar=bar)
    traces = []
    for n, (name, x) in enumerate(rows.items()):
        left, number = n * (wide + gap), str(n + 1) if n else ""
        z = x.where(torch.ones_like(x).tril() > 0, torch.nan) if is_causal(x) else x
        place = dict(xaxis=f"x{number}", yaxis=f"y{number}", coloraxis="coloraxis")
        hover = dict(customdata=grid(z), hovertemplate="sink %{y} ← source %{x}: %{customdata:.3f}<extra></extra>")
        traces.append(dict(type="heatmap", z=grid(z.sqrt()), **place, **hover))
        sink, under = dict(text="sink", font_size=12), dict(text=f"source<br>evenness {even[name]:.2f}", font_size=12)
        layout[f"xaxis{number}"] = dict(domain=[left, left + wide], anchor=f"y{number}", title=under, showgrid=False)
        layout[f"yaxis{number}"] = dict(anchor=f"x{number}", autorange="reversed", showgrid=False)
        layout[f"yaxis{number}"] |= dict(matches="y", showticklabels=False) if n else dict(title=sink)
        head = dict(x=left, y=1, xanchor="left", yanchor="bottom", xref="paper", yref="paper", showarrow=False)
        layout["annotations"].append(head | dict(text=token(name).replace("·", " ")))
    return Figure(
        traces,
        layout | dict(height=112 + int(min(420, max(120, 660 * wide * tall)))),
        title=title,
        alt="heat maps of attention, sinks by sources, side by side",
        summary="evenness of the rows: " + ", ".join(f"{name} {value:.2f}" for name, value in even.items()),
    )
