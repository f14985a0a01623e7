"""The one plotly theme, and figures that also speak text.

A figure's picture is for eyes; its `summary` says the same in a few rounded numbers: for screen readers, for the web
(where plotly does not draw), for whoever reviews a diff, and for the tests, which compare it word for word.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

INK, GRID = "#768390", "rgba(128,128,128,.22)"  # mid grey: readable on JupyterLab's white and on its black
BLUE, ORANGE, TEAL, PINK, FAINT = "#2563eb", "#d97706", "#0d9488", "#be185d", "rgba(128,128,128,.35)"
RED, _STOPS = "rgb(229,56,84)", [n / 10 for n in range(11)]
# Around 0: red −, blue +, and 0 is the page's own white or black. The colour grows as |w|^(2/3), so that a twentieth of
# the largest is still seen.
SIGNED = [[(1 - v**1.5) / 2, f"rgba(229,56,84,{v})"] for v in _STOPS[::-1]]
SIGNED += [[(1 + v**1.5) / 2, f"rgba(59,126,246,{v})"] for v in _STOPS[1:]]
SEQUENTIAL = ["#f7fbff", "#d0e1f2", "#94c4df", "#4a98c9", "#1764ab", "#08306b"]
WIDTH = 760  # px: what JupyterLab's output area holds at a 1180 px window

_axis = dict(
    gridcolor=GRID, zeroline=False, linecolor=GRID, ticks="outside", ticklen=3, tickcolor=GRID, title_standoff=6
)
TEMPLATE = go.layout.Template(
    layout=dict(
        font=dict(family="system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif", size=12, color=INK),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin=dict(l=48, r=10, t=34, b=40),
        colorway=[BLUE, ORANGE, TEAL, PINK],
        title=dict(font_size=13, x=0, xanchor="left", xref="paper", y=1, yanchor="bottom", yref="paper", pad_b=14),
        xaxis=_axis,
        yaxis=_axis,
        hoverlabel_font_size=12,
        legend=dict(
            orientation="h", x=1, xanchor="right", y=1.0, yanchor="bottom", font_size=11, bgcolor="rgba(0,0,0,0)"
        ),
        uirevision="keep",
    ),
    data=dict(heatmap=[go.Heatmap(colorscale=[[i / 5, c] for i, c in enumerate(SEQUENTIAL)], hoverongaps=False)]),
)
pio.templates["labkit"] = TEMPLATE
CONFIG = {"displayModeBar": False}


class Figure(go.Figure):
    """A plotly figure with a title that asks, alt text that says what is drawn, and a summary that says what it shows.

    data: traces as plotly dicts; layout: a plotly layout as a dict; cards: name -> value, numbers worth reading large.
    """

    def __init__(
        self,
        data: Sequence[Mapping],
        layout: Mapping,
        *,
        title: str,
        alt: str,
        summary: str,
        cards: Mapping[str, str] | None = None,
    ):
        start = {"template": "labkit", "width": WIDTH, "height": 320, "showlegend": False}
        layout = {**start, "title": {"text": escape(title)}, **layout}
        super().__init__({"data": list(data), "layout": layout})
        words = {"title": title, "alt": alt, "summary": summary, "cards": dict(cards or {})}
        self.update_layout(meta=words)

    @property
    def alt(self) -> str:
        return self.layout.meta["alt"]

    @property
    def summary(self) -> str:
        """Title, alt text and numbers, as deterministic plain text."""
        cards = "; ".join(f"{name} {value}" for name, value in self.cards.items())
        said = f"{self.layout.meta['title']}  [{self.alt}]", self.layout.meta["summary"], cards
        return "\n".join(filter(None, said))

    @property
    def cards(self) -> dict[str, str]:
        return self.layout.meta["cards"]

    _ipython_display_ = None  # plotly's own would win over the bundle below, and says nothing in words
    _repr_html_ = None  # plotly's would put a script from the network beside it

    def _repr_mimebundle_(self, *_: Any, **__: Any) -> dict[str, Any]:
        picture = json.loads(self.to_json(validate=False)) | {"config": CONFIG}
        return {"application/vnd.plotly.v1+json": picture, "text/plain": self.summary}


def grid(z: Any) -> dict[str, str]:
    """2-D numbers for a heatmap as a typed array in base64 (a fifth of the JSON text's bytes). NaN draws as a gap."""
    z = np.ascontiguousarray(z, np.float32)
    if z.ndim != 2:
        raise ValueError(f"z: expected two dimensions, got {z.shape}")
    return {"dtype": "f4", "bdata": base64.b64encode(z.tobytes()).decode(), "shape": f"{z.shape[0]}, {z.shape[1]}"}


def token(text: str) -> str:
    """A token as a label: spaces and line ends made visible, and escaped, since plotly reads labels as HTML."""
    shown = text.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")
    return escape(shown) or "∅"
