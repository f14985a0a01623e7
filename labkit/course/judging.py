"""The half of a check that compares: `judge` holds outcomes against the reference's, and calls no learner's code."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .compare import Fault, faults, precision
from .plain import describe, plain
from .registry import TOLERANCE, Call, Exercise, Probes
from .running import Outcome, as_call, outcome

__all__ = ["TOLERANCE", "Verdict", "judge"]

# What is looked at, in this order: there is no sense in comparing values while the shapes differ.
PROPERTIES = ("returned", "type", "shape", "dtype", "inputs", "finite", "values")


@dataclass(frozen=True)
class Verdict:
    """What became of an attempt: the property that failed, on the smallest probe that shows it, got and wanted."""

    status: Literal["todo", "pass", "mistake", "wrong", "error", "timeout"]
    message: str
    property: str = ""
    probe: str = ""
    got: str = ""
    wanted: str = ""
    mistake: str = ""
    look: str = ""

    def lines(self) -> list[str]:
        """The verdict in words, a line for each thing that there is to say."""
        said = [self.message]
        if self.probe:
            said.append(f"on {self.probe}" + (f": got {self.got}, wanted {self.wanted}" if self.wanted else ""))
        if self.mistake:
            said.append(f"This is {self.mistake}: {self.look}")
        return said


Answered = Callable[[Callable, int], Outcome]  # what one of the house's own answers does with a probe, by its number


def answers(exercise: Exercise, probes: Probes) -> Answered:
    """Asks the house's answers when it is called; a grader, which asks the same a hundred times, caches it."""
    return lambda fn, i: outcome(exercise.answer(fn), probes[i])


def judge(exercise: Exercise, probes: Probes, outcomes: Sequence[Outcome], answered: Answered | None = None) -> Verdict:
    """Hold what a function did on these probes against what the reference does, and name the mistake if it is known."""
    answered = answered or answers(exercise, probes)
    stopped = _stopped(exercise, probes, outcomes)
    if stopped is not None and stopped.status != "error":
        return stopped
    if stopped is None:
        found = [
            (PROPERTIES.index(fault.property), i, fault)
            for i, probe in enumerate(probes)
            for fault in compared(exercise, probe, outcomes[i], answered(exercise.reference, i))
        ]
        if not found:
            return Verdict("pass", f"all {len(probes)} probes agree")
        _, i, fault = min(found, key=lambda ranked: ranked[:2])
        stopped = Verdict("wrong", fault.message, fault.property, shown(exercise, probes[i]), fault.got, fault.wanted)
    return _named(exercise, probes, outcomes, stopped, answered)


def compared(exercise: Exercise, probe: Call | tuple, got: Outcome, wanted: Outcome) -> list[Fault]:
    """How an outcome that returned differs from the wanted one, which returned as well."""
    given = as_call(probe)
    found = list(faults(got.value, wanted.value, exercise.tolerance, precision(plain([given.args, given.kwargs]))))
    for key in [key for key in got.changed if key not in wanted.changed][:1]:
        name = _parameters(exercise, given).get(key) or str(key)
        found.append(
            Fault("inputs", f"{exercise.name} changes its argument `{name}`: make a new one and leave it alone")
        )
    return found


def shown(exercise: Exercise, probe: Call | tuple) -> str:
    """A probe as a call, tensors by dtype and shape: "step(state float32 (3, 4), beta=0.3)"."""
    given, names = as_call(probe), _parameters(exercise, as_call(probe))
    said = []
    for key, value in (dict(enumerate(given.args)) | given.kwargs).items():
        argument, name = plain(value), names.get(key, "")
        said.append(f"{name}{' ' if isinstance(argument, Tensor) else '='}{describe(argument)}".lstrip(" ="))
    return f"{exercise.name}({', '.join(said)})"


def _parameters(exercise: Exercise, given: Call) -> dict[int | str, str]:
    """The reference's name for each argument, by position or keyword."""
    names = list(inspect.signature(exercise.reference).parameters)
    return dict(enumerate(names[: len(given.args)])) | {key: key for key in given.kwargs}


def _stopped(exercise: Exercise, probes: Probes, outcomes: Sequence[Outcome]) -> Verdict | None:
    """The verdict when the function did not return on every probe."""
    name = exercise.name
    todo = [i for i, got in enumerate(outcomes) if got.status == "todo"]
    late = [i for i, got in enumerate(outcomes) if got.status == "timeout"]
    broken = [i for i, got in enumerate(outcomes) if got.status == "error"]
    if todo and any(got.status == "returned" for got in outcomes):
        on = shown(exercise, probes[todo[0]])
        return Verdict(
            "todo", f"{name} answers some inputs and still meets `raise Todo` on others: remove it", probe=on
        )
    if todo and outcomes[todo[0]].started:
        return Verdict("todo", f"`raise Todo` is still there, after your code: remove it, and {name} is yours")
    if todo:
        lines = "1 line" if exercise.lines == 1 else f"{exercise.lines} lines"
        return Verdict("todo", f"not written yet: put about {lines} in place of `raise Todo`")
    if late:
        return Verdict("timeout", outcomes[late[0]].message, "time", shown(exercise, probes[late[0]]))
    if broken:
        return Verdict("error", outcomes[broken[0]].message, "error", shown(exercise, probes[broken[0]]))
    if len(outcomes) != len(probes):
        return Verdict("error", f"{name} answered {len(outcomes)} of {len(probes)} probes", "error")
    return None


def _named(
    exercise: Exercise, probes: Probes, outcomes: Sequence[Outcome], verdict: Verdict, answered: Answered
) -> Verdict:
    """The same verdict, with the name of the known mistake that does the same on every probe, if there is one."""

    def does_the_same(fn: Callable) -> bool:
        return len(outcomes) == len(probes) and all(
            _alike(exercise, probe, outcomes[i], answered(fn, i)) for i, probe in enumerate(probes)
        )

    if does_the_same(exercise.reference):  # an error that is not the learner's
        return verdict
    for mistake in exercise.mistakes:
        if does_the_same(mistake.fn):
            said = (verdict.message, verdict.property, verdict.probe, verdict.got, verdict.wanted)
            return Verdict("mistake", *said, mistake.name, mistake.look)
    return verdict


def _alike(exercise: Exercise, probe: Call | tuple, got: Outcome, twin: Outcome) -> bool:
    ended_alike = (got.status, got.error, got.changed) == (twin.status, twin.error, twin.changed)
    return ended_alike and not compared(exercise, probe, got, twin)
