"""Small maps side by side, logits in two parts, and gates that flip: each picture is pure in its numbers."""

import base64
import io
import math
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from labkit.theme import BLUE, INK, ORANGE, SIGNED, WIDTH, Figure, grid

SCALE = "red − to blue +"
GAP, WIDEST, MOST = 22, 230, 4  # px between maps and of a map at most; maps in a line at most
LETTER, LINE = 6.6, 17  # px: of a letter of a caption on the average, and of a line
FRAME = dict(showgrid=False, showticklabels=False, ticks="", showline=True, mirror=True, fixedrange=True)


def signed(z: Float[Tensor, "h w"], **where: Any) -> dict:
    """A map around 0 as a heat map whose full colours are ± its largest number; nan is a gap."""
    top = float(z.abs().nan_to_num().max()) or 1.0
    shown = dict(zmin=-top, zmax=top, colorscale=SIGNED, showscale=False)
    return dict(type="heatmap", z=grid(z), **shown, hovertemplate="%{z:.4g}<extra></extra>", **where)


def largest(z: Tensor) -> str:
    """± the largest number of a map, in two digits."""
    return f"±{float(z.abs().max()):.2g}"


# ------------------------------------------------------------------ maps side by side
def pictures_figure(
    images: Mapping[str, Tensor], *, title: str = "What does each of them look like?", signed: Collection[str] = ()
) -> Figure:
    """Small maps with their names, up to four in a line, each name once, for rows, columns, singular vectors, votes.

    images: name -> (h w), (1 h w), (3 h w) or one such example (1 c h w): bytes, or floats in [0, 1], drawn as they
    are, grey or in colour. Those whose name is in `signed` (all of them: `signed=images`) are drawn red − to blue +,
    0 as nothing, by their own largest number, which the caption gives; their channels are added up.
    """
    lines = math.ceil(len(images) / MOST)
    across = math.ceil(len(images) / max(lines, 1))
    side = min(WIDEST, (WIDTH - 2 - GAP * (across - 1)) / across)
    captions, traces, tall = [], [], []
    for name, x in images.items():
        x = _chw(x, name)
        more = [f"red −, blue +, {largest(x.sum(0))}"] if name in signed else []
        captions.append([line for text in (name, *more) for line in textwrap.wrap(text, int(side / LETTER)) or [" "]])
        traces.append(_signed_or_plain(x, name in signed))
        tall.append(side * x.shape[1] / x.shape[2])
    tops, y = [], 0.0
    for first in range(0, len(traces), across):
        above = LINE * max(map(len, captions[first : first + across])) + 4
        tops += [y + above] * len(traces[first : first + across])
        y += above + max(tall[first : first + across]) + GAP
    height = y - GAP
    layout: dict[str, Any] = dict(width=WIDTH, height=34 + int(height) + 2, margin=dict(l=1, r=1, t=34, b=1))
    layout["annotations"] = []
    for n, (trace, lines_of, top, h) in enumerate(zip(traces, captions, tops, tall, strict=True)):
        left, number = (n % across) * (side + GAP), str(n + 1) if n else ""
        trace |= dict(xaxis=f"x{number}", yaxis=f"y{number}")
        domain = [left / (WIDTH - 2), (left + side) / (WIDTH - 2)]
        layout[f"xaxis{number}"] = FRAME | dict(domain=domain, anchor=f"y{number}", constrain="domain")
        layout[f"yaxis{number}"] = FRAME | dict(
            domain=[max(1 - (top + h) / height, 0), 1 - top / height], anchor=f"x{number}", autorange="reversed"
        )
        place = dict(x=domain[0], y=1 - (top - 3) / height, xanchor="left", yanchor="bottom", align="left")
        text = "<br>".join(map(escape, lines_of))
        layout["annotations"].append(place | dict(text=text, xref="paper", yref="paper", showarrow=False))
    said = ", ".join(
        f"{name} {largest(_chw(x, name).sum(0)) if name in signed else _range(x)}" for name, x in images.items()
    )
    return Figure(traces, layout, title=title, alt="small maps side by side", summary=said)


def _chw(x: Tensor, name: str) -> Float[Tensor, "c h w"]:
    """Bytes become floats in [0, 1]."""
    shape = tuple(x.shape)
    x = (x / 255 if x.dtype == torch.uint8 else x).detach().cpu().float()
    x = x[0] if x.ndim == 4 and len(x) == 1 else x[None] if x.ndim == 2 else x
    if x.ndim != 3 or len(x) not in (1, 3):
        raise ValueError(f"{name}: expected (h w), (1 h w) or (3 h w), got {shape}")
    return x


def _signed_or_plain(x: Float[Tensor, "c h w"], is_signed: bool) -> dict:
    if is_signed:
        return signed(x.sum(0))
    pixels = (x.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).expand(-1, -1, 3).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return dict(type="image", source=source, hoverinfo="skip")


def _range(x: Tensor) -> str:
    x = x / 255 if x.dtype == torch.uint8 else x
    return f"{float(x.min()):.2f} to {float(x.max()):.2f}"


# ------------------------------------------------------------------ logits in two parts
def split_figure(
    parts: Mapping[str, tuple[float, float]], *, title: str = "How much of each logit comes from the picture?"
) -> Figure:
    """Bars of (F x)ᵢ, rᵢ and their sum. parts: the name of a class -> (F x, r)."""
    sums = {name: (Fx, r, Fx + r) for name, (Fx, r) in parts.items()}
    traces = [
        dict(
            type="bar",
            orientation="h",
            name=name,
            x=[row[n] for row in sums.values()],
            y=[escape(name) for name in sums],
            text=[f"{row[n]:.2f}" for row in sums.values()],
            textposition="outside",
            textfont_color=INK,
            cliponaxis=False,
            marker_color=colour,
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        )
        for n, (name, colour) in enumerate((("F x", BLUE), ("r", ORANGE), ("F x + r", INK)))
    ]
    layout = dict(
        height=84 + 60 * len(sums),
        showlegend=True,
        barmode="group",
        bargap=0.25,
        margin=dict(l=24 + int(LETTER * max(map(len, sums))), r=50, t=34, b=40),
        xaxis=dict(title_text="logit", zeroline=True, zerolinecolor=INK),
        yaxis=dict(autorange="reversed", showgrid=False, ticks=""),
    )
    said = "; ".join(f"{name} {Fx:.2f} + {r:.2f} = {y:.2f}" for name, (Fx, r, y) in sums.items())
    return Figure(traces, layout, title=title, alt="bars of F x, of r and of their sum, a class a row", summary=said)


# ------------------------------------------------------------------ gates that flip
def flips_figure(
    shares: Iterable[float], names: Sequence[str], *, title: str = "Which gates flipped, along the depth?"
) -> Figure:
    """Bars of the share (0 … 1) of its gates that each unit flipped, in the order in which the network calls them."""
    of = list(map(float, shares))
    few, named = len(of) <= 12, dict(tickvals=list(range(1, len(of) + 1)), ticktext=list(map(escape, names)))
    layout = dict(
        height=240,
        margin=dict(l=52, r=10, t=34, b=40),
        xaxis=dict(showgrid=False, **(named if few else dict(title_text="unit, from input to output"))),
        yaxis=dict(title_text="gates flipped", tickformat=".0%", rangemode="tozero"),
    )
    said = ", ".join(f"{name} {share:.1%}" for name, share in zip(names, of, strict=True))
    return Figure(
        [flips(of, names)], layout, title=title, alt="bars of the share of gates flipped, a unit a bar", summary=said
    )


def flips(shares: Sequence[float], names: Sequence[str]) -> dict:
    """One bar a unit, at 1, 2, …"""
    bars = dict(x=list(range(1, len(shares) + 1)), y=list(shares), customdata=[escape(name) for name in names])
    bars["width"] = min(0.75, len(shares) / 16)
    return dict(type="bar", **bars, marker_color=BLUE, hovertemplate="%{customdata}: %{y:.1%}<extra></extra>")
