"""What a lesson's exercise cells call: the decorator over the learner's function, its check, hints and the solution."""

import functools
import html
import inspect
import textwrap
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from . import registry
from .judging import Verdict, judge
from .running import SECONDS, Todo, run
from .show import Tone, say, show
from .store import record_status

P = ParamSpec("P")
R = TypeVar("R")

SEED = 0  # of the notebook's probes; a grader takes another
TONES: dict[str, Tone] = {"pass": "good", "todo": "open"}  # all else is bad
LEVELS = ("question", "formula", "pseudocode")

_attempts: dict[str, Callable] = {}  # the learner's functions as last defined, by exercise
_hints_seen: dict[str, int] = {}


def exercise(id: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark the learner's function. While it says `raise Todo` the reference answers, so that the lesson goes on."""
    asked = registry.find(id)

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        if fn.__name__ != asked.name:
            raise ValueError(f"{id}: the function is called {asked.name}, not {fn.__name__}: give it its name back")
        _attempts[id] = fn
        yours, reference, told = asked.answer(fn), asked.answer(asked.reference), False

        @functools.wraps(fn)
        def answer(*args: P.args, **kwargs: P.kwargs) -> R:
            nonlocal told
            try:
                return yours(*args, **kwargs)
            except Todo:
                if not told:
                    told = True
                    say("open", f"{asked.name}: not written yet, the reference answers")
                return reference(*args, **kwargs)

        return answer

    return decorate


def check(id: str, *, seconds: float = SECONDS) -> None:
    """Try the learner's function on the exercise's probes, say how it went, and record it."""
    asked = registry.find(id)
    if id not in _attempts:
        say("open", f"{id}: run the cell that defines {asked.name} first, then this one")
        return
    verdict = verdict_on(asked, _attempts[id], seconds)
    say(TONES.get(verdict.status, "bad"), f"{id}: {_word(verdict)}", *verdict.lines())
    record_status(id, verdict.status)


def verdict_on(asked: registry.Exercise, fn: Callable, seconds: float = SECONDS, seed: int = SEED) -> Verdict:
    """Both halves of a check: run the function, judge the outcomes."""
    return judge(asked, asked.probes(seed), run(asked.answer(fn), asked.probes(seed), seconds))


def hint(id: str, level: int | None = None) -> None:
    """Show the next hint, or the one of this level: 1 asks a question, 2 gives the formula, 3 pseudocode."""
    last = len(registry.find(id).hints)
    level = min(_hints_seen.get(id, 0) + 1, last) if level is None else level
    say("note", f"{id}: hint {level} of {last}", *hint_text(id, level).splitlines())
    _hints_seen[id] = level


def hint_text(id: str, level: int) -> str:
    """The hint of this level."""
    hints = registry.find(id).hints
    if level not in range(1, len(hints) + 1):
        raise ValueError(f"level: expected 1 to {len(hints)} ({', '.join(LEVELS)}), got {level!r}")
    return textwrap.dedent(hints[level - 1]).strip()


def solve(id: str) -> None:
    """Show the solution."""
    text = solve_text(id)
    show(text, f"<pre>{html.escape(text)}</pre>")


def solve_text(id: str) -> str:
    """The solution: the source of the exercise's reference."""
    return textwrap.dedent(inspect.getsource(registry.find(id).reference)).strip()


def _word(verdict: Verdict) -> str:
    if verdict.status in ("wrong", "mistake"):
        return f"wrong {verdict.property}"
    return {"timeout": "out of time", "error": "an error"}.get(verdict.status, verdict.status)
