"""Explorers: controls above, numbers beside them, one live picture below, redrawn in place as a control moves.

An explorer is a pure function `figure(**controls) -> Figure` and a widget for each of its arguments. Tests call the
function over the corners of the controls; the page only ever sees what it returned.
"""

import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from html import escape
from typing import Any

import ipywidgets as w

from .live import LiveFigure
from .theme import Figure

LABEL = "font:11px system-ui;color:var(--jp-ui-font-color2);white-space:nowrap;letter-spacing:.03em"
NUMBER = (
    "font:600 18px/1.15 system-ui;color:var(--jp-ui-font-color1);white-space:nowrap;font-variant-numeric:tabular-nums"
)
UNSEEN = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)"
CONTROL = {"style": {"description_width": "92px"}, "layout": {"width": "300px"}}


class Explorer(w.VBox):
    """One widget: `controls` (argument name -> ipywidget) drive `figure`, whose numbers and words are shown with it.

    A move redraws the same plot in place. An error is shown under the controls instead of disappearing into the log.
    """

    def __init__(self, figure: Callable[..., Figure], controls: Mapping[str, w.ValueWidget]):
        self.figure = lru_cache(maxsize=64)(figure)  # it is pure, so a step back costs no drawing
        self.controls = dict(controls)
        first = self.picture()
        self.live = LiveFigure(first)
        self._summary = first.summary
        self._cards = {name: w.HTML() for name in first.cards}
        self._words, self._error = w.HTML(), w.HTML()
        for control in self.controls.values():
            control.observe(self.redraw, "value")
        self._say(first)
        inputs = w.VBox(list(self.controls.values()))
        cards = w.HBox(list(self._cards.values()), layout=w.Layout(flex_flow="row wrap", align_items="center"))
        for card in self._cards.values():
            card.layout.margin = "0 0 0 28px"
        top = w.HBox([inputs, cards], layout=w.Layout(flex_flow="row wrap", align_items="center"))
        super().__init__([top, self._error, self.live, self._words], layout=w.Layout(width=f"{first.layout.width}px"))
        self.add_class("labkit-explorer")

    def picture(self) -> Figure:
        """The figure at the controls' present values."""
        return self.figure(**{name: control.value for name, control in self.controls.items()})

    def redraw(self, _change: Any = None) -> None:
        try:
            new = self.picture()
            self.live.become(new)
            self._say(new)
            self._error.value = ""
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = escape(f"{type(error).__name__}: {error}  ({where.name}, line {where.lineno})")
            self._error.value = f"<pre style='white-space:pre-wrap;color:var(--jp-error-color1)'>{text}</pre>"

    def _say(self, figure: Figure) -> None:
        for name, value in figure.cards.items():
            self._cards[
                name
            ].value = f"<div style='{LABEL}'>{escape(name)}</div><div style='{NUMBER}'>{escape(value)}</div>"
        self._words.value = f"<div role='status' aria-live='polite' style='{UNSEEN}'>{escape(figure.summary)}</div>"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {**(super()._repr_mimebundle_(**kwargs) or {}), "text/plain": self._summary}


def pick(explorer: Explorer, trace: int, **axes: str) -> None:
    """A click on a point of the trace of that number sets controls: pick(e, 0, x="column", y="row").

    Each takes the point's x or y, rounded to its step and clipped to its range; the picture is redrawn once.
    """
    for name in axes.values():
        if not hasattr(explorer.controls[name], "step"):
            raise ValueError(f"{name}: expected a slider, which has a range and a step")

    def clicked(_trace: Any, points: Any, _state: Any) -> None:
        found = {explorer.controls[name]: getattr(points, f"{axis}s") for axis, name in axes.items()}
        if not all(found.values()):
            return
        for control, (at, *_) in found.items():
            control.unobserve(explorer.redraw, "value")
            whole = control.min + round((at - control.min) / control.step) * control.step
            control.value = min(max(whole, control.min), control.max)
            control.observe(explorer.redraw, "value")
        explorer.redraw()

    explorer.live.data[trace].on_click(clicked)


def slider(label: str, value: float, low: float, high: float, step: float = 1) -> w.ValueWidget:
    """A slider over low … high that redraws while it moves; integers if all are integers."""
    whole = all(isinstance(x, int) for x in (value, low, high, step))
    kind = w.IntSlider if whole else w.FloatSlider
    return kind(value=value, min=low, max=high, step=step, description=label, continuous_update=True, **CONTROL)


def steps(label: str, value: Any, options: Sequence) -> w.SelectionSlider:
    """A slider over a few given values."""
    return w.SelectionSlider(options=options, value=value, description=label, continuous_update=True, **CONTROL)


def choice(label: str, value: Any, options: Sequence) -> w.Dropdown:
    """One of a few; options are values or (text, value) pairs."""
    return w.Dropdown(options=options, value=value, description=label, **CONTROL)


def switch(label: str, value: bool = False) -> w.Checkbox:
    """On or off."""
    return w.Checkbox(value=value, description=label, indent=True, **CONTROL)


def text(label: str, value: str, placeholder: str = "") -> w.Text:
    """The learner's own text; takes effect on Enter."""
    return w.Text(
        value=value,
        placeholder=placeholder,
        description=label,
        continuous_update=False,
        style={"description_width": "92px"},
        layout={"width": "600px"},
    )
