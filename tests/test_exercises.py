"""The contract of every exercise of every room: a new room's are found and held to it without a change here."""

import ast
import copy
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toy import toy_room  # noqa: F401

import kernels
from labkit.course import Exercise, Mistake, call, exercises, find, judge, launching, rooms, run
from labkit.course.attempts import verdict_on
from labkit.course.audit import ENOUGH, SEEDS, audit, audit_table, false_alarms, misnamed, untouched
from labkit.course.mutants import defined, kill
from labkit.course.plain import Other, plain, same, tensors
from labkit.course.running import as_call

HOUSE = [exercise for room in rooms() for exercise in exercises(room)]
interpreted = pytest.mark.skipif(
    kernels.WHERE != "interpreted", reason="a kernel's mistakes are caught by the interpreter"
)


def is_kernel(exercise: Exercise) -> bool:
    """Whether the answer is a kernel to be launched; other exercises may have a `through` of their own."""
    return exercise.through is not None and exercise.through.__module__ == launching.__name__


every_exercise = pytest.mark.parametrize(
    "exercise",
    [pytest.param(exercise, id=exercise.id, marks=[interpreted] if is_kernel(exercise) else []) for exercise in HOUSE],
)


@pytest.mark.parametrize("room", rooms())
def test_a_room_has_exercises_and_each_is_found_by_its_own_name(room):
    asked = exercises(room)
    assert asked and all(isinstance(exercise, Exercise) for exercise in asked)
    assert len({exercise.id for exercise in asked}) == len(asked)
    assert [find(exercise.id) for exercise in asked] == list(asked)
    for exercise in asked:
        assert exercise.id == f"{room}.{exercise.name}", "the id ends in the name of the function that is asked for"


@every_exercise
def test_an_exercise_says_what_a_learner_wants_to_know(exercise):
    assert len(exercise.hints) == 3 and all(hint.strip() for hint in exercise.hints)
    assert len(set(exercise.hints)) == 3
    assert type(exercise.minutes) is int and 1 <= exercise.minutes <= 60
    assert exercise.difficulty in (1, 2, 3, 4, 5)
    assert len(exercise.alternatives) >= 1 and len(exercise.mistakes) >= 3
    names = [mistake.name for mistake in exercise.mistakes]
    assert len(set(names)) == len(names)
    for mistake in exercise.mistakes:
        assert mistake.name[:1].islower() and mistake.name[-1] != ".", f"{mistake.name!r} does not complete 'This is …'"
        assert mistake.look.strip()


@every_exercise
def test_the_number_of_lines_that_is_announced_is_about_right(exercise):
    body = solution(exercise).body
    lines = sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in body if not is_docstring(node))
    assert lines / 2 <= exercise.lines <= 2 * lines


@every_exercise
def test_what_nobody_has_written_yet_is_to_do(exercise):
    assert untouched(exercise) == "todo"


@every_exercise
@pytest.mark.parametrize("seed", SEEDS)
def test_every_right_answer_passes(exercise, seed):
    assert false_alarms(exercise, seed) == {}


@every_exercise
def test_an_alternative_is_another_answer(exercise):
    for fn in exercise.alternatives:
        assert fn.__code__.co_code != exercise.reference.__code__.co_code


@every_exercise
@pytest.mark.parametrize("seed", SEEDS)
def test_every_mistake_is_called_by_its_own_name(exercise, seed):
    assert misnamed(exercise, seed) == {}


@every_exercise
def test_the_reference_answers_with_data_and_leaves_its_inputs_alone(exercise):
    for outcome in run(exercise.answer(exercise.reference), exercise.probes(0)):
        assert outcome.status == "returned" and outcome.value is not None
        assert outcome.changed == ()
        assert not any(isinstance(leaf, Other) for leaf in leaves(outcome.value))


@every_exercise
def test_writing_into_an_input_is_noticed(exercise):
    reference, probes = exercise.answer(exercise.reference), exercise.probes(0)

    def careless(*args, **kwargs):
        answer = reference(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, Tensor):
                argument.zero_() if argument.any() else argument.fill_(1)
            elif isinstance(argument, list):
                argument.reverse() if argument != argument[::-1] else argument.clear()
        return answer

    arguments = [value for probe in probes for value in values(probe)]
    if any(isinstance(value, Tensor | list) for value in arguments):
        assert judge(exercise, probes, run(careless, probes)).property == "inputs"
    else:  # whole numbers and texts cannot be written into
        assert all(type(value) in (int, float, bool, str, type(None)) for value in arguments)


@every_exercise
def test_the_probes_of_a_seed_are_always_the_same_and_another_seed_gives_others(exercise):
    first, again, other = (plain([[*values(probe)] for probe in exercise.probes(seed)]) for seed in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)


@every_exercise
def test_the_probes_are_ragged_uneven_and_of_more_than_one_dtype(exercise):
    probes = [plain([*values(probe)]) for probe in exercise.probes(0)]
    assert len(probes) >= 2
    found = [tensor for probe in probes for tensor in tensors(probe)]
    floats = [tensor for tensor in found if tensor.is_floating_point()]
    if not found:
        assert len(set(map(repr, probes))) == len(probes), "two probes are the same"
        return
    assert any(tensor.numel() > 1 and tensor.unique().numel() > 1 for tensor in found), "every tensor is constant"
    axes = [[length for tensor in tensors(probe) for length in tensor.shape] for probe in probes]
    assert len(set(map(tuple, axes))) > 1, "every probe has the same shapes"
    assert any(len(set(lengths)) > 1 for lengths in axes) or max(map(len, axes)) == 1, "all axes are of one length"
    if floats and not is_kernel(exercise):  # a kernel may be written for float32 alone
        assert len({tensor.dtype for tensor in floats}) > 1


@every_exercise
def test_the_solution_stands_on_its_own_in_a_notebook(exercise):
    source = inspect.getsource(exercise.reference)
    assert source == textwrap.dedent(source) and source.startswith(f"def {exercise.name}(")
    pasted = defined(exercise, source)
    assert verdict_on(exercise, pasted).status == "pass"


@every_exercise
def test_the_probes_notice_nine_of_ten_small_changes_to_the_reference(exercise):
    killed, survivors = kill(exercise)
    total = killed + len(survivors)
    assert killed >= 5, f"{killed} mutants say nothing about the probes"
    assert killed >= ENOUGH * total, f"{killed} of {total} noticed; not noticed:\n" + "\n".join(survivors)


def values(probe: Any) -> list[Any]:
    given = as_call(probe)
    return [*given.args, *given.kwargs.values()]


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


def solution(exercise: Exercise) -> ast.FunctionDef:
    node = ast.parse(textwrap.dedent(inspect.getsource(exercise.reference))).body[0]
    assert isinstance(node, ast.FunctionDef) and not node.decorator_list
    return node


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


# The contract itself: an exercise that breaks it is told so.


@pytest.fixture
def toy(toy_room):  # noqa: F811
    """An exercise of the made-up room in tests/rooms, which keeps the contract."""
    return find("toy.step")


CONTRACT = [
    test_an_exercise_says_what_a_learner_wants_to_know,
    test_the_number_of_lines_that_is_announced_is_about_right,
    test_what_nobody_has_written_yet_is_to_do,
    lambda exercise: test_every_right_answer_passes(exercise, 0),
    test_an_alternative_is_another_answer,
    lambda exercise: test_every_mistake_is_called_by_its_own_name(exercise, 0),
    test_the_reference_answers_with_data_and_leaves_its_inputs_alone,
    test_writing_into_an_input_is_noticed,
    test_the_probes_of_a_seed_are_always_the_same_and_another_seed_gives_others,
    test_the_probes_are_ragged_uneven_and_of_more_than_one_dtype,
    test_the_solution_stands_on_its_own_in_a_notebook,
    test_the_probes_notice_nine_of_ten_small_changes_to_the_reference,
]


def broken(exercise: Exercise) -> list[int]:
    """Which clauses of the contract an exercise breaks."""
    failed = []
    for i, clause in enumerate(CONTRACT):
        try:
            clause(exercise)
        except Exception:  # any is a failed test
            failed.append(i)
    return failed


def test_an_exercise_that_keeps_the_contract_is_let_through(toy):
    for exercise in exercises("toy"):
        assert broken(exercise) == []


def test_a_malformed_exercise_is_told_which_clause_it_breaks(toy):
    def constant(seed):
        one = torch.ones(2, 2) * (1 + seed)
        return [call(one, one[0], one[0], beta=0.5), call(one.double(), one[0].double(), one[0].double(), beta=0.5)]

    def one_dtype(seed):
        return [call(*(x.double() for x in probe.args), **probe.kwargs) for probe in toy.probes(seed)]

    def leaning_on_the_room(state, k, v, beta):
        return toy.reference(state, k, v, beta)

    twin = Mistake("the same one again", toy.mistakes[0].fn, "here")
    right = Mistake("the one that is right", toy.reference, "here")
    assert 0 in broken(replace(toy, hints=("?",)))
    assert 0 in broken(replace(toy, mistakes=toy.mistakes[:2]))
    assert 0 in broken(replace(toy, alternatives=()))
    assert 0 in broken(replace(toy, difficulty=6))
    assert 1 in broken(replace(toy, lines=12))
    assert 3 in broken(replace(toy, alternatives=(toy.mistakes[0].fn,)))
    assert 4 in broken(replace(toy, alternatives=(toy.reference,)))
    assert 5 in broken(replace(toy, mistakes=(*toy.mistakes, twin)))
    assert 5 in broken(replace(toy, mistakes=(*toy.mistakes, right)))
    assert 6 in broken(replace(toy, reference=toy.mistakes[2].fn))
    assert 8 in broken(replace(toy, probes=lambda seed: toy.probes(0)))
    assert 9 in broken(replace(toy, probes=constant))
    assert 9 in broken(replace(toy, probes=one_dtype))
    assert 10 in broken(replace(toy, reference=leaning_on_the_room))


def test_probes_that_see_little_let_mutants_through(toy):
    def window_of_nothing(seed):
        return [call(2, window=2), call(3, window=5)]

    mask = replace(find("toy.mask"), probes=window_of_nothing)
    assert kill(toy)[1] == []
    assert len(kill(mask)[1]) > 0 and 11 in broken(mask)


def test_an_audit_says_which_exercise_to_mend_and_why(toy):
    good = audit(toy)
    right, mistakes, killed = 1 + len(toy.alternatives), len(toy.mistakes), good.killed
    wanted = ["toy.step", "todo", f"{right} of {right}", f"{mistakes} of {mistakes}", f"{killed} of {killed}", "✓"]
    assert good.good and good.row() == wanted
    alarm = audit(replace(toy, alternatives=(toy.mistakes[0].fn,)))
    twin = audit(replace(toy, mistakes=(*toy.mistakes, Mistake("the same one again", toy.mistakes[0].fn, "here"))))
    assert not alarm.good and alarm.row()[2] == "1 of 2"
    assert not twin.good and list(twin.misnamed) == ["the same one again"]
    assert "toy.step, the same one again: " in audit_table([good, twin])
