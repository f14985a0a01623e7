"""A lens over layers and positions, who wrote the answer, and what became of it: each picture pure in its numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from labkit.charts import lines
from labkit.theme import BLUE, FAINT, INK, ORANGE, RED, SIGNED, Figure, grid, token

RANKS = [[n / 10, f"rgba(37,99,235,{n / 10:.1f})"] for n in range(11)]  # full: first; the page itself: nowhere
POWERS = dict(tickvals=[0, -1, -2, -3, -4], ticktext=["first", "10", "100", "1000", "10⁴"])
MAP = dict(showgrid=False, ticks="", showline=True, mirror=True, fixedrange=True)
SHARE = dict(title_text="share of prompts", range=[0, 1], tickformat=".0%")
LETTER = 7  # px


# ------------------------------------------------------------------ two maps over the blocks
def lens_map(
    ranks: Float[Tensor, "layers t"],
    tokens: Sequence[str],
    likeliest: Sequence[Sequence[str]] | None = None,
    **more: Any,
) -> dict:
    """Ranks (0: first) as a heat map of blocks read × positions, on a log scale."""
    n, t = ranks.shape
    if len(tokens) != t:
        raise ValueError(f"tokens: expected one for each of the {t} positions, got {len(tokens)}")
    places = [f"at {token(w)}" for w in tokens]
    said = [[f"; {token(w)} is first" for w in row] for row in likeliest or []] or [[""] * t] * n
    words = [
        [f"{place}: rank {int(r) + 1}{best}" for place, r, best in zip(places, row, line, strict=True)]
        for row, line in zip(ranks.tolist(), said, strict=True)
    ]
    bar = dict(thickness=8, outlinewidth=0, tickfont_size=10, ticklen=2, ypad=0, **POWERS)
    return dict(
        type="heatmap",
        z=grid(-(ranks.double() + 1).log10()),
        zmin=-4.7,
        zmax=0,
        colorscale=RANKS,
        customdata=words,
        hovertemplate="%{y} blocks read, %{customdata}<extra></extra>",
        colorbar=bar | more.pop("colorbar", {}),
        **more,
    )


def attribution_map(by_block: Float[Tensor, "layers parts"], **where: Any) -> dict:
    """Signed shares as a heat map of blocks × (heads, MLP) whose full colours are ± the largest."""
    top = float(by_block.abs().max()) or 1.0
    layers, parts = by_block.shape
    names = [[f"L{i}H{p}" for p in range(parts - 1)] + [f"M{i}"] for i in range(layers)]
    shown = dict(zmin=-top, zmax=top, colorscale=SIGNED, showscale=False, xgap=1, ygap=1)
    hover = "%{customdata}: %{z:+.3f}<extra></extra>"
    return dict(type="heatmap", z=grid(by_block), customdata=names, hovertemplate=hover, **shown, **where)


def ticks_of(tokens: Sequence[str], room: int = 24) -> dict:
    """Tokens as the ticks of an axis of positions; every other one, or fewer, where they would overlap."""
    every = -(-len(tokens) // room)
    at = list(range((len(tokens) - 1) % every, len(tokens), every))  # the last always
    shown = [w if len(w) <= 12 else f"{w[:11]}…" for w in (tokens[i] for i in at)]
    return dict(tickvals=at, ticktext=[token(w) for w in shown], tickangle=-90 if len(tokens) > 6 else -45)


def part_ticks(parts: int) -> dict:
    """Heads and, last, the MLP as the ticks of an axis."""
    return dict(tickvals=list(range(parts)), ticktext=[f"H{p}" for p in range(parts - 1)] + ["MLP"], tickangle=0)


def lens_figure(
    ranks: Float[Tensor, "layers t"],
    tokens: Sequence[str],
    *,
    title: str = "Where and when is the answer near the top?",
) -> Figure:
    """The answer's rank (0: first) by the logit lens; row 0 is the embedding, row n is after n blocks."""
    trace, (n, t) = lens_map(ranks, tokens), ranks.shape
    layout = dict(
        width=min(760, 150 + max(28 * t, 240)),
        height=430,
        margin=dict(l=52, r=70, t=34, b=80),
        xaxis=MAP | ticks_of(tokens) | dict(range=[-0.5, t - 0.5]),
        yaxis=MAP | dict(title_text="blocks read", range=[-0.5, n - 0.5], dtick=5),
    )
    last, best = ranks[:, -1].tolist(), int(ranks.min())
    row, column = divmod(int(ranks.argmin()), t)
    said = (
        f"at the last token rank {int(last[0]) + 1} before the first block, {int(last[n // 2]) + 1} after {n // 2} "
        f"and {int(last[-1]) + 1} after all {n - 1}; best {best + 1}, after {row} at {token(tokens[column])}"
    )
    alt = "a heat map of the answer's rank, blocks read by positions"
    return Figure([trace], layout, title=title, alt=alt, summary=said)


def ranks_figure(
    ranks: Mapping[str, Sequence[float]], *, title: str = "When does the answer come up, and when the topic?"
) -> Figure:
    """Ranks (0: first) over the blocks read, a line a name, on a log axis that counts from 1."""
    most = max(map(len, ranks.values()))
    shown = {name: [rank + 1 for rank in row] for name, row in ranks.items()}
    return lines(shown, range(most), title=title, x_title="blocks read", y_title="rank (1: first)", log=True)


def attribution_figure(
    by_block: Float[Tensor, "layers parts"], *, title: str = "Which head and which MLP raise the answer?"
) -> Figure:
    """Direct logit attribution, a row a block: its heads, then its MLP, as `by_block` has them."""
    layers, parts = by_block.shape
    bar = dict(thickness=8, outlinewidth=0, tickfont_size=10, ticklen=2, ypad=0)
    layout = dict(
        width=min(760, 120 + 34 * parts),
        height=470,
        margin=dict(l=48, r=60, t=34, b=36),
        xaxis=MAP | part_ticks(parts) | dict(range=[-0.5, parts - 0.5]),
        yaxis=MAP | dict(title_text="block", range=[-0.5, layers - 0.5], dtick=5),
    )
    trace = attribution_map(by_block) | dict(showscale=True, colorbar=bar)
    order = by_block.flatten().argsort(descending=True).tolist()

    def named(i: int) -> str:
        name = trace["customdata"][i // parts][i % parts]
        return f"{name} {float(by_block[i // parts, i % parts]):+.2f}"

    said = (
        f"largest {', '.join(map(named, order[:4]))}; smallest {', '.join(map(named, order[:-4:-1]))}; "
        f"all together {float(by_block.sum()):+.2f}"
    )
    alt = "a red and blue heat map of shares of a logit, blocks by heads and MLP"
    return Figure([trace], layout, title=title, alt=alt, summary=said)


# ------------------------------------------------------------------ bars
def swap_figure(
    told: Mapping[str, tuple[float, float]], *, title: str = "Whose answer is given, when heads are swapped?"
) -> Figure:
    """How often (0 … 1) a prompt's own answer and its donor's are given. told: what was swapped -> (own, donor's)."""
    return paired(told, ("its own answer", "the donor's"), title=title, spell="{:.0%}", axis=SHARE)


def two_r2_figure(
    r2: Mapping[str, tuple[float, float]], *, title: str = "How much of each MLP does the regression explain?"
) -> Figure:
    """R² against saying the mean, and against saying zero. r2: a block's name -> (centred, uncentred)."""
    named = {name if name.startswith(("M", "block")) else f"block {name}": both for name, both in r2.items()}
    names = "centred: better than the mean", "uncentred: better than zero"
    return paired(named, names, title=title, spell="{:.3f}", axis=dict(title_text="R²"))


def paired(
    rows: Mapping[str, tuple[float, float]], names: tuple[str, str], *, title: str, spell: str, axis: Mapping
) -> Figure:
    """Two horizontal bars a row, with their numbers as `spell` writes them."""
    y = [token(name).replace("·", " ") for name in rows]
    traces = [
        dict(
            type="bar",
            orientation="h",
            name=name,
            x=[pair[n] for pair in rows.values()],
            y=y,
            text=[spell.format(pair[n]) for pair in rows.values()],
            textposition="outside",
            textfont_color=INK,
            cliponaxis=False,
            marker_color=colour,
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        )
        for n, (name, colour) in enumerate(zip(names, (BLUE, ORANGE), strict=True))
    ]
    layout = dict(
        height=110 + 38 * len(rows),
        showlegend=True,
        legend_traceorder="normal",
        title_pad_b=28,
        barmode="group",
        bargap=0.25,
        margin=dict(l=24 + LETTER * max(map(len, rows)), r=50, t=52, b=40),
        xaxis=axis,
        yaxis=dict(autorange="reversed", showgrid=False, ticks=""),
    )
    said = "; ".join(
        f"{name}: " + ", ".join(f"{what} {spell.format(x)}" for what, x in zip(names, pair, strict=True))
        for name, pair in rows.items()
    )
    return Figure(traces, layout, title=title, alt=f"two bars of {axis['title_text']} a row", summary=said)


def knock_out_figure(
    accuracy: Mapping[str, float], *, title: str = "How many are right, with the topic out of sight in some blocks?"
) -> Figure:
    """Accuracy (0 … 1) as the last token cannot see the topic in a window of blocks. accuracy: window -> share."""
    names = [token(name).replace("·", " ") for name in accuracy]
    lowest = min(accuracy.values())
    trace = dict(
        type="bar",
        x=names,
        y=list(accuracy.values()),
        text=[f"{value:.0%}" for value in accuracy.values()],
        textposition="outside",
        textfont_color=INK,
        cliponaxis=False,
        marker_color=[BLUE if value == lowest else FAINT for value in accuracy.values()],
        hovertemplate="%{x}: %{y:.4f}<extra></extra>",
    )
    layout = dict(
        height=280,
        margin=dict(l=64, r=10, t=34, b=40),
        bargap=0.35,
        xaxis=dict(title_text="blocks in which the topic is out of sight", type="category", showgrid=False, ticks=""),
        yaxis=dict(
            title_text="answered right", range=[0, 1.08], tickvals=np.linspace(0, 1, 5).tolist(), tickformat=".0%"
        ),
    )
    said = ", ".join(f"blocks {name}: {value:.0%}" for name, value in accuracy.items())
    return Figure([trace], layout, title=title, alt="bars of accuracy, a window of blocks a bar", summary=said)


# ------------------------------------------------------------------ an MLP as a sum
def sum_figure(
    heads: Sequence[float],
    intercept: float,
    remainder: float,
    coefficients: Sequence[float],
    kappa: Sequence[float],
    *,
    of: str,
    title: str = "Is this MLP a sum of what its heads wrote?",
    cards: Mapping[str, str] | None = None,
) -> Figure:
    """Left, bars of c_h a_h, intercept, remainder and their sum along an answer; right, c_h and κ_h as dots.

    of: the answer whose logit the bars share, as theme.token labels it.
    """
    n, whole = len(heads), sum(heads) + intercept + remainder
    values = [*heads, intercept, remainder, whole]
    names = [*(f"head {h}" for h in range(n)), "intercept", "remainder", "the whole MLP"]
    y = [*range(n), n + 0.3, n + 1.3, n + 2.6]
    where = dict(type="scatter", mode="markers", y=list(range(n)), xaxis="x2", hovertemplate="%{x:+.3f}<extra></extra>")
    heads_of = [f"<b>shares of the logit of {of}</b>", "<b>● κ</b>: head taken away; <b>○ c</b>: fitted"]
    ends = dict(text=[f"{v:+z.2f}" for v in values], textposition="outside", textfont_color=INK, cliponaxis=False)
    traces: list[Mapping] = [
        dict(
            type="bar", orientation="h", x=values, y=y, width=0.7, customdata=names, **ends,
            marker_color=[*(BLUE if v > 0 else RED for v in heads), ORANGE, FAINT, INK],
            hovertemplate="%{customdata}: %{x:+.3f}<extra></extra>",
        ),
        where | dict(x=list(coefficients), marker=dict(size=9, symbol="circle-open", color=ORANGE, line_width=2)),
        where | dict(x=list(kappa), marker=dict(size=8, color=BLUE)),
        dict(
            type="scatter", mode="text", x=[0, 0.6], y=[0, 0], text=heads_of, xaxis="x3", yaxis="y3",
            textposition="bottom right", textfont_color=INK, cliponaxis=False, hoverinfo="skip",
        ),
    ]  # fmt: skip
    reach = 1.25 * max(map(abs, values)) or 1.0
    wide = 1.1 * max(1.5, *map(abs, coefficients), *map(abs, kappa))
    zero = dict(zeroline=True, zerolinecolor=INK, fixedrange=True)
    layout = dict(
        height=430,
        margin=dict(l=96, r=10, t=34, b=40),
        xaxis=dict(domain=[0, 0.53], range=[-reach, reach], title_text="centred logit") | zero,
        yaxis=dict(domain=[0, 0.94], range=[n + 3.2, -0.6], tickvals=y, ticktext=names, showgrid=False, ticks=""),
        xaxis2=dict(domain=[0.6, 1], range=[-wide, wide], anchor="y", title_text="−1: erased, +1: doubled") | zero,
        xaxis3=dict(domain=[0, 1], range=[0, 1], anchor="y3", visible=False, fixedrange=True),
        yaxis3=dict(domain=[0.94, 1], range=[1, 0], anchor="x3", visible=False, fixedrange=True),
    )
    said = ", ".join(f"{name} {value:+z.2f}" for name, value in zip(names, values, strict=True))
    said += "; kappa " + ", ".join(f"{k:+z.2f}" for k in kappa)
    alt = "bars of the parts of an MLP's share of a logit; dots of a fitted and a causal coefficient a head"
    return Figure(traces, layout, title=title, alt=alt, summary=f"{of}: {said}", cards=cards)
