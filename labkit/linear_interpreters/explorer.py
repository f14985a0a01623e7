"""A network around a picture, to click into: a pixel's row and column, F x + r, and a walk that flips gates."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from html import escape
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from labkit import vision
from labkit.explorer import Explorer, choice, pick, slider
from labkit.pictures import picture
from labkit.theme import BLUE, INK, ORANGE, RED, WIDTH, Figure, grid

from . import upscaling
from .figures import FRAME, SCALE, flips, largest, signed
from .interpreter import Interpreter, interpret
from .measures import flipped

SMALL, LARGE, CLASSIFIER = "small ×2 net", "waifu2x ×2", "EfficientNet-Lite0"
CELLS = 28  # the pixels of a side of the upscalers' picture, and the cells of 8 × 8 pixels of the classifier's
AROUND = 15  # the pixels of a side of what is shown of a row and a column: waifu2x reaches no farther
CLASSES = 5
SIDE, GAP, HEAD, BETWEEN, STRIP = 230, 34, 38, 46, 84  # px: a map, beside and above it, to the bars, and the bars


def explore() -> Explorer:
    """Three networks: what an output looks at, what a pixel paints, and how far the map of one picture reaches."""
    controls = dict(
        network=choice("network", SMALL, [SMALL, LARGE, CLASSIFIER]),
        column=slider("column", 17, 0, CELLS - 1),
        row=slider("row", 9, 0, CELLS - 1),
        walk=slider("walk", 0.2, 0.0, 1.0, 0.1),
    )
    explorer = Explorer(interpreter_figure, controls)
    pick(explorer, 0, x="column", y="row")
    return explorer


# ------------------------------------------------------------------ numbers
class Place(NamedTuple):
    """A network at one place of the walk, as seen from its beginning."""

    x: Tensor
    shares: list[float]  # of the gates of each unit, those that are not as at walk 0
    flipped: float  # of all gates
    off: float  # ‖A₀(x) − net(x)‖ / ‖net(x)‖, with A₀ the interpreter of walk 0


class Ballot(NamedTuple):
    """How the cells of the picture vote for the likeliest classes."""

    names: list[str]
    cells: Float[Tensor, "k 28 28"]
    sums: list[tuple[float, float, float]]  # of each class: F x, r, and the network's own logit


class Pixel(NamedTuple):
    """What is drawn of a pixel, and the sum that its row reconstructs."""

    row: Float[Tensor, "h w"]  # a map around 0, as is the next
    column: Float[Tensor, "h w"]  # nothing but nan where votes are drawn in its place
    votes: dict[str, float]  # in words -> a bar, at most 1 long
    heads: tuple[str, str, str]
    said: str
    F_x: float
    r: float
    y: float  # the network's own


@lru_cache
def network(name: str) -> Callable[[Tensor], Tensor]:
    """From grey (1 1 28 28) to grey (1 1 56 56), or from a picture (1 3 224 224) to logits."""
    if name == SMALL:
        return upscaling.trained()
    if name == CLASSIFIER:
        return vision.classifier()
    return upscaling.in_grey(vision.upscaler())


@lru_cache
def ends(name: str) -> tuple[Tensor, Tensor]:
    """The two pictures between which the walk goes."""
    if name == CLASSIFIER:
        return vision.classifier_input(picture("chelsea")), vision.classifier_input(picture("coffee"))
    return _detail("camera", 4, 12, 44), _detail("coins", 2, 4, 150)


def _detail(name: str, times: int, top: int, left: int) -> Float[Tensor, "1 1 28 28"]:
    """A piece of a picture that was made so many times smaller, in grey."""
    grey = vision.luma(picture(name)[None] / 255)[None]
    small = F.interpolate(grey, scale_factor=1 / times, mode="bicubic", antialias=True).clamp(0, 1)
    return small[..., top : top + CELLS, left : left + CELLS].contiguous()


def interpreter(name: str, walk: float) -> Interpreter:
    """Of the network at a mix of the two pictures."""
    start, end = ends(name)
    return interpret(network(name), start.lerp(end, walk))


kept = lru_cache(maxsize=32)(interpreter)  # the classifier's at walk 0 only, since one takes 50 MB


@lru_cache
def place(name: str, walk: float) -> Place:
    return _place(kept(name, walk), name)


def _place(it: Interpreter, name: str) -> Place:
    start = kept(name, 0.0)
    shares = flipped(start, it)[:, 0].tolist()
    gates = [math.prod(step.shape) for step in it.steps]
    of_all = sum(share * n for share, n in zip(shares, gates, strict=True)) / sum(gates)
    with torch.no_grad():
        off = (start(it.x) - it.y).norm() / it.y.norm()
    return Place(it.x, shares, of_all, float(off))


@lru_cache(maxsize=1024)
def upscaled(name: str, walk: float, column: int, row: int) -> Pixel:
    """The row of the upper left one of the four outputs at the pixel, and the pixel's column, both around it."""
    it, output = kept(name, walk), (0, 2 * row, 2 * column)
    looks, paints = it.row(output)[0, 0], it.column((0, row, column))[0, 0]
    heads = (
        f"<b>the picture x</b>, pixel ({column}, {row})<br>and the {AROUND} × {AROUND} pixels around it",
        f"<b>its row of F</b>: what an output looks at<br>{SCALE}, at most {largest(looks)}",
        f"<b>its column of F</b>: what it paints there<br>{SCALE}, at most {largest(paints)}",
    )
    said = f"row at most {largest(looks)}, column at most {largest(paints)}"
    sums = [float(x) for x in ((looks * it.x[0, 0]).sum(), it.residual[0][output], it.y[0][output])]
    return Pixel(_around(looks, column, row), _around(paints, column, row), {}, heads, said, *sums)


def _around(x: Float[Tensor, "h w"], column: int, row: int) -> Float[Tensor, "h2 w2"]:
    """The AROUND × AROUND pixels around a pixel, or outputs at them; nan beyond the border."""
    times = len(x) // CELLS
    beyond = F.pad(x, (AROUND // 2 * times,) * 4, value=torch.nan)
    return beyond[row * times : (row + AROUND) * times, column * times : (column + AROUND) * times]


@lru_cache
def classified(walk: float) -> tuple[Place, Ballot]:
    it = interpreter(CLASSIFIER, walk)
    best = it.y[0].topk(CLASSES).indices.tolist()
    rows = torch.cat([it.row(i) for i in best])
    cells = reduce(rows * it.x, "k c (h a) (w b) -> k h w", "sum", h=CELLS, w=CELLS)
    F_x = cells.double().sum((1, 2))
    sums = [(float(F_x[n]), float(it.residual[0, i]), float(it.y[0, i])) for n, i in enumerate(best)]
    return _place(it, CLASSIFIER), Ballot([vision.class_names()[i] for i in best], cells, sums)


def of_cell(ballot: Ballot, column: int, row: int) -> Pixel:
    """The row of the likeliest class times the picture, and what a cell says of each of the likeliest classes."""
    votes, top = ballot.cells[:, row, column].tolist(), float(ballot.cells.abs().max())
    heads = (
        f"<b>the picture x</b>, cell ({column}, {row})<br>of 28 × 28 cells of 8 × 8 pixels",
        f"<b>votes for {escape(ballot.names[0])}</b>: row × x<br>{SCALE}, at most {largest(ballot.cells[0])}",
        f"<b>the cell's votes</b> within each F x<br>bars reach the frame at ±{top:.2g}",
    )
    words = [
        f"{escape(name)}: {vote:+.3f} of {F_x:.2f}"
        for name, vote, (F_x, _, _) in zip(ballot.names, votes, ballot.sums, strict=True)
    ]
    bars = {word: vote / top for word, vote in zip(words, votes, strict=True)}
    return Pixel(ballot.cells[0], torch.full((1, 1), torch.nan), bars, heads, ", ".join(words), *ballot.sums[0])


# ------------------------------------------------------------------ the picture
def interpreter_figure(*, network: str, column: int, row: int, walk: float) -> Figure:
    """Above, the picture, the row and the column (or votes) of a pixel; below, the gates that flipped since walk 0."""
    if network == CLASSIFIER:
        here, ballot = classified(walk)
        pixel = of_cell(ballot, column, row)
    else:
        here, pixel = place(network, walk), upscaled(network, walk, column, row)
    units = [f"unit {n}, {step.name} {tuple(step.shape)}" for n, step in enumerate(kept(network, 0.0).steps, 1)]
    most = max(range(len(units)), key=here.shares.__getitem__)
    return Figure(
        [
            _picture(here.x),
            signed(pixel.row, xaxis="x2", yaxis="y2", **_cells(pixel.row)),
            signed(pixel.column, xaxis="x3", yaxis="y3", **_cells(pixel.column)),
            _outline(column, row, (0.5,) if pixel.votes else (0.5, AROUND / 2)),
            _outline(column, row, (0.5,) if pixel.votes else ()) | dict(xaxis="x2", yaxis="y2"),
            *_bars(pixel.votes),
            flips(here.shares, units) | dict(xaxis="x4", yaxis="y4"),
            _heads(pixel.heads),
        ],
        LAYOUT | dict(xaxis4=LAYOUT["xaxis4"] | dict(dtick=1 if len(units) < 12 else 4)),
        title="What does an output look at, what does a pixel paint, and how far does the map reach?",
        alt="a picture, the row of an output at a pixel, and what the pixel paints (or votes for), as red and blue "
        "maps; below, bars of the share of gates that flipped, a unit a bar",
        summary=f"{network}, walk {walk:g}, column {column}, row {row}: {pixel.said}; "
        f"most gates flipped in {units[most]}: {here.shares[most]:.1%}",
        cards={
            "F x": f"{pixel.F_x:.3f}",
            "r": f"{pixel.r:.3f}",
            "F x + r": f"{pixel.F_x + pixel.r:.3f}",
            "the network": f"{pixel.y:.3f}",
            "gates flipped": f"{here.flipped:.1%}",
            "map of walk 0 is off by": f"{here.off:.1%}",
        },
    )


def _picture(x: Tensor) -> dict:
    """Grey, 0 … 1; the classifier's in a quarter of its pixels."""
    z = x[0, 0] if x.shape[1] == 1 else F.avg_pool2d(vision.luma(x * 0.502 + 0.498), 2)[0]
    shown = dict(zmin=0, zmax=1, colorscale=[[0, "#000"], [1, "#fff"]], showscale=False, hoverinfo="none")
    return dict(type="heatmap", z=grid(z), **shown, **_cells(z))


def _cells(z: Tensor) -> dict:
    """Where the numbers of a map lie, so that all maps have the axes of the sliders."""
    d = CELLS / len(z)
    return dict(x0=d / 2 - 0.5, dx=d, y0=d / 2 - 0.5, dy=d)


def _outline(column: int, row: int, halves: Sequence[float]) -> dict:
    """Squares around a pixel, each by half its side."""
    x = [column + at * half if at else None for half in halves for at in (-1, 1, 1, -1, -1, None)]
    y = [row + at * half if at else None for half in halves for at in (-1, -1, 1, 1, -1, None)]
    return dict(type="scatter", mode="lines", x=x, y=y, line=dict(color=ORANGE, width=2), hoverinfo="skip")


def _bars(votes: Mapping[str, float]) -> list[dict]:
    """Votes as bars from the middle of the third map, each under its words; none where a column is shown."""
    middle, slot, where = CELLS / 2 - 0.5, CELLS / CLASSES, dict(xaxis="x3", yaxis="y3", hoverinfo="skip")
    y = [n * slot + 2.6 for n in range(len(votes))]
    bars = dict(base=[middle] * len(y), x=[vote * CELLS / 2 for vote in votes.values()], y=y, width=1.6)
    colours = [BLUE if vote > 0 else RED for vote in votes.values()]
    words = dict(text=list(votes), textposition="middle right", textfont_color=INK, cliponaxis=False)
    return [
        dict(type="bar", orientation="h", marker_color=colours, **bars, **where),
        dict(type="scatter", mode="text", x=[0] * len(y), y=[at - 2 for at in y], **words, **where),
    ]


def _heads(heads: Sequence[str]) -> dict:
    where = dict(x=[n * (SIDE + GAP) for n in range(3)], y=[0] * 3, xaxis="x5", yaxis="y5", hoverinfo="skip")
    words = dict(text=list(heads), textposition="bottom right", textfont_color=INK, cliponaxis=False)
    return dict(type="scatter", mode="text", **words, **where)


def _layout() -> dict[str, Any]:
    """Three maps with the axes of the sliders, bars under them, words above: the same whatever the controls."""
    wide, tall = WIDTH - 2, HEAD + SIDE + BETWEEN + STRIP
    sides: dict[str, Any] = {}
    for n, number in enumerate(("", "2", "3")):
        left = n * (SIDE + GAP)
        x = dict(domain=[left / wide, (left + SIDE) / wide], range=[-0.5, CELLS - 0.5])
        y = dict(domain=[1 - (HEAD + SIDE) / tall, 1 - HEAD / tall], range=[CELLS - 0.5, -0.5])
        sides[f"xaxis{number}"] = FRAME | x | dict(anchor=f"y{number}")
        sides[f"yaxis{number}"] = FRAME | y | dict(anchor=f"x{number}")
    sides["xaxis4"] = dict(domain=[42 / wide, 1], anchor="y4", tick0=1, showgrid=False, ticks="", tickfont_size=10)
    sides["yaxis4"] = dict(domain=[0, STRIP / tall], anchor="x4", range=[0, 0.5], dtick=0.25, tickformat=".0%")
    sides["xaxis5"] = dict(domain=[0, 1], anchor="y5", range=[0, wide], visible=False)
    sides["yaxis5"] = dict(domain=[1 - HEAD / tall, 1], anchor="x5", range=[1, 0], visible=False)
    for side in sides.values():
        side["fixedrange"] = True  # a drag would take a click for the beginning of a zoom
    text = "<b>gates flipped</b> since walk 0, unit by unit from input to output"
    under = dict(text=text, xref="paper", x=0, xanchor="left", showarrow=False)
    under |= dict(yref="paper", y=(STRIP + 10) / tall, yanchor="bottom")
    return dict(height=34 + tall + 24, margin=dict(l=1, r=1, t=34, b=24), annotations=[under], **sides)


LAYOUT = _layout()
