"""Exercises whose answer is a Triton kernel: it is launched on the probes, and whatever it does ends in a verdict."""

import signal
import subprocess
import sys

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from toy import toy_room  # noqa: F401

import kernels
from labkit.course import Exercise, Mistake, Todo, call, exercise, find, launched
from labkit.course.attempts import verdict_on

triton, tl = kernels.need()
interpreted = pytest.mark.skipif(
    kernels.WHERE == "compiled",
    reason="a learner's exceptions are those of the interpreter, and a GPU runs compiled code",
)


def double(x, out, n, BLOCK: "tl.constexpr"):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, 2 * tl.load(x + i, mask=i < n), mask=i < n)


def squares(x, out, n, BLOCK: "tl.constexpr"):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n)
    tl.store(out + i, v * v, mask=i < n)


def doubles_the_first_block(x, out, n, BLOCK: "tl.constexpr"):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, 2 * tl.load(x + i, mask=i < n), mask=i < n)


def doubles_without_end(x, out, n, BLOCK: "tl.constexpr"):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, 2 * tl.load(x + i))


def launch_double(kernel, x, *, block):
    out = torch.full_like(x, torch.nan)
    kernel[(-(-len(x) // block),)](x, out, len(x), block)
    return out


def vectors(seed):
    g = torch.Generator().manual_seed(seed)
    return [call(torch.randn(n, generator=g), block=16) for n in (16, 21)]


DOUBLE = Exercise(
    id="toy.double",
    reference=double,
    probes=vectors,
    mistakes=[
        Mistake("the square", squares, "twice, not times itself"),
        Mistake("the first block alone", doubles_the_first_block, "where does a program begin?"),
        Mistake("the last block taken to be full", doubles_without_end, "mask=i < n"),
    ],
    hints=("What?", "2 x", "load, double, store"),
    minutes=5,
    difficulty=1,
    lines=2,
    through=launched(launch_double),
)


def test_a_right_kernel_passes_whether_or_not_its_learner_knows_triton():
    def with_annotation(x, out, n, BLOCK: tl.constexpr):
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        v = tl.load(x + i, mask=i < n)
        tl.store(out + i, v + v, mask=i < n)

    assert verdict_on(DOUBLE, double).status == "pass"
    assert verdict_on(DOUBLE, with_annotation).status == "pass"
    assert verdict_on(DOUBLE, triton.jit(with_annotation)).status == "pass"


@interpreted
def test_an_unwritten_kernel_is_to_do_and_a_todo_left_behind_is_pointed_out():
    def untouched(x, out, n, BLOCK: "tl.constexpr"):
        """A docstring is no code of the learner's."""
        raise Todo

    def left_after_the_code(x, out, n, BLOCK: "tl.constexpr"):
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(out + i, i, mask=i < n)
        raise Todo

    assert "put about 2 lines in place of `raise Todo`" in verdict_on(DOUBLE, untouched).message
    assert "still there, after your code" in verdict_on(DOUBLE, left_after_the_code).message


@interpreted
def test_known_mistakes_are_called_by_name():
    for mistake in DOUBLE.mistakes:
        found = verdict_on(DOUBLE, mistake.fn)
        assert (found.status, found.mistake) == ("mistake", mistake.name)
    assert verdict_on(DOUBLE, doubles_the_first_block).property == "finite"


@interpreted
def test_an_access_out_of_bounds_names_the_program_and_the_learners_line():
    found = verdict_on(DOUBLE, doubles_without_end)
    assert "OutOfBounds: doubles_without_end, program (1, 0, 0): a load of 16 lanes has 11" in found.message
    assert found.message.endswith("at line 3 of doubles_without_end: `tl.store(out + i, 2 * tl.load(x + i))`")
    assert verdict_on(DOUBLE, double).status == "pass"


@triton.jit
def breaks(i):
    raise OverflowError("too much")


@interpreted
def test_an_exception_in_a_kernel_is_the_learners_own_at_the_learners_line():
    def divides(x, out, n, BLOCK: "tl.constexpr"):
        i = tl.arange(0, BLOCK)
        return i + 1 // 0

    def mistypes(x, out, n, BLOCK: "tl.constexpr"):
        tl.arrange(0, BLOCK)

    def calls_another(x, out, n, BLOCK: "tl.constexpr"):
        breaks(n)

    def takes_less(x, out):
        pass

    def leaves(x, out, n, BLOCK: "tl.constexpr"):
        raise SystemExit(3)

    found = verdict_on(DOUBLE, divides)
    assert found.message == (
        "ZeroDivisionError: integer division or modulo by zero at line 3 of divides: `return i + 1 // 0`"
    )
    assert verdict_on(DOUBLE, mistypes).message.startswith("AttributeError: module 'triton.language' has no attribute")
    assert verdict_on(DOUBLE, mistypes).message.endswith("at line 2 of mistypes: `tl.arrange(0, BLOCK)`")
    assert verdict_on(DOUBLE, calls_another).message.startswith("OverflowError: too much at")
    assert verdict_on(DOUBLE, leaves).message.startswith("SystemExit: 3 at line 2 of leaves")
    assert verdict_on(DOUBLE, takes_less).message.startswith("TypeError: ")
    assert verdict_on(DOUBLE, double).status == "pass"


@interpreted
def test_a_kernel_without_an_end_is_stopped_and_an_interrupt_is_an_interrupt():
    def endless(x, out, n, BLOCK: "tl.constexpr"):
        while True:
            n += 1

    def interrupted(x, out, n, BLOCK: "tl.constexpr"):
        signal.raise_signal(signal.SIGINT)

    found = verdict_on(DOUBLE, endless, seconds=0.3)
    assert found.status == "timeout" and "not done after 0.3 s at line " in found.message and "endless" in found.message
    with pytest.raises(KeyboardInterrupt):
        verdict_on(DOUBLE, interrupted)
    assert verdict_on(DOUBLE, double).status == "pass"


@interpreted
def test_writing_into_an_input_is_noticed():
    def careless(x, out, n, BLOCK: "tl.constexpr"):
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(out + i, 2 * tl.load(x + i, mask=i < n), mask=i < n)
        tl.store(x + i, i, mask=i < n)

    assert verdict_on(DOUBLE, careless).property == "inputs"


@pytest.mark.parametrize("where", ["compiled", "nowhere"])
def test_what_no_compiler_would_raise_is_found_in_the_code(where, monkeypatch):
    def untouched(x, out, n, BLOCK: "tl.constexpr"):
        raise Todo

    monkeypatch.setattr(kernels, "WHERE", where)
    assert verdict_on(DOUBLE, untouched).status == "todo"


def test_where_triton_does_not_exist_that_is_said_and_no_mistake_is_blamed(monkeypatch):
    monkeypatch.setattr(kernels, "WHERE", "nowhere")
    found = verdict_on(DOUBLE, squares)
    assert (found.status, found.mistake) == ("error", "")
    assert found.message == "ImportError: squares is a Triton kernel, and Triton does not exist on this platform"


def test_a_room_with_a_kernel_exercise_opens_where_triton_does_not_exist():
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "from labkit.course import exercises, find\n"
        "from labkit.course.attempts import verdict_on\n"
        "print(*(verdict_on(asked, asked.reference).status for asked in exercises('delta_rule')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["pass"] * 7 + ["error"], done.stderr


@pytest.mark.gpu
def test_on_a_gpu_the_result_comes_back_to_where_the_inputs_are():
    if kernels.WHERE != "compiled":
        pytest.skip("no GPU here")
    out = DOUBLE.answer(double)(torch.ones(21), block=16)
    assert out.device.type == "cpu" and torch.equal(out, 2 * torch.ones(21))


# In a lesson


@interpreted
@pytest.mark.usefixtures("toy_room")
def test_in_a_lesson_the_name_is_a_function_of_tensors_written_or_not(capsys):
    asked = find("delta_rule.read_chunk")
    probe = asked.probes(0)[-1]
    right = asked.answer(asked.reference)(*probe)

    @exercise("delta_rule.read_chunk")
    def read_chunk(q, w, errors, states, out, t, D: "tl.constexpr", CHUNK: "tl.constexpr"):
        """The learner's own text."""
        raise Todo

    for _ in range(2):
        assert torch.equal(read_chunk(*probe), right)
    assert capsys.readouterr().out == "○ read_chunk: not written yet, the reference answers\n"
    assert read_chunk.__doc__ == "The learner's own text."

    @exercise("delta_rule.read_chunk")
    def read_chunk(q, w, errors, states, out, t, D: "tl.constexpr", CHUNK: "tl.constexpr"):
        pass

    assert read_chunk(*probe).isnan().all()


HEAD = '@exercise("delta_rule.read_chunk")\ndef read_chunk(q, w, errors, states, out, t, D: "tl.constexpr", CHUNK: "tl.constexpr"):\n'
ROWS = "    i = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)[:, None]\n"


@interpreted
def test_in_a_real_kernel_a_cell_is_told_its_own_line_and_survives(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_WORK", str(tmp_path))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    CHECK = 'check("delta_rule.read_chunk")'
    cells = [
        "from labkit.course import *\nimport kernels\ntriton, tl = kernels.need()",
        HEAD + "    raise Todo", CHECK,
        HEAD + ROWS + "    raise Todo", CHECK,
        HEAD + ROWS + "    tl.store(out + i + 10**12, 1.0)", CHECK,
        HEAD + ROWS + "    while t == t:\n        i += 1", 'check("delta_rule.read_chunk", seconds=1)',
        HEAD + ROWS + "    raise ValueError('no idea')", CHECK,
        'read_chunk(*find("delta_rule.read_chunk").probes(0)[0])',
        "'alive'",
    ]  # fmt: skip
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=True).execute()
    said = [cell.outputs[0] if cell.outputs else {} for cell in notebook.cells]
    text = [output.get("data", {}).get("text/plain", "") for output in said]
    assert "put about 10 lines in place of `raise Todo`" in text[2]
    assert "still there, after your code" in text[4]
    assert "OutOfBounds: read_chunk, program (0, 0, 0): a store of " in text[6]
    assert "at line 4 of read_chunk: `tl.store(out + i + 10**12, 1.0)`" in text[6]
    assert "not done after 1 s at line " in text[8]
    assert "ValueError: no idea at line 4 of read_chunk: `raise ValueError('no idea')`" in text[10]
    assert (said[11].ename, said[11].evalue) == ("ValueError", "no idea")
    assert text[12] == "'alive'"
