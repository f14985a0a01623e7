"""The live plot inside an explorer: plotly's FigureWidget, mended where it hurts in a lab full of figures.

The stock widget sends plotly.js (5 MB) to the page once a figure, draws before its data has arrived on a loaded
machine, echoes every trace back after each redraw, and forgets its data when the page is reloaded. Here the library
travels once a kernel and the rest is put right. This leans on the bundle's default export and on the names of plotly's
messages, so plotly is pinned and a browser test watches.
"""

import copy
import re
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import plotly
import plotly.graph_objects as go

from .theme import CONFIG, Figure

_SOURCE = (Path(plotly.__file__).parent / "package_data" / "widgetbundle.js").read_text(encoding="utf8")
_EXPORT = re.compile(r"export\s*\{[^{}]*?(?P<name>[\w$]+)\s+as\s+default\s*\};")

_WRAPPER = """
const soon = () => new Promise(resolve => setTimeout(resolve, 25));
async function when(ready, tries) { while (!ready() && tries-- > 0) await soon(); }

// One batch_update over traces with different properties marks the absent ones "_undefined_"; drawn as it is, the
// marker would wipe those properties, so it becomes a real undefined.
function unmarked(x) {
  if (x === "_undefined_") return undefined;
  if (Array.isArray(x)) return x.map(unmarked);
  if (x && Object.getPrototypeOf(x) === Object.prototype)
    return Object.fromEntries(Object.entries(x).map(([key, value]) => [key, unmarked(value)]));
  return x;
}

// The model as plotly's code sees it: messages from Python unmarked, and no traces sent back to it.
function tidied(model) {
  const get = key => key.startsWith("_py2js_") ? unmarked(model.get(key)) : model.get(key);
  const set = (key, value) => model.set(key, key === "_js2py_traceDeltas" && value
    ? { trace_deltas: [], trace_edit_id: value.trace_edit_id } : value);
  return new Proxy(model, { get(target, key) {
    if (key === "get") return get;
    if (key === "set") return set;
    const member = target[key];
    return typeof member === "function" ? member.bind(target) : member;
  } });
}

export default async () => {
  await when(() => globalThis.__labkit_plotly, 2400);
  const stock = globalThis.__labkit_plotly();
  return {
    initialize: context => stock.initialize({ ...context, model: tidied(context.model) }),
    async render(context) {
      await when(() => Object.keys(context.model.get("_widget_layout") || {}).length, 400);
      return stock.render(context);
    },
  };
};
"""


def _bundle_source() -> str:
    exports = list(_EXPORT.finditer(_SOURCE))
    if not exports:
        raise ImportError(
            f"plotly {plotly.__version__}: its widget bundle has no default export; labkit needs the pinned version"
        )
    last = exports[-1]
    publish = f"globalThis.__labkit_plotly = {last['name']}; export default {{ initialize() {{}}, render() {{}} }};"
    return _SOURCE[: last.start()] + publish + _SOURCE[last.end() :]


class _Bundle(anywidget.AnyWidget):
    """plotly.js itself, sent to the page when the first figure is made; shows nothing."""

    _esm = _bundle_source()


_bundles: list[_Bundle] = []


class LiveFigure(go.FigureWidget):
    """A plot on the page that `become`s another figure without being drawn anew."""

    _esm = _WRAPPER

    def __init__(self, figure: Figure):
        if not _bundles:
            _bundles.append(_Bundle())
        super().__init__(figure.to_dict())
        self._config = CONFIG

    def become(self, figure: Figure) -> None:
        """Take over what differs in the figure's traces and layout, in one message."""
        if len(figure.data) != len(self.data):
            raise ValueError(
                f"figure: expected {len(self.data)} traces as before, got {len(figure.data)}; keep empty ones"
            )
        with self.batch_update():
            for mine, new in zip(self.data, figure.data, strict=True):
                _take_over(mine, new)
            _take_over(self.layout, figure.layout)

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict:
        # a page that is reloaded asks for the whole state, and should get today's traces
        if key is None and getattr(self, "_layout_obj", None) is not None:
            self._trait_values["_widget_data"] = copy.deepcopy(self._data)
            self._trait_values["_widget_layout"] = copy.deepcopy(self._layout_obj._props)
        return super().get_state(key, drop_defaults)


def _take_over(mine: Any, new: Any) -> None:
    before, after = mine._props or {}, new._props or {}
    for name in (before.keys() | after.keys()) - {"uid", "type", "meta", "template"}:
        if not _same(before.get(name), after.get(name)):
            mine[name] = after.get(name)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return (
            isinstance(a, np.ndarray)
            and isinstance(b, np.ndarray)
            and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and a == b
