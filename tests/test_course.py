"""The course engine on the made-up room in tests/rooms: every verdict, and everything that a learner may do to it."""

import re
from collections import namedtuple

import pytest
import torch
from toy import step_answer, toy_room, verdict  # noqa: F401

import labkit
from labkit import course
from labkit.course import Todo, find
from labkit.course.compare import faults
from labkit.course.plain import plain

pytestmark = pytest.mark.usefixtures("toy_room")


# Finding exercises


def test_an_unknown_name_is_answered_with_near_ones():
    with pytest.raises(LookupError, match=r"no exercise 'toy\.stpe': did you mean toy\.step"):
        find("toy.stpe")
    with pytest.raises(LookupError, match=r"no exercise 'tay\.moments': did you mean toy\.moments"):
        find("tay.moments")
    with pytest.raises(LookupError, match="no room 'toi' with exercises: did you mean toy"):
        course.exercises("toi")
    assert "toy" in course.rooms() and "course" not in course.rooms()


def test_a_room_may_keep_its_exercises_in_a_file_or_a_folder(tmp_path, monkeypatch):
    for room, file in [("one", "exercises.py"), ("two", "exercises/__init__.py"), ("three", "other.py")]:
        (tmp_path / "more" / room / file).parent.mkdir(parents=True)
        (tmp_path / "more" / room / "__init__.py").touch()
        (tmp_path / "more" / room / file).touch()
    monkeypatch.setattr(labkit, "__path__", [str(tmp_path / "more")])
    assert course.rooms() == ["one", "two"]


# Verdicts


def test_a_right_answer_passes():
    assert verdict(step_answer).status == "pass"


def test_what_is_not_written_is_to_do_and_a_todo_left_behind_is_pointed_out():
    def untouched(state, k, v, beta):
        """A docstring is no code of the learner's."""
        raise Todo

    def left_after_the_code(state, k, v, beta):
        recalled = state.T @ k
        state = state + beta * torch.outer(k, v - recalled)
        raise Todo

    def left_in_a_branch(state, k, v, beta):
        if len(k) > 4:
            raise Todo
        return step_answer(state, k, v, beta)

    assert verdict(untouched).status == "todo"
    assert "put about 2 lines in place of `raise Todo`" in verdict(untouched).message
    assert verdict(left_after_the_code).status == "todo"
    assert "still there, after your code" in verdict(left_after_the_code).message
    assert verdict(left_in_a_branch).status == "todo"
    assert "answers some inputs" in verdict(left_in_a_branch).message
    assert "(5, 7)" in verdict(left_in_a_branch).probe


@pytest.mark.parametrize(
    ("wrong", "property", "got", "wanted"),
    [
        (lambda right: None, "returned", "None", "float64 (2, 3)"),
        (lambda right: [right], "type", "1 item, [float64 (2, 3)]", "a tensor float64 (2, 3)"),
        (lambda right: right.mean().item(), "type", "a float", "a tensor float64 (2, 3)"),
        (lambda right: right[:, :-1], "shape", "(2, 2)", "(2, 3)"),
        (lambda right: right.half(), "dtype", "float16", "float64"),
        (lambda right: right / 0, "finite", "inf", ""),
        (lambda right: right.where(right < right.max(), torch.nan), "finite", "nan", ""),
        (lambda right: right * 1.00001, "values", "", ""),
        (lambda right: right.numpy(), "type", "ndarray", "a tensor float64 (2, 3)"),
        (lambda right: right.to_sparse(), "type", "torch.sparse_coo tensor", "a tensor float64 (2, 3)"),
    ],
)
def test_the_property_that_fails_is_named_with_what_was_got_and_wanted(wrong, property, got, wanted):
    found = verdict(lambda *args, **kwargs: wrong(step_answer(*args, **kwargs)))
    assert (found.status, found.property) == ("wrong", property)
    assert got in found.got and wanted in found.wanted
    assert found.probe.startswith("step(state float64 (2, 3)")


def test_the_first_property_that_fails_is_the_one_reported():
    def wrong_in_value_then_in_shape(state, k, v, beta):
        return (step_answer(state, k, v, beta) if len(k) < 5 else state.T) + 1

    assert verdict(wrong_in_value_then_in_shape).property == "shape"
    assert "(5, 7)" in verdict(wrong_in_value_then_in_shape).probe


def test_the_smallest_probe_that_shows_a_fault_is_the_one_reported():
    found = verdict(lambda state, k, v, beta: step_answer(state, k, v, beta) + (len(k) > 2))
    assert found.property == "values" and "(3, 2)" in found.probe
    assert "6 of 6 entries" in found.message


def test_the_worst_entry_is_shown_by_its_place():
    def one_entry_off(state, k, v, beta):
        out = step_answer(state, k, v, beta)
        out[1, 0] += 100
        return out

    found = verdict(one_entry_off)
    assert "1 of 6 entries of the result differ, most at [1, 0]" in found.message
    assert float(found.got) - float(found.wanted) == pytest.approx(100, abs=0.1)


def test_a_difference_too_small_for_the_digits_shown_is_said():
    found = verdict(lambda *args, **kwargs: step_answer(*args, **kwargs) * (1 + 1e-7))
    assert re.search(r"\(off by \d\.\de-\d\d\)", found.got)


def test_writing_into_an_argument_is_a_fault_even_if_the_answer_is_right():
    def careless(state, k, v, beta):
        out = step_answer(state, k, v, beta)
        v.mul_(2)
        return out

    found = verdict(careless)
    assert found.property == "inputs" and "`v`" in found.message


def test_known_mistakes_are_called_by_name_and_others_are_not():
    by_name = {mistake.name: mistake for mistake in find("toy.step").mistakes}
    for name, mistake in by_name.items():
        found = verdict(mistake.fn)
        assert (found.status, found.mistake, found.look) == ("mistake", name, mistake.look)
        assert f"This is {name}: {mistake.look}" in found.lines()
    sometimes = verdict(
        lambda state, k, v, beta: (step_answer if len(k) == 5 else by_name["the update that never erases"].fn)(
            state, k, v, beta
        )
    )
    assert (sometimes.status, sometimes.mistake) == ("wrong", "")


def test_whole_numbers_and_masks_must_be_exact():
    assert verdict(lambda t, window: find("toy.mask").reference(t, window).float(), "toy.mask").property == "dtype"
    off = verdict(lambda x: {"mean": x.mean(), "rest": (x - x.mean(), 3)}, "toy.moments")
    assert (off.property, off.got, off.wanted) == ("values", "3", "2") and "item 1 of 'rest'" in off.message


def test_nested_answers_are_compared_by_what_they_hold():
    Moments = namedtuple("Moments", "mean rest")
    right = find("toy.moments").reference
    assert verdict(lambda x: Moments(**right(x)), "toy.moments").status == "pass"
    assert verdict(lambda x: dict(reversed(right(x).items())), "toy.moments").status == "pass"
    short = verdict(lambda x: {**right(x), "rest": right(x)["rest"][:1]}, "toy.moments")
    assert short.property == "type" and short.got.startswith("1 item,") and short.wanted.startswith("2 items,")
    keys = verdict(lambda x: {"mean": x.mean()}, "toy.moments")
    assert (keys.property, keys.got, keys.wanted) == ("type", "['mean']", "['mean', 'rest']")
    assert verdict(lambda x: {**right(x), "rest": (x, None)}, "toy.moments").property == "returned"


def differs(got, wanted, scalar=torch.float64):
    return [fault.property for fault in faults(plain(got), plain(wanted), course.TOLERANCE, scalar)]


def test_values_are_as_precise_as_their_dtype():
    for dtype, tolerance in course.TOLERANCE.items():
        wanted = torch.tensor([1.0, -250.0], dtype=torch.complex128 if dtype.is_complex else torch.float64)
        if dtype.itemsize < 8 and not dtype.is_complex:
            wanted = wanted.to(dtype)
        assert differs((wanted * (1 + tolerance / 2)).to(dtype), wanted.to(dtype)) == []
        assert differs((wanted * (1 + tolerance * 4)).to(dtype), wanted.to(dtype)) == ["values"]
    assert differs(1.0 + 1e-6, 1.0) == ["values"]
    assert differs(1.0 + 1e-6, 1.0, scalar=torch.float32) == []


def test_infinities_belong_where_the_reference_has_them():
    inf, nan = torch.inf, torch.nan
    wanted = torch.tensor([0.0, -inf, nan])
    assert differs(wanted.clone(), wanted) == []
    assert differs(torch.tensor([0.0, inf, nan]), wanted) == ["values"]
    assert differs(torch.tensor([0.0, -1e30, nan]), wanted) == ["values"]
    assert differs(torch.tensor([0.0, -inf, 0.0]), wanted) == ["values"]
    assert differs(torch.tensor([nan, -inf, nan]), wanted) == ["finite"]


def test_numbers_are_compared_as_numbers_but_truth_is_no_number():
    assert differs(2, 2.0) == [] and differs(2.0, 2) == ["type"]
    assert differs(True, 1.0) == ["type"] and differs(True, 1) == ["type"] and differs(1, True) == ["type"]
    assert differs(torch.tensor(2.0), 2.0) == ["type"]
    assert differs(10**5000, 1.0) == ["finite"] and differs(10**5000, 7) == ["values"]
    assert differs([1, 2], (1, 2)) == [] and differs([1, 3], (1, 2)) == ["values"]
    assert differs("b", "a") == ["values"] and differs(None, None) == []
    assert differs(torch.zeros(0, 3), torch.zeros(0, 3)) == [] and differs(torch.zeros(0), torch.zeros(1)) == ["shape"]
