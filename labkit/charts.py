"""The static charts that lessons draw most: bars, dots with their spread, lines over an axis, visits to tiles."""

from collections.abc import Mapping, Sequence

import numpy as np

from .theme import BLUE, FAINT, INK, Figure, grid, token


def bars(values: Mapping[str, float], *, title: str, axis: str, highlight: Sequence[str] = ()) -> Figure:
    """One horizontal bar a name, its number (three significant digits) at its end; highlighted ones in blue."""
    names = [token(name).replace("·", " ") for name in values]
    numbers = [f"{value:.3g}" for value in values.values()]
    trace = dict(
        type="bar",
        orientation="h",
        x=list(values.values()),
        y=names,
        text=numbers,
        textposition="outside",
        cliponaxis=False,
        marker_color=[BLUE if name in highlight or not highlight else FAINT for name in values],
        hovertemplate="%{y}: %{x:.4g}<extra></extra>",
    )
    layout = dict(
        height=90 + 30 * len(values),
        margin=dict(l=24 + 7 * max(map(len, names)), r=60, t=34, b=40),
        xaxis=dict(title_text=axis),
        yaxis=dict(autorange="reversed", showgrid=False, ticks=""),
    )
    said = ", ".join(f"{name} {number}" for name, number in zip(values, numbers, strict=True))
    return Figure([trace], layout, title=title, alt=f"bars of {axis}", summary=said)


def dots(values: Mapping[str, Sequence[float]], *, title: str, axis: str) -> Figure:
    """One row a name, a dot a number (a seed, say), a line from the smallest to the largest, the mean beside it."""
    names = [token(name).replace("·", " ") for name in values]
    means = [f"{sum(numbers) / len(numbers):.3g}" for numbers in values.values()]
    beside = dict(xref="paper", x=1.02, xanchor="left", showarrow=False)
    spread = dict(
        type="scatter",
        mode="lines",
        x=[x for numbers in values.values() for x in (min(numbers), max(numbers), None)],
        y=[name for name in names for _ in range(3)],
        line=dict(color=INK, width=1),
        hoverinfo="skip",
    )
    each = dict(
        type="scatter",
        mode="markers",
        x=[x for numbers in values.values() for x in numbers],
        y=[name for name, numbers in zip(names, values.values(), strict=True) for _ in numbers],
        marker=dict(size=10, color=BLUE, opacity=0.7),
        hovertemplate="%{y}: %{x:.4g}<extra></extra>",
    )
    layout = dict(
        height=100 + 34 * len(values),
        margin=dict(l=24 + 7 * max(map(len, names)), r=90, t=34, b=40),
        xaxis=dict(title_text=axis),
        yaxis=dict(autorange="reversed", showgrid=False, ticks=""),
        annotations=[dict(y=name, text=f"mean {mean}", **beside) for name, mean in zip(names, means, strict=True)],
    )
    said = "; ".join(
        f"{name} {', '.join(f'{x:.3g}' for x in numbers)} (mean {mean})"
        for (name, numbers), mean in zip(values.items(), means, strict=True)
    )
    return Figure([spread, each], layout, title=title, alt=f"dots of {axis}", summary=said)


def visits(counts: np.ndarray, *, title: str, program: str, block: str) -> Figure:
    """Which blocks each program of a kernel touches: counts (programs, blocks), as `kernel_lab.tile_map` returns them.

    program, block: what a row and a column are, such as "block of 64 queries" and "block of 32 keys".
    """
    n, m = counts.shape
    trace = dict(
        type="heatmap", z=grid(np.where(counts > 0, 1.0, np.nan)), zmin=0, zmax=1.4, showscale=False, xgap=2, ygap=2
    )
    layout = dict(
        width=max(420, 70 + 7 * len(title)),  # a title that is longer than its figure is cut off
        height=120 + 34 * n,
        xaxis=dict(title_text=block, dtick=1, showgrid=False, range=[-0.5, m - 0.5]),
        yaxis=dict(title_text=program, dtick=1, showgrid=False, range=[n - 0.5, -0.5]),
    )
    said = "; ".join(f"program {i}: blocks {np.flatnonzero(row).tolist()}" for i, row in enumerate(counts))
    return Figure([trace], layout, title=title, alt="a grid of programs by blocks", summary=said)


def lines(
    series: Mapping[str, Sequence[float]],
    x: Sequence[float],
    *,
    title: str,
    x_title: str,
    y_title: str,
    log: bool = False,
) -> Figure:
    """One line a name over x; the summary gives each line's first, largest and last number."""
    traces = [
        dict(type="scatter", mode="lines+markers", marker_size=4, x=list(x), y=[float(v) for v in y], name=name)
        for name, y in series.items()
    ]
    layout = dict(
        showlegend=len(series) > 1,
        margin=dict(l=60, r=10, t=52, b=40),
        title_pad_b=28,
        xaxis=dict(title_text=x_title, showgrid=False),
        yaxis=dict(title_text=y_title, **(dict(type="log", dtick=1, exponentformat="power") if log else {})),
    )
    said = "; ".join(f"{name}: {_course_of(y, x, x_title)}" for name, y in series.items())
    return Figure(traces, layout, title=title, alt=f"lines of {y_title} over {x_title}", summary=said)


def _course_of(y: Sequence[float], x: Sequence[float], x_title: str) -> str:
    top = max(range(len(y)), key=y.__getitem__)
    return f"{y[0]:.3g} first, {y[top]:.3g} at most (at {x_title} {x[top]}), {y[-1]:.3g} last"
