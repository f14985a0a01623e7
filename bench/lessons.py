"""The lessons: seconds and memory of each from a fresh kernel, and Python's part of a move of an explorer's control."""

import importlib
import inspect
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ipywidgets as w

import labkit
from labkit import build
from labkit.explorer import Explorer
from labkit.peak import PeakMemory
from labkit.rounds import Row, row

MOVES = 8  # of each control, each to a value it did not have before


def main() -> Iterator[Row]:
    for lesson in build.sources():
        notebook = build.fresh(lesson)
        with PeakMemory() as peak:
            began = time.perf_counter()
            build.execute(notebook, lesson.stem)
            seconds = time.perf_counter() - began
        yield row("a lesson from a fresh kernel", lesson.stem, [seconds], "s")
        yield row("a lesson from a fresh kernel, peak memory", lesson.stem, [peak.bytes / 2**30], "GiB")
    lm = labkit.lm.load()
    for name, explore in explorers().items():
        explorer = explore(lm) if "lm" in inspect.signature(explore).parameters else explore()
        yield row("a control's move, in Python", name, [1e3 * s for s in moves(explorer)], "ms")


def explorers() -> dict[str, Callable[..., Explorer]]:
    """Every function of a room's explorer.py that makes an explorer."""
    rooms = sorted(path.parent.name for path in Path(labkit.__file__).parent.glob("*/explorer.py"))
    return {
        f"{room}.{name}": function
        for room in rooms
        for name, function in vars(importlib.import_module(f"labkit.{room}.explorer")).items()
        if name.startswith("explore")
    }


def moves(explorer: Explorer) -> list[float]:
    """Seconds of each move: the figure is drawn anew and the plot takes over what differs."""
    took = []
    for control in explorer.controls.values():
        found = control.value
        for value in values(control):
            began = time.perf_counter()
            control.value = value
            took.append(time.perf_counter() - began)
            if explorer._error.value:
                raise RuntimeError(f"{control.description} at {value}: {explorer._error.value}")
        control.value = found
    return took


def values(control: Any) -> list[Any]:
    """Up to MOVES other values of a control, over its whole range; none of a text, which waits for the learner."""
    if isinstance(control, w.Checkbox):
        return [not control.value]
    if isinstance(control, (w.IntSlider, w.FloatSlider)):
        steps = round((control.max - control.min) / control.step)
        places = dict.fromkeys(steps * i // MOVES for i in range(MOVES + 1))  # of fewer steps, each once
        several = [control.min + control.step * place for place in places]
    elif isinstance(control, (w.Dropdown, w.SelectionSlider)):
        several = [value for _, value in control._options_full if value != "your own"]
    else:
        return []
    return [value for value in several if value != control.value][:MOVES]
