"""The two static charts that lessons draw most: bars of a few named numbers, lines over a common axis."""

from collections.abc import Mapping, Sequence

from .theme import BLUE, FAINT, Figure, token


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
