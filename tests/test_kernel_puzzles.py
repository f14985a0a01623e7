"""The puzzles of the kernel lab: what is counted, what the score says, and what the solutions become on a GPU."""

import pytest
import torch

import kernels
from labkit.course import Todo, exercise, find
from labkit.course.attempts import verdict_on
from labkit.course.running import outcome
from labkit.kernel_lab.exercises import EXERCISES
from labkit.kernel_lab.exercises.cases import cases
from labkit.kernel_lab.exercises.first import launch_scale_rows, scale_rows_through_memory
from labkit.kernel_lab.metered import READ, WRITTEN, metered, score, score_text
from labkit.kernel_lab.races import races
from labkit.kernel_lab.report import compile_report
from labkit.kernel_lab.tiles import trace

triton, tl = kernels.need()
interpreted = pytest.mark.skipif(kernels.WHERE != "interpreted", reason="only interpreted kernels can be counted")
SOFTMAX = find("kernel_lab.softmax")

# The mistakes that only the score can tell: id, function, elements read and written beyond the least on the last probe.
WASTEFUL = [
    ("scale_rows", "scale_rows_through_memory", 44, 44),
    ("transpose", "transpose_whole_rows_of_tiles", 15, 15),
    ("softmax", "softmax_reads_thrice", 66, 0),
    ("softmax", "softmax_divides_in_memory", 33, 33),
    ("column_sums", "column_sums_in_memory", 12, 12),
    ("online_softmax", "online_softmax_in_three_passes", 22, 0),
    ("matmul", "matmul_in_memory", 13 * 37 * 3, 13 * 37 * 3),
    ("linear_attention", "linear_attention_loads_twice", 2 * (2 * 19 * 16 + 16 * 16), 0),
]


@interpreted
@pytest.mark.parametrize("asked", EXERCISES, ids=lambda asked: asked.name)
def test_the_least_that_is_asked_for_is_what_the_solution_moves(asked, monkeypatch):
    monkeypatch.setattr("labkit.kernel_lab.metered.max", lambda _, beyond: beyond, raising=False)  # not clamped at 0
    for probe in asked.probes(0):
        got = outcome(asked.answer(asked.reference), probe).value
        assert (got[READ], got[WRITTEN]) == (0, 0)


@interpreted
@pytest.mark.parametrize("name, wasteful, read, written", WASTEFUL)
def test_a_wasteful_kernel_is_right_and_only_the_score_tells(name, wasteful, read, written):
    asked = find(f"kernel_lab.{name}")
    fn = next(mistake.fn for mistake in asked.mistakes if mistake.fn.__name__ == wasteful)
    for probe in [given for given in asked.probes(0) if given.args[0].dtype == torch.float32]:
        got, wanted = (outcome(asked.answer(f), probe).value for f in (fn, asked.reference))
        for key in wanted.keys() - {READ, WRITTEN}:
            torch.testing.assert_close(got[key], wanted[key])
    assert (got[READ], got[WRITTEN]) == (read, written)
    found = verdict_on(asked, fn)
    assert "beyond the least" in found.message and found.wanted == "0"


@interpreted
@pytest.mark.parametrize("asked", EXERCISES, ids=lambda asked: asked.name)
def test_the_programs_of_a_solution_do_not_depend_on_their_order(asked):
    for probe in asked.probes(0):
        with trace() as log:
            outcome(asked.answer(asked.reference), probe)
        assert log and races(log) == []


@interpreted
def test_the_mistake_that_is_called_a_race_is_one():
    asked = find("kernel_lab.column_sums")
    with trace() as log:
        outcome(asked.answer(asked.mistakes[0].fn), asked.probes(0)[-1])
    assert [(race.name, race.kind) for race in races(log)] == [("out", "both store")]


@interpreted
def test_moving_less_than_the_least_costs_nothing():
    generous = metered(launch_scale_rows, lambda x, scale, BLOCK: (1000, 1000))
    got = generous(scale_rows_through_memory)(torch.ones(2, 3), torch.ones(2), BLOCK=4)
    assert (got[READ], got[WRITTEN]) == (0, 0)


@interpreted
def test_an_entry_that_every_lane_of_a_load_asks_for_counts_once():
    def scale_rows(x, scale, out, m, BLOCK: "tl.constexpr"):
        col = tl.arange(0, BLOCK)
        here = tl.program_id(0) * m + col
        factor = tl.load(scale + tl.program_id(0) + 0 * col)
        tl.store(out + here, factor * tl.load(x + here, mask=col < m), mask=col < m)

    assert verdict_on(find("kernel_lab.scale_rows"), scale_rows).status == "pass"


@interpreted
def test_an_atomic_counts_as_read_and_written():
    def scale_rows(x, scale, out, m, BLOCK: "tl.constexpr"):
        col = tl.arange(0, BLOCK)
        tl.atomic_add(out + tl.program_id(0) * m + col, tl.load(x + tl.program_id(0) * m + col, mask=col < m), col < m)

    got = metered(launch_scale_rows, lambda x, scale, BLOCK: (6, 6))(scale_rows)(
        torch.ones(2, 3), torch.ones(2), BLOCK=4
    )
    assert (got[READ], got[WRITTEN]) == (6, 0)


@interpreted
def test_a_kernel_that_writes_into_its_input_is_noticed():
    def scale_rows(x, scale, out, m, BLOCK: "tl.constexpr"):
        col = tl.arange(0, BLOCK)
        here = tl.program_id(0) * m + col
        tl.store(x + here, tl.load(scale + tl.program_id(0)) * tl.load(x + here, mask=col < m), mask=col < m)

    asked = find("kernel_lab.scale_rows")
    assert outcome(asked.answer(scale_rows), asked.probes(0)[-1]).changed == (0,)


TABLE = """softmax(x float32 (3, 11), BLOCK=16): your kernel
tensor  loads  least  stores  least  bytes  least
x          33     33       0      0    132    132
out        33      0      66     33    396    132
all        66     33      66     33    528    264"""


@interpreted
def test_the_score_shows_tensor_by_tensor_what_is_moved_beyond_the_least(capsys):
    wasteful = SOFTMAX.mistakes[-1].fn
    assert score_text(SOFTMAX.id, wasteful) == TABLE

    @exercise(SOFTMAX.id)
    def softmax(x, out, m, BLOCK: "tl.constexpr"):
        col = tl.arange(0, BLOCK)
        here, inside = tl.program_id(0) * m + col, col < m
        values = tl.load(x + here, mask=inside, other=-float("inf"))
        weights = tl.exp(values - tl.max(values, 0))
        tl.store(out + here, weights, mask=inside)
        tl.store(out + here, tl.load(out + here, mask=inside) / tl.sum(weights, 0), mask=inside)

    score(SOFTMAX.id, softmax)
    assert capsys.readouterr().out == TABLE + "\n"


@interpreted
def test_a_tensor_goes_by_the_name_in_the_specification_whatever_the_learner_calls_it():
    def softmax(p, result, m, BLOCK: "tl.constexpr"):
        tl.store(result + tl.arange(0, BLOCK), 1.0, mask=tl.arange(0, BLOCK) < m)

    said = score_text(SOFTMAX.id, softmax).splitlines()
    assert said[2].split() == ["x", "0", "33", "0", "0", "0", "132"]
    assert said[3].split() == ["out", "0", "0", "33", "33", "132", "132"]


@interpreted
def test_the_score_of_a_kernel_that_is_not_written_or_stops_says_so():
    @exercise(SOFTMAX.id)
    def softmax(x, out, m, BLOCK: "tl.constexpr"):
        raise Todo

    said = score_text(SOFTMAX.id, softmax)
    assert said.startswith("softmax(x float32 (3, 11), BLOCK=16): not written yet, this is the reference\n")
    assert said.splitlines()[-1].split() == ["all", "33", "33", "33", "33", "264", "264"]
    (stops,) = [known.fn for known in SOFTMAX.mistakes if known.name == "the row taken to be as long as the block"]
    assert "no score, the kernel stops with OutOfBounds" in score_text(SOFTMAX.id, stops)


@pytest.mark.parametrize("where", ["compiled", "nowhere"])
def test_where_nothing_can_be_watched_the_score_says_so(where, monkeypatch):
    monkeypatch.setattr(kernels, "WHERE", where)
    assert score_text(SOFTMAX.id, SOFTMAX.reference).startswith(
        "kernel_lab.softmax: only interpreted kernels are scored"
    )


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
def test_every_solution_compiles_and_keeps_its_numbers_in_registers(target):
    found = {case.name: compile_report(case, target) for case in cases()}
    assert list(found) == [asked.name for asked in EXERCISES]
    assert {name: report.spills for name, report in found.items() if report.spills} == {}
    assert found["matmul"].tensor_core > 0 and found["linear_attention"].tensor_core > 0
