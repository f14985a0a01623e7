"""The pictures of the lesson, each a pure function of its numbers."""

import numpy as np

from labkit.charts import visits
from labkit.theme import BLUE, INK, ORANGE, TEAL, Figure, grid, token

from .cache import Positions, SinkCache

WARM_UP = 32  # tokens over which the timeline's running mean goes, unless the text is short


def cache_figure(words: list[str], *, arrived: int, n_sink: int, window: int, positions: Positions) -> Figure:
    """What the newest of `arrived` tokens sees: a row of the text, of slots, of rotary positions, and the distances."""
    cache = SinkCache(n_sink, window, positions)
    kept: list[int] = []
    seen: list[int] = []
    for new in range(arrived):
        seen = [*kept, new]
        kept = cache.keep(seen)
    rotary = cache.rotary(seen)
    newest = arrived - 1
    x = list(range(len(words)))

    state = np.full(len(words), np.nan)  # 0 evicted, 1 in the window, 2 sink, 3 newest; a gap: not there yet
    state[:arrived], state[seen] = 0, 1
    state[[s for s in seen if s < n_sink]] = 2
    state[newest] = 3
    in_cache = np.where(np.isin(x, seen), state, np.nan)
    slot = {token_at: str(s) for s, token_at in enumerate(seen)}
    place = {token_at: str(p) for token_at, p in zip(seen, rotary, strict=True)}
    rows = [
        [place.get(j, "") for j in x],
        [slot.get(j, "") for j in x],
        [token(w)[:7] if j < arrived else "" for j, w in enumerate(words)],
    ]

    believed = [rotary[-1] - p for p in rotary]
    true = [newest - s for s in seen]
    wrong = sum(a != b for a, b in zip(believed, true, strict=True))
    summary = (
        f"{arrived} tokens arrived, {len(seen)} seen by the newest, {arrived - len(seen)} evicted; "
        f"{wrong} at a distance that is not the text's; positions {rotary}"
    )
    scale = [
        [0, "#d4d9e0"],
        [0.25, "#d4d9e0"],
        [0.25, BLUE],
        [0.5, BLUE],
        [0.5, ORANGE],
        [0.75, ORANGE],
        [0.75, TEAL],
        [1, TEAL],
    ]
    boxes = dict(
        type="heatmap",
        x=x,
        y=["rotary position", "cache slot", "text"],
        z=grid([in_cache, in_cache, state]),
        text=rows,
        texttemplate="%{text}",
        textfont_size=11,
        zmin=-0.5,
        zmax=3.5,
        colorscale=scale,
        showscale=False,
        xgap=2,
        ygap=3,
        hovertemplate="token %{x}: %{text}<extra></extra>",
    )
    bars = dict(
        type="bar",
        x=seen,
        y=believed,
        marker_color=BLUE,
        yaxis="y2",
        name="as the model believes",
        hovertemplate="token %{x}: believed %{y} back<extra></extra>",
    )
    marks = dict(
        type="scatter",
        mode="markers",
        x=seen,
        y=true,
        yaxis="y2",
        name="in the text",
        marker=dict(symbol="line-ew-open", size=18, color=INK, line_width=2),
        hovertemplate="token %{x}: truly %{y} back<extra></extra>",
    )
    layout = dict(
        height=330,
        showlegend=True,
        bargap=0.3,
        margin=dict(l=104, r=10, t=34, b=40),
        xaxis=dict(range=[-0.6, len(words) - 0.4], title_text="place in the text", showgrid=False, anchor="y2"),
        yaxis=dict(domain=[0.5, 1], showgrid=False, ticks="", linewidth=0),
        yaxis2=dict(domain=[0, 0.42], range=[0, len(words)], title_text="distance"),
        legend=dict(x=1, y=0.42, yanchor="top", orientation="v"),
    )
    return Figure(
        [boxes, bars, marks],
        layout,
        title="What does the newest token see, and how far away does it believe it to be?",
        alt="boxes for tokens: grey evicted, blue window, orange sink, green newest; below, bars of distances",
        summary=summary,
        cards={"tokens seen": str(len(seen)), "evicted": str(arrived - len(seen)), "distances off": str(wrong)},
    )


def map_figure(patterns: np.ndarray, words: list[str], *, layer: int, head: int, without: bool) -> Figure:
    """Left: mean weight on token 0, layers × heads. Right: one head's pattern; `without` takes column 0 out of it."""
    sink = patterns[:, :, 1:, 0].mean(-1)
    pattern = patterns[layer, head].copy()
    mass = sink[layer, head]
    if without:
        pattern[:, 0] = 0
        pattern /= np.maximum(pattern.sum(-1, keepdims=True), 1e-9)
    t = len(words)
    shown = np.where(np.tril(np.ones((t, t), bool)), np.sqrt(pattern), np.nan)
    if without:
        shown[:, 0] = np.nan
    ticks = [0, 0.01, 0.05, 0.2, 0.5, 1]
    bar = dict(thickness=8, len=1, outlinewidth=0, tickfont_size=10, ticklen=2, xpad=4)
    left = dict(
        type="heatmap",
        z=grid(sink),
        zmin=0,
        zmax=1,
        colorbar=bar | dict(x=0.27, nticks=6),
        hovertemplate="layer %{y}, head %{x}: %{z:.2f}<extra></extra>",
    )
    names = [token(w) for w in words]
    right = dict(
        type="heatmap",
        z=grid(shown),
        zmin=0,
        zmax=1,
        xaxis="x2",
        yaxis="y2",
        customdata=None,
        colorbar=bar | dict(x=1.0, tickvals=[v**0.5 for v in ticks], ticktext=[f"{v:g}" for v in ticks]),
        hovertemplate="query %{y} → key %{x}<br>√weight %{z:.2f}<extra></extra>",
    )
    most = np.nanargmax(np.nan_to_num(shown[-1]))
    over = (sink > 0.3).mean()
    box = dict(
        type="rect", x0=head - 0.5, x1=head + 0.5, y0=layer - 0.5, y1=layer + 0.5, line=dict(color=ORANGE, width=2)
    )
    title = dict(xref="paper", yref="paper", y=1.02, yanchor="bottom", showarrow=False, font_size=12)
    layout = dict(
        height=400,
        shapes=[box],
        margin=dict(l=48, r=48, t=58, b=40),
        title_pad_b=34,
        xaxis=dict(domain=[0, 0.26], title_text="head", showgrid=False, dtick=2),
        yaxis=dict(title_text="layer", autorange="reversed", showgrid=False),
        xaxis2=dict(domain=[0.46, 0.99], anchor="y2", title_text="key", showgrid=False),
        yaxis2=dict(anchor="x2", title_text="query", autorange="reversed", showgrid=False),
        annotations=[
            dict(text="mean weight on token 0", x=0, xanchor="left", **title),
            dict(
                text=f"layer {layer}, head {head}" + (", column 0 taken away" if without else ""),
                x=0.46,
                xanchor="left",
                **title,
            ),
        ],
    )
    return Figure(
        [left, right],
        layout,
        title="Which heads park their attention on the first token, and what is left without it?",
        alt="two heat maps: layers by heads, and one head's queries by keys",
        summary=f"layer {layer}, head {head}: {mass:.2f} of the weight on token 0 ({names[0]}); the last query looks "
        f"most at key {most} ({names[most]}){', column 0 aside' if without else ''}",
        cards={"weight on token 0": f"{mass:.2f}", "heads above 0.3": f"{over:.0%}"},
    )


def perplexity_figure(
    dense: np.ndarray, cut: np.ndarray, *, n_sink: int, window: int, positions: Positions, source: str
) -> Figure:
    """Running perplexity of the whole context and of the cut cache; dense, cut: (t−1,) losses in nats."""

    mean_of = max(1, min(WARM_UP, len(dense) // 4))

    def running(loss: np.ndarray) -> np.ndarray:
        total = np.cumsum(np.concatenate([[0.0], loss]))
        return np.exp((total[mean_of:] - total[:-mean_of]) / mean_of)

    full = n_sink + window
    x = np.arange(mean_of, len(dense) + 1)
    after = slice(full, None) if full < len(dense) else slice(0, None)
    a, b = (float(np.exp(loss[after].mean())) for loss in (dense, cut))
    lines = [
        dict(
            type="scatter",
            mode="lines",
            x=x,
            y=running(loss),
            line=dict(color=colour, width=2),
            name=name,
            hovertemplate="token %{x}: perplexity %{y:.1f}<extra>" + name + "</extra>",
        )
        for loss, colour, name in ((dense, INK, "whole context"), (cut, BLUE, "cut cache"))
    ]
    edge = dict(type="line", x0=full, x1=full, y0=0, y1=1, yref="paper", line=dict(color=ORANGE, width=1.5, dash="dot"))
    layout = dict(
        showlegend=True,
        shapes=[edge],
        legend=dict(y=1.0),
        margin=dict(l=60, r=10, t=52, b=40),
        title_pad_b=28,
        xaxis=dict(
            title_text=f"token of {source} (dotted: the cache is full)", range=[0, len(dense) + 2], showgrid=False
        ),
        yaxis=dict(title_text=f"perplexity, mean of {mean_of} tokens", type="log", dtick="D2"),
    )
    return Figure(
        lines,
        layout,
        title="How much worse does the model read when its cache is cut?",
        alt="two lines of running perplexity along the text, logarithmic",
        summary=f"{source}, n_sink {n_sink}, window {window}, positions {positions}: after the cache is full, "
        f"perplexity {b:.3g} against {a:.3g} with the whole context",
        cards={"whole context": f"{a:.3g}", "cut cache": f"{b:.3g}", "ratio": f"{b / a:.2f}"},
    )


def draw_visits(counts: np.ndarray, *, block_q: int, block_k: int) -> Figure:
    """Which blocks of keys each program of the kernel reads; counts: (programs, blocks)."""
    blocks = dict(program=f"block of {block_q} queries", block=f"block of {block_k} keys")
    return visits(counts, title="Which keys does each program read?", **blocks)
