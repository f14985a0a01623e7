"""Are the exercises themselves any good: `labkit audit` tries on each what learners will do, right and wrong."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from .attempts import verdict_on
from .judging import Verdict, answers, judge
from .mutants import kill
from .registry import Exercise, exercises, rooms
from .running import Todo, run
from .show import grid

SEEDS = (0, 1, 2)  # of the notebook's probes, and of two sets that no notebook shows
ENOUGH = 0.9  # of the mutants


@dataclass(frozen=True)
class Audit:
    """What one exercise's checks noticed, and what they got wrong."""

    id: str
    stub: str  # what is said of `raise Todo`
    right: int
    false_alarms: dict[str, str]  # right answers that do not pass, and what they are told
    mistakes: int
    misnamed: dict[str, str]  # mistakes that are not called by their own name, on any seed's probes, and what instead
    killed: int
    survivors: list[str]  # mutants that no probe notices, though they answer differently

    @property
    def good(self) -> bool:
        """Whether every answer is told what it is, and nine of ten mutants are noticed."""
        mutants = self.killed + len(self.survivors)
        told = self.stub == "todo" and not self.false_alarms and not self.misnamed
        return told and self.killed >= ENOUGH * mutants

    def row(self) -> list[str]:
        """One line of the table."""
        right, named, mutants = (
            f"{total - len(missed)} of {total}"
            for total, missed in (
                (self.right, self.false_alarms),
                (self.mistakes, self.misnamed),
                (self.killed + len(self.survivors), self.survivors),
            )
        )
        return [self.id, self.stub, right, named, mutants, "✓" if self.good else "✗"]


HEAD = ["exercise", "stub", "right answers pass", "mistakes named", "mutants noticed", ""]


def audit(exercise: Exercise) -> Audit:
    """Try the stub, the reference and its alternatives, every known mistake, and the reference with small changes."""
    killed, survivors = kill(exercise)
    return Audit(
        exercise.id,
        untouched(exercise),
        1 + len(exercise.alternatives),
        {name: said for seed in SEEDS for name, said in false_alarms(exercise, seed).items()},
        len(exercise.mistakes),
        {name: said for seed in SEEDS for name, said in misnamed(exercise, seed).items()},
        killed,
        survivors,
    )


def audits(names: Iterable[str]) -> Iterator[Audit]:
    """Those of these rooms, one after another; of all rooms when there is no name."""
    for room in list(names) or rooms():
        yield from map(audit, exercises(room))


def untouched(exercise: Exercise) -> str:
    """What is said of an exercise that nobody has begun."""

    def stub(*args: object, **kwargs: object) -> None:
        raise Todo

    return verdict_on(exercise, stub).status


def false_alarms(exercise: Exercise, seed: int) -> dict[str, str]:
    """The right answers that do not pass on this seed's probes, and what they were told."""
    verdicts = verdicts_on(exercise, {fn.__name__: fn for fn in (exercise.reference, *exercise.alternatives)}, seed)
    return {name: " · ".join(v.lines()) for name, v in verdicts.items() if v.status != "pass"}


def misnamed(exercise: Exercise, seed: int) -> dict[str, str]:
    """The mistakes that are not called by their own name on this seed's probes, and what they were told."""
    verdicts = verdicts_on(exercise, {mistake.name: mistake.fn for mistake in exercise.mistakes}, seed)
    wrong = {name: v for name, v in verdicts.items() if (v.status, v.mistake) != ("mistake", name)}
    return {name: " · ".join(v.lines()) for name, v in wrong.items()}


def verdicts_on(exercise: Exercise, fns: Mapping[str, Callable], seed: int) -> dict[str, Verdict]:
    """What is said of each function on this seed's probes; what the house's answers give is computed once."""
    probes = exercise.probes(seed)
    answered = functools.cache(answers(exercise, probes))
    return {name: judge(exercise, probes, run(exercise.answer(fn), probes), answered) for name, fn in fns.items()}


def audit_table(found: Iterable[Audit]) -> str:
    """The audits as aligned text, and under it what is not as it should be."""
    found = list(found)
    wrong = [f"{a.id}, {name}: {said}" for a in found for name, said in (a.false_alarms | a.misnamed).items()]
    missed = [f"{a.id}, not noticed: {said}" for a in found for said in a.survivors]
    return "\n".join([grid([HEAD, *(a.row() for a in found)]), *wrong, *missed])
