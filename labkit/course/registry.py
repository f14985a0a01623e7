"""What an exercise is, and where the exercises are: the tuple `EXERCISES` in labkit/<room>/exercises.py."""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import labkit

# The largest error, relative to the largest entry that is wanted, which still counts as rounding.
TOLERANCE: Mapping[torch.dtype, float] = {
    torch.float64: 1e-9,
    torch.complex128: 1e-9,
    torch.float32: 1e-4,
    torch.complex64: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 3e-2,
}


@dataclass(frozen=True)
class Call:
    """The arguments of one probe."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


def call(*args: Any, **kwargs: Any) -> Call:
    """A probe, written as the call that it is: `call(scores, n_sink=1)`."""
    return Call(args, kwargs)


Probes = Sequence[Call | tuple[Any, ...]]  # a plain tuple holds positional arguments


@dataclass(frozen=True)
class Mistake:
    """A known wrong answer: `name` completes "This is …", `look` says what to look at."""

    name: str
    fn: Callable[..., Any]
    look: str


@dataclass(frozen=True)
class Exercise:
    """One exercise. `reference` has the name and signature that the learner's function has, and is the solution shown.

    `probes(seed)` gives the arguments it is tried on, the smallest first, the same for the same seed. `hints`: a
    question, the formula, pseudocode. `lines`: about how many the solution has. `alternatives` are other right answers.
    `through`, where an answer is not simply called on a probe, makes a function of the probe's arguments of it: an
    answer that is a kernel must be launched, see launching.py; one that must not do something may be watched.
    """

    id: str
    reference: Callable[..., Any]
    probes: Callable[[int], Probes]
    mistakes: Sequence[Mistake]
    hints: Sequence[str]
    minutes: int
    difficulty: int
    lines: int
    alternatives: Sequence[Callable[..., Any]] = ()
    tolerance: Mapping[torch.dtype, float] = field(default_factory=lambda: TOLERANCE)
    through: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None

    @property
    def name(self) -> str:
        """The name of the function that the learner writes."""
        return self.reference.__name__

    def answer(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """The function of a probe's arguments that an answer is: mostly `fn` itself."""
        return fn if self.through is None else self.through(fn)


def rooms() -> list[str]:
    """The rooms that have exercises; a room that would fail to import is among them all the same."""
    folders = [Path(place, module.name) for place in labkit.__path__ for module in pkgutil.iter_modules([place])]
    return [folder.name for folder in folders if "exercises" in {m.name for m in pkgutil.iter_modules([str(folder)])}]


def exercises(room: str) -> tuple[Exercise, ...]:
    """The exercises of a room, in the order of its lesson."""
    if room not in rooms():
        raise LookupError(f"there is no room {room!r} with exercises{_near(room, rooms())}")
    return tuple(importlib.import_module(f"labkit.{room}.exercises").EXERCISES)


def find(id: str) -> Exercise:
    """The exercise "room.name"."""
    room, _, _ = id.partition(".")
    known = {exercise.id: exercise for exercise in (exercises(room) if room in rooms() else ())}
    if id not in known:
        every = list(known) or [exercise.id for name in rooms() for exercise in exercises(name)]
        raise LookupError(f"there is no exercise {id!r}{_near(id, every)}")
    return known[id]


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or sorted(names)[:3]
    return f": did you mean {' or '.join(near)}?" if near else ", and no room has any yet"
