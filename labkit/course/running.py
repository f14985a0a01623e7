"""The half of a check that executes: `run` calls a function on probes and writes down what happened."""

import copy
import linecache
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from .limit import TimeLimit, TimeUp
from .plain import plain, same
from .registry import Call, Probes

SECONDS = 10.0  # for all probes together; a reference needs milliseconds


class Todo(Exception):
    """Stands where the learner's code will be: `raise Todo`."""


@dataclass(frozen=True)
class Outcome:
    """What a function did with one probe, as plain data that can cross a process."""

    status: Literal["returned", "todo", "error", "timeout"]
    value: Any = None  # what it returned, see plain.py
    error: str = ""  # the class of what it raised
    message: str = ""  # what it raised and where, in one line
    changed: tuple[int | str, ...] = ()  # the arguments, by position or keyword, that are no longer what they were
    started: bool = False  # whether other lines ran before `raise Todo`


def run(fn: Callable[..., Any], probes: Probes, seconds: float = SECONDS) -> list[Outcome]:
    """Call `fn` on each probe's own copy of its arguments; the last outcome is a time-out when `seconds` ran out."""
    outcomes: list[Outcome] = []
    try:
        with TimeLimit(seconds):
            for probe in probes:
                outcomes.append(outcome(fn, probe))
    except TimeUp as stop:
        outcomes.append(Outcome("timeout", message=f"not done after {seconds:g} s{_where(stop, fn)}"))
    return outcomes[: len(probes)]  # time can run out after the last probe


def outcome(fn: Callable[..., Any], probe: Call | tuple[Any, ...]) -> Outcome:
    """Call `fn` on a copy of one probe's arguments."""
    given = as_call(probe)
    args, kwargs = copy.deepcopy((given.args, given.kwargs))
    try:
        value = plain(fn(*args, **kwargs))  # at once: what was returned may change in a later call
    except Todo as error:
        return Outcome("todo", started=_started(error, fn))
    except (KeyboardInterrupt, TimeUp):
        raise
    except BaseException as error:  # SystemExit too: `sys.exit()` must not end the lesson
        return Outcome("error", error=type(error).__name__, message=_one_line(error) + _where(error, fn))
    before, after = dict(enumerate(given.args)) | given.kwargs, dict(enumerate(args)) | kwargs
    changed = tuple(key for key in before if not same(plain(before[key]), plain(after[key])))
    return Outcome("returned", value=value, changed=changed)


def as_call(probe: Call | tuple[Any, ...]) -> Call:
    """A probe's arguments, whichever way it was written."""
    return probe if isinstance(probe, Call) else Call(tuple(probe))


def _one_line(error: BaseException) -> str:
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
    text = text.removeprefix(f"{type(error).__module__}.")
    return text if len(text) <= 200 else f"{text[:197]}..."


def _learners(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The learner's function, where another one stands around it."""
    return getattr(fn, "__wrapped__", fn)


def _frames(error: BaseException, fn: Callable[..., Any]) -> list[TracebackType]:
    """The steps of the traceback that are in the learner's cell, the deepest last."""
    code, step, frames = getattr(_learners(fn), "__code__", None), error.__traceback__, []
    while step is not None:
        if code is not None and step.tb_frame.f_code.co_filename == code.co_filename:
            frames.append(step)
        step = step.tb_next
    return frames


def _where(error: BaseException, fn: Callable[..., Any]) -> str:
    """ "at line 3 of step: `x / 0`", counted from the decorator, so that it is the line of the exercise's cell."""
    frames = _frames(error, fn)
    if not frames:
        return ""
    fn = _learners(fn)
    text = linecache.getline(fn.__code__.co_filename, frames[-1].tb_lineno).strip()
    line = frames[-1].tb_lineno - fn.__code__.co_firstlineno + 1
    place = f"line {line} of {fn.__name__}" if line > 0 else f"{frames[-1].tb_frame.f_code.co_name}"
    return f" at {place}: `{text}`" if text else f" at {place}"


def _started(error: Todo, fn: Callable[..., Any]) -> bool:
    """Whether the `raise Todo` that was met is not the first statement of the function."""
    frames = _frames(error, fn)
    if not frames:
        return False
    code = _learners(fn).__code__
    lines = [line for *_, line in code.co_lines() if line is not None and line > code.co_firstlineno]
    return frames[0].tb_lineno > min(lines, default=0)
