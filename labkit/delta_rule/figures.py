"""What two memories hold and give back, after the same writes, as pictures: handwritten digits stored under keys."""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from labkit import linear_attention
from labkit.digits import digits
from labkit.theme import BLUE, FAINT, ORANGE, Figure, grid, token

from .forms import chunkwise

SIDE = 14  # pixels of a digit, which is a value of SIDE² numbers
D_K, MOST_KEYS, WRITES = 16, 12, 36
ACROSS = 8  # of a memory's D_K rows, each drawn as a picture
BAR = 0.42 * SIDE  # the width of a bar, beside another one, below a picture


def keys(n_keys: int, similarity: float) -> Float[Tensor, "n d_k"]:
    """Unit keys of which any two have this cosine: each has an axis of its own, and all share the last one."""
    own, shared = torch.eye(D_K)[:n_keys], torch.eye(D_K)[-1]
    return (1 - similarity) ** 0.5 * own + similarity**0.5 * shared


@cache
def pictures() -> Float[Tensor, "ten m d_v"]:
    """The first WRITES pictures of each digit, at half their size, ink 1 and paper 0, as vectors."""
    raw, _ = digits()
    each = raw.reshape(10, -1, 1, 28, 28)[:, :WRITES].flatten(0, 1).float() / 255
    return F.avg_pool2d(each, 28 // SIDE).reshape(10, WRITES, SIDE * SIDE)


def writes(n_keys: int) -> tuple[Tensor, Float[Tensor, "t d_v"]]:
    """Which key each of WRITES writes goes to, and the value: round after round, each time another digit."""
    at = torch.arange(WRITES)
    which, turn = at % n_keys, at // n_keys
    return which, pictures()[(which + 3 * turn) % 10, at]


def memories(n_keys: int, similarity: float, written: int, beta: float) -> dict[str, Float[Tensor, "d_k d_v"]]:
    """The additive memory and the delta rule's after the first `written` writes, of the same strength β."""
    which, v = writes(n_keys)
    k, v = keys(n_keys, similarity)[which[:written]][None, None], v[None, None, :written]
    additive = linear_attention.parallel(k, k, beta * v)[1]
    delta = chunkwise(k, k, v, torch.full(k.shape[:3], beta))[1]
    return {"additive": additive[0, 0], "delta": delta[0, 0]}


def memories_figure(
    *, written: int, n_keys: int = 6, similarity: float = 0.0, beta: float = 1.0, fade: float = 1.0
) -> Figure:
    """Above, both memories, a picture a row of S; in the middle what they give back, below how far off that is.

    fade: how much paler a key's bar is for each write that came after its own.
    """
    states = memories(n_keys, similarity, written, beta)
    which, v = writes(n_keys)
    k, which = keys(n_keys, similarity), which[:written]
    latest = {int(key): write for write, key in enumerate(which)}  # of each key that was written
    held = sorted(latest)
    wanted = v[[latest[i] for i in held]]
    read = {name: k[held] @ S for name, S in states.items()}
    error = {name: (x - wanted).norm(dim=-1) / wanted.norm(dim=-1) for name, x in read.items()}

    traces = [_memory(states["additive"], 1), _memory(states["delta"], 2), _read_outs(held, [wanted, *read.values()])]
    ages = [written - 1 - latest[i] for i in held]
    for name, colour, side in (("additive", ORANGE, -BAR), ("delta", BLUE, 0)):
        traces.append(
            dict(
                type="bar",
                x=[_middle(i) for i in held],
                y=error[name].tolist(),
                width=BAR,
                offset=side,
                text=[f"{e:.2f}" if e < 10 else f"{e:.3g}" for e in error[name].tolist()],
                textposition="outside",
                textfont_size=10,
                constraintext="none",
                textangle=0,
                cliponaxis=False,
                marker=dict(color=colour, opacity=[fade**age for age in ages]),
                name=name,
                xaxis="x4",
                yaxis="y4",
                hovertemplate=name + ": %{y:.3g}<extra></extra>",
            )
        )
    mean = {name: float(e.mean()) for name, e in error.items()}
    last = int(which[-1])
    box = dict(type="rect", xref="x3", yref="y3", x0=last * SIDE - 0.5, x1=(last + 1) * SIDE - 0.5)
    box |= dict(y0=-0.5, y1=3 * SIDE - 0.5, line=dict(color=ORANGE, width=2))
    again = sum(int((which == i).sum()) > 1 for i in range(n_keys))
    return Figure(
        traces,
        _layout(box, max(1.0, *(float(e.max()) for e in error.values()))),
        title="What does each memory give back for a key, after all these writes?",
        alt="two memories as rows of small pictures; for every key the digit wanted and two read out; bars of errors",
        summary=f"{written} writes, {n_keys} keys, cosine {similarity:.2f}, β {beta:.2f}; key {last + 1} was the "
        f"last, {again} were written more than once; mean error of the read-outs: additive {mean['additive']:.2f}, "
        f"delta {mean['delta']:.2f}",
        cards={"additive, mean error": f"{mean['additive']:.2f}", "delta, mean error": f"{mean['delta']:.2f}"},
    )


def _middle(key: int) -> float:
    return key * SIDE + (SIDE - 1) / 2


def _memory(S: Tensor, place: int) -> dict:
    down = D_K // ACROSS
    tiles = S.reshape(down, ACROSS, SIDE, SIDE).permute(0, 2, 1, 3).reshape(down * SIDE, ACROSS * SIDE)
    return dict(
        type="heatmap",
        z=grid(tiles),
        zmin=-1,
        zmax=1,
        colorscale="RdBu",
        showscale=False,
        xaxis=f"x{place}",
        yaxis=f"y{place}",
        hovertemplate="%{z:.2f}<extra></extra>",
    )


def _read_outs(held: list[int], rows: list[Tensor]) -> dict:
    z = np.full((len(rows) * SIDE, MOST_KEYS * SIDE), np.nan, np.float32)
    for r, pictures_of_row in enumerate(rows):
        for i, picture in zip(held, pictures_of_row, strict=True):
            z[r * SIDE : (r + 1) * SIDE, i * SIDE : (i + 1) * SIDE] = picture.reshape(SIDE, SIDE)
    place = dict(xaxis="x3", yaxis="y3", hovertemplate="%{z:.2f}<extra></extra>")
    return dict(type="heatmap", z=grid(z), zmin=0, zmax=1, showscale=False) | place


def _layout(box: dict, highest: float) -> dict:
    bare = dict(showgrid=False, showticklabels=False, ticks="", linewidth=0)
    upright = bare | dict(autorange="reversed")
    edge = dict(type="line", y0=-0.5, y1=2 * SIDE - 0.5, line=dict(color=FAINT, width=1))
    lines = [
        edge | dict(xref=f"x{place}", yref=f"y{place}", x0=SIDE * n - 0.5, x1=SIDE * n - 0.5)
        for place in (1, 2)
        for n in range(1, ACROSS)
    ]
    names = dict(xref="paper", yref="paper", yanchor="bottom", showarrow=False, font_size=12, xanchor="left")
    across = [-0.5, MOST_KEYS * SIDE - 0.5]
    return dict(
        height=450,
        showlegend=True,
        shapes=[box, *lines],
        margin=dict(l=74, r=10, t=54, b=30),
        title_pad_b=30,
        legend=dict(x=1, y=0.27, yanchor="bottom"),
        xaxis=bare | dict(domain=[0, 0.49], anchor="y"),
        yaxis=upright | dict(domain=[0.74, 1]),
        xaxis2=bare | dict(domain=[0.51, 1], anchor="y2"),
        yaxis2=upright | dict(domain=[0.74, 1], anchor="x2"),
        xaxis3=bare | dict(range=across, anchor="y3"),
        yaxis3=bare | dict(domain=[0.31, 0.69], range=[3 * SIDE - 0.5, -0.5], anchor="x3", showticklabels=True,
                           tickvals=[SIDE * n + 6.5 for n in range(3)], ticktext=["wanted", "additive", "delta"]),
        xaxis4=dict(range=across, anchor="y4", showgrid=False, tickvals=[_middle(i) for i in range(MOST_KEYS)],
                    ticktext=[token(f"key {i + 1}").replace("·", " ") for i in range(MOST_KEYS)]),
        yaxis4=dict(domain=[0, 0.25], anchor="x4", title_text="error", range=[0, 1.15 * highest], nticks=4),
        annotations=[
            dict(text="additive memory, S ← S + β k vᵀ", x=0, y=1.01, **names),
            dict(text="delta rule, S ← S + β k (v − Sᵀk)ᵀ", x=0.51, y=1.01, **names),
        ],
    )  # fmt: skip
