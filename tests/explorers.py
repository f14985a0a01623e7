"""Finds the explorers of an open lesson and moves their controls, by keyboard in the page or by value in the kernel."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import TimeoutError

from labkit import browser as harness

FAST, SLOW = 2_000, 30_000  # ms to wait for a picture to change; a slow control computes first
SOON = 500  # before a button is pressed, if there is one


@dataclass(frozen=True)
class Control:
    """One control; `slow` means that it answers when it is let go (or after a Run button), not while it moves."""

    kind: str
    label: str
    slow: bool
    where: str  # a CSS selector

    @property
    def wait(self) -> int:
        return SLOW if self.slow else FAST


@dataclass(frozen=True)
class Explorer:
    page: Any
    where: str
    controls: tuple[Control, ...]

    @property
    def element(self) -> Any:
        return self.page.locator(self.where)

    def picture(self) -> str:
        """What is plotted, as text: the data of its figures, or the content of its images or HTML."""
        return self.page.evaluate(_PICTURE, self.where)

    def changes(self, before: str, wait: int) -> bool:
        """Whether the picture becomes another than `before` in so many milliseconds."""
        changed = f"([where, before]) => ({_PICTURE})(where) !== before"
        try:
            self.page.wait_for_function(changed, arg=[self.where, before], timeout=wait)
        except TimeoutError:
            return False
        return True


def explorers(page: Any) -> list[Explorer]:
    """The explorers of the lesson, each control marked with a class of its own, so that page and kernel agree."""
    views = "application/vnd.jupyter.widget-view+json"
    outputs = [output for cell in harness.notebook(page)["cells"] for output in cell.get("outputs", [])]
    shown = [output["data"][views]["model_id"] for output in outputs if views in output.get("data", {})]
    found = json.loads(harness.run_in_kernel(page, f"{_MARK}\n_labkit_tour({shown!r})"))
    result = []
    for number, controls in enumerate(found):
        where = f".labkit-explorer-{number}"
        page.wait_for_selector(where, timeout=30_000)
        result.append(Explorer(page, where, tuple(Control(**control) for control in controls)))
    return result


def press(explorer: Explorer, control: Control, attempt: int) -> None:
    """One step of a control by keyboard; a control at its end is moved the other way by a later attempt."""
    page = explorer.page
    forth = attempt % 4 < 2
    target = page.locator(control.where)
    match control.kind:
        case "slider":
            focus(target.get_by_role("slider").first)
            page.keyboard.press("ArrowRight" if forth else "ArrowLeft")
        case "select":
            focus(target.locator("select"))
            page.keyboard.press("ArrowDown" if forth else "ArrowUp")
        case "number":
            focus(target.locator("input"))
            page.keyboard.press("ArrowUp" if forth else "ArrowDown")
        case "checkbox":
            focus(target.locator("input"))
            page.keyboard.press("Space")
        case "choice":
            focus(target.locator("button:not(.mod-active)").nth(attempt % 2))
            page.keyboard.press("Enter")
        case "radio":
            focus(target.locator("input:checked"))
            page.keyboard.press("ArrowDown" if forth else "ArrowUp")
        case "text":
            focus(target.locator("input, textarea"))
            page.keyboard.press("End")
            page.keyboard.type(" and the sea")
            page.keyboard.press("Tab" if target.locator("textarea").count() else "Enter")
        case "button":
            focus(target)
            page.keyboard.press("Enter")


def focus(locator: Any) -> None:
    locator.scroll_into_view_if_needed()
    locator.focus()


def step(explorer: Explorer, control: Control, attempt: int) -> None:
    """One step of a control by its value, in the kernel."""
    harness.run_in_kernel(explorer.page, f"_labkit_step({control.where!r}, {attempt % 4 < 2})")


def moves(explorer: Explorer, control: Control, how: Callable[[Explorer, Control, int], None]) -> bool:
    """Whether a step of the control changes the picture; a text may want a button pressed, and a button a new text."""
    texts = [other for other in explorer.controls if other.kind == "text" and control.kind == "button"]
    buttons = [other for other in explorer.controls if other.kind == "button" and control.kind == "text"]
    for attempt in range(2 if control.slow else 4):
        for text in texts:
            how(explorer, text, attempt)
            explorer.page.wait_for_timeout(500)
        before = explorer.picture()
        how(explorer, control, attempt)
        if explorer.changes(before, SOON if buttons else control.wait):
            return True
        for button in buttons:
            how(explorer, button, 0)
            if explorer.changes(before, SLOW):
                return True
    return False


def restore(explorer: Explorer) -> None:
    """Every control as a learner finds it."""
    for control in explorer.controls:
        harness.run_in_kernel(explorer.page, f"_labkit_restore({control.where!r})")


def watch_redraws(explorer: Explorer) -> None:
    """From here on the page notes when a key went down and when the last redraw after it was finished."""
    explorer.page.evaluate(_WATCH, explorer.where)


def redraw_ms(explorer: Explorer, control: Control, attempt: int) -> float | None:
    """The milliseconds from key press to finished redraw, or None for a key that drew nothing (a slider's end)."""
    explorer.page.evaluate("() => { window.labkitKey = window.labkitDrawn = 0; }")
    press(explorer, control, attempt)
    return explorer.page.evaluate(_REDRAWN)


_PICTURE = """where => {
  const root = document.querySelector(where), seen = [];
  for (const plot of root.querySelectorAll('.js-plotly-plot')) {
    const {shapes, annotations, images} = plot.layout || {};
    seen.push(JSON.stringify([plot.data, shapes, annotations, images]));
  }
  for (const canvas of root.querySelectorAll('canvas')) seen.push(canvas.toDataURL());
  for (const image of root.querySelectorAll('img')) seen.push(image.src);
  if (!seen.length) for (const html of root.querySelectorAll('.widget-html-content')) seen.push(html.innerHTML);
  return seen.join('|');
}"""

_WATCH = """where => {
  const root = document.querySelector(where), drawn = () => { window.labkitDrawn = performance.now(); };
  root.addEventListener('keydown', () => { window.labkitKey = performance.now(); }, true);
  const plots = root.querySelectorAll('.js-plotly-plot');
  plots.forEach(plot => plot.on('plotly_afterplot', drawn));
  const watcher = new MutationObserver(drawn);
  if (!plots.length) for (const html of root.querySelectorAll('.widget-html-content, canvas, img'))
    watcher.observe(html, {subtree: true, childList: true, attributes: true, characterData: true});
}"""

# The kernel answers in order: once it has answered a request made after the key, it has sent all that the key changed;
# the request waits for the first redraw, so as not to slow it. A redraw may come in two parts, and the last one counts.
_REDRAWN = """async () => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const pause = ms => new Promise(done => setTimeout(done, ms)), took = () => window.labkitDrawn - window.labkitKey;
  for (let n = 0; n < 40 && !(took() > 0); n++) await pause(5);
  await kernel.requestExecute({code: '', silent: true, store_history: false}).done;
  let seen;
  do {
    seen = took();
    await pause(seen > 0 ? 50 : 250);
  } while (took() !== seen);
  return window.labkitKey && seen > 0 ? seen : null;
}"""

# Runs in the lesson's kernel. A display (HTML, Label, a figure) is no control; a widget that is neither is an error, so
# that no new kind of control goes untested.
_MARK = """
def _labkit_tour(shown):
    import json
    from ipywidgets.widgets.widget import _instances

    kinds = {
        "slider": "IntSlider FloatSlider FloatLogSlider SelectionSlider IntRangeSlider FloatRangeSlider",
        "select": "Dropdown Select", "number": "IntText FloatText BoundedIntText BoundedFloatText",
        "checkbox": "Checkbox", "choice": "ToggleButtons", "radio": "RadioButtons", "text": "Text Textarea Combobox",
        "button": "Button ToggleButton",
    }
    kind_of = {name: kind for kind, names in kinds.items() for name in names.split()}
    displays = "HTML HTMLMath Label Image Output Valid IntProgress FloatProgress"
    _labkit_controls.clear()

    def leaves(widget):
        for child in getattr(widget, "children", ()):
            names = [cls.__name__ for cls in type(child).__mro__]
            if kind := next((kind_of[name] for name in names if name in kind_of), None):
                if not child.disabled:
                    yield kind, child
            elif hasattr(child, "children"):
                yield from leaves(child)
            elif not any(name in displays.split() or name in ("BaseFigureWidget", "AnyWidget") for name in names):
                raise TypeError(f"no test knows how to move a {names[0]}")

    explorers = [_instances[id] for id in shown if "labkit-explorer" in getattr(_instances[id], "_dom_classes", ())]
    found = []
    for number, explorer in enumerate(explorers):
        explorer.add_class(f"labkit-explorer-{number}")
        controls = []
        for kind, widget in leaves(explorer):
            where = f".labkit-control-{len(_labkit_controls)}"
            widget.add_class(where[1:])
            _labkit_controls[where] = kind, widget
            if kind != "button":
                _labkit_found.setdefault(widget.model_id, widget.value)
            slow = kind in ("text", "button") or not getattr(widget, "continuous_update", True)
            controls.append({"kind": kind, "label": widget.description, "slow": slow, "where": where})
        found.append(controls)
    print(json.dumps(found))


def _labkit_restore(where):
    kind, widget = _labkit_controls[where]
    if kind != "button":
        widget.value = _labkit_found[widget.model_id]


def _labkit_step(where, forth):
    kind, widget = _labkit_controls[where]
    if kind == "button":
        widget.click() if hasattr(widget, "click") else setattr(widget, "value", not widget.value)
    elif kind == "checkbox":
        widget.value = not widget.value
    elif kind == "text":
        widget.value += " and the sea"
    elif hasattr(widget, "options"):
        widget.index = (widget.index + (1 if forth else -1)) % len(widget.options)
    elif isinstance(widget.value, tuple):
        low, high = widget.value
        widget.value = (low, high - widget.step) if forth else (low + widget.step, high)
    elif hasattr(widget, "base"):
        widget.value *= widget.base ** (widget.step if forth else -widget.step)
    else:
        widget.value += widget.step if forth else -widget.step


_labkit_controls = {}
_labkit_found = globals().get("_labkit_found", {})
"""
