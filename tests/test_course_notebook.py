"""What a lesson calls, on the made-up room: exercise, check, hints, guesses, progress, claims; and a real kernel."""

import html
import json
import re
import subprocess
import sys

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from toy import ROOMS, renamed, step_answer, toy_room  # noqa: F401

from labkit import course
from labkit.course import Call, Todo, check, claim, exercise, find, predict, reveal
from labkit.course.show import Message
from labkit.course.store import record

pytestmark = pytest.mark.usefixtures("toy_room")


def test_unwritten_the_reference_answers_and_says_so_once(capsys):
    @exercise("toy.step")
    def step(state, k, v, beta):
        """The learner's own text."""
        raise Todo

    probe: Call = find("toy.step").probes(0)[0]
    for _ in range(2):
        assert torch.allclose(step(*probe.args, **probe.kwargs), step_answer(*probe.args, **probe.kwargs))
    assert capsys.readouterr().out == "○ step: not written yet, the reference answers\n"
    assert step.__doc__ == "The learner's own text."


def test_written_it_is_the_learners_code_that_answers_and_fails():
    @exercise("toy.step")
    def step(state, k, v, beta):
        return state[7]

    with pytest.raises(IndexError):
        step(torch.ones(2, 2), torch.ones(2), torch.ones(2), 0.5)
    with pytest.raises(ValueError, match=r"toy\.step: the function is called step, not stop"):

        @exercise("toy.step")
        def stop():
            raise Todo


def test_a_check_shows_its_verdict_and_records_it(capsys):
    check("toy.mask")
    assert capsys.readouterr().out == "○ toy.mask: run the cell that defines mask first, then this one\n"
    exercise("toy.mask")(renamed(lambda t, window: torch.ones(t, t), "mask"))
    check("toy.mask")
    said = capsys.readouterr().out
    assert said == (
        "✗ toy.mask: wrong dtype\n  the result has the wrong dtype\n"
        "  on mask(t=3, window=1): got float32, wanted bool\n"
    )
    assert "✗ not right yet" in course.progress_text("toy")
    exercise("toy.mask")(find("toy.mask").reference)
    assert check("toy.mask") is None
    assert capsys.readouterr().out == "✓ toy.mask: pass\n  all 4 probes agree\n"
    assert "toy.mask     ✓ pass" in course.progress_text("toy")


def test_hints_come_one_after_another_and_the_solution_is_the_source(capsys):
    for _ in range(4):
        course.hint("toy.step")
    course.hint("toy.step", level=1)
    titles = re.findall(r"^· .*", capsys.readouterr().out, re.M)
    assert titles == [f"· toy.step: hint {n} of 3" for n in (1, 2, 3, 3, 1)]
    assert course.hint_text("toy.step", 2) == "S ← S + β k (v − Sᵀk)ᵀ"
    with pytest.raises(ValueError, match="level: expected 1 to 3"):
        course.hint_text("toy.step", 4)
    course.solve("toy.step")
    assert capsys.readouterr().out.startswith("def step(state: Tensor")
    assert course.solve_text("toy.step").endswith('- recalled, "dk, dv -> dk dv")')


def test_text_of_a_learner_or_a_model_is_no_html():
    text = "<script>alert(1)</script> & `a<b`"
    shown = Message("bad", text, (text,)).html()
    assert "<script>" not in shown and html.escape("<script>") in shown and "<code>a&lt;b</code>" in shown
    assert text in Message("bad", text).text()


def test_a_guess_is_told_beside_what_was_measured(capsys):
    predict("toy.loss", "By what factor?")
    reveal("toy.loss", 2.13)
    predict("toy.loss", "By what factor?", 1000)
    reveal("toy.loss", torch.tensor(2.13))
    predict("toy.loss", "By what factor?", 2.13)
    reveal("toy.loss", 2.1301)
    predict("toy.loss", "By what factor?", 0.5)
    reveal("toy.loss", 2)
    predict("toy.loss", "By what factor?", -1)
    reveal("toy.loss", 2)
    predict("toy.loss", "By what factor?", None)
    reveal("toy.loss", 2)
    assert capsys.readouterr().out.splitlines() == [
        "○ By what factor?", "  no guess yet: put a number in place of None and run this cell",
        "· toy.loss: measured 2.13", "  no guess was made",
        "· By what factor?", "  your guess: 1,000",
        "· toy.loss: measured 2.13, you guessed 1,000", "  469 times too large",
        "· By what factor?", "  your guess: 2.13", "· toy.loss: measured 2.13, you guessed 2.13", "  right",
        "· By what factor?", "  your guess: 0.5", "· toy.loss: measured 2, you guessed 0.5", "  4 times too small",
        "· By what factor?", "  your guess: -1", "· toy.loss: measured 2, you guessed -1", "  off by 3",
        "○ By what factor?", "  no guess yet: put a number in place of None and run this cell",
        "· toy.loss: measured 2", "  no guess was made",
    ]  # fmt: skip
    for bad in ("many", True, torch.nan):
        with pytest.raises(ValueError, match="guess: expected a number"):
            predict("toy.loss", "?", bad)


# Progress


def test_progress_is_counted_by_room_and_what_was_solved_stays_solved(capsys):
    exercise("toy.mask")(find("toy.mask").reference)
    check("toy.mask")
    exercise("toy.mask")(renamed(lambda t, window: None, "mask"))
    check("toy.mask")
    predict("toy.loss", "?", 3)
    capsys.readouterr()
    course.progress("toy")
    assert capsys.readouterr().out == (
        "exercise     status       difficulty  minutes\n"
        "toy.step     ○ not tried  2 of 5      10\n"
        "toy.mask     ✓ pass       1 of 5      5\n"
        "toy.moments  ○ not tried  1 of 5      5\n"
    )
    course.progress()
    assert re.search(r"^toy +1 of 3 +20$", capsys.readouterr().out, re.M)
    assert course.progress_text().count("toy.mask") == 1


@pytest.mark.parametrize("damage", [b"", b"{not json", b"[1]", b'{"exercises": 3}', b"\xff\xfe\x00"])
def test_a_damaged_progress_file_is_set_aside_and_the_lesson_goes_on(damage, tmp_path, capsys):
    (tmp_path / "progress.json").write_bytes(damage)
    exercise("toy.mask")(find("toy.mask").reference)
    check("toy.mask")
    assert "is kept as progress.unreadable-1.json" in capsys.readouterr().out
    assert (tmp_path / "progress.unreadable-1.json").read_bytes() == damage
    assert json.loads((tmp_path / "progress.json").read_text())["exercises"] == {"toy.mask": "pass"}
    assert not list(tmp_path.glob(".progress-*"))


def test_two_notebooks_that_write_at_once_lose_nothing(tmp_path):
    write = "for i in range(60): record('guesses', f'{name}.{i}', i)"
    start = "import sys; from labkit.course.store import record; print('ready', flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{start}\nname = 'theirs'\n{write}"], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "ready\n"
        exec(write, {"record": record, "name": "mine"})
    assert other.returncode == 0
    assert len(json.loads((tmp_path / "progress.json").read_text())["guesses"]) == 120


def test_progress_that_cannot_be_saved_is_said_and_costs_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LABKIT_WORK", str(tmp_path / "file"))
    exercise("toy.mask")(find("toy.mask").reference)
    check("toy.mask")
    said = capsys.readouterr().out
    assert "✓ toy.mask: pass" in said and "progress was not saved" in said


# In a real kernel


def executed(folder, *cells):
    """A notebook of these cells, run in a kernel of its own."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def test_in_a_real_kernel_a_lesson_survives_endless_loops_and_exits_and_keeps_its_claims(tmp_path):
    notebook = executed(
        tmp_path,
        f"import labkit; labkit.__path__.append({ROOMS!r})\n"
        "from labkit.course import *",
        '@exercise("toy.step")\ndef step(state, k, v, beta):\n    while True:\n        state = state + 1',
        'check("toy.step", seconds=0.5)',
        '@exercise("toy.step")\ndef step(state, k, v, beta):\n    import sys\n    sys.exit(3)',
        'check("toy.step")',
        '@exercise("toy.step")\ndef step(state, k, v, beta):\n    raise ValueError("<script>alert(1)</script>")',
        'check("toy.step")',
        '@exercise("toy.step")\ndef step(state, k, v, beta):\n    x = state\n    raise Todo',
        'check("toy.step")',
        'claim("toy.grows", paper="Doe 2020, §2", says="a | b", measured=3.14159, holds=True, on="toys")\n'
        'claim("toy.ends", paper="Doe 2020", says="it ends", measured="never", holds=1 > 2, why="the toy is small")',
        "import os, signal, threading\n"
        "threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "try:\n    [None for _ in iter(int, 1)]\nexcept KeyboardInterrupt:\n    print('an interrupt is an interrupt')",
        '@exercise("toy.step")\ndef step(state, k, v, beta):\n'
        "    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n    while True: pass",
        'try:\n    check("toy.step")\nexcept KeyboardInterrupt:\n    print("so it is in a check")',
    )  # fmt: skip
    said = [cell.outputs for cell in notebook.cells]
    text = ["".join(o["data"]["text/plain"] if "data" in o else o["text"] for o in outputs) for outputs in said]
    assert "not done after 0.5 s at line 4 of step: `state = state + 1`" in text[2] or "`while True:`" in text[2]
    assert "SystemExit: 3 at line 4 of step: `sys.exit(3)`" in text[4]
    assert "ValueError: <script>alert(1)</script> at line 3 of step" in text[6]
    assert "<script>" not in said[6][0]["data"]["text/html"]
    assert "`raise Todo` is still there, after your code" in text[8]
    assert text[9] == (
        "✓ holds: toy.grows\n  Doe 2020, §2 says: a | b\n  measured: 3.14 (toys)"
        "✗ does not show here: toy.ends\n  Doe 2020 says: it ends\n  measured: never. the toy is small"
    )
    assert text[10] == "an interrupt is an interrupt\n" and text[12] == "so it is in a check\n"

    path = tmp_path / "lesson.ipynb"
    nbformat.write(notebook, path)
    kept = course.claims([path])
    assert kept == [
        course.Claim("toy.grows", "Doe 2020, §2", "a | b", "3.14", True, "toys", "", "lesson"),
        course.Claim("toy.ends", "Doe 2020", "it ends", "never", False, "", "the toy is small", "lesson"),
    ]
    table = course.claims_table(kept).splitlines()
    assert table[2] == r"| Doe 2020, §2 | toy.grows | a \| b | 3.14 | toys | ✓ holds |"
    assert table[3].endswith("| ✗ does not show here. the toy is small |")


def test_a_notebook_whose_claims_cannot_be_read_is_named(tmp_path):
    (tmp_path / "half.ipynb").write_text('{"cells": [')
    with pytest.raises(ValueError, match=r"half\.ipynb: its claims cannot be read"):
        course.claims([tmp_path / "half.ipynb"])


def test_a_claim_takes_a_text_or_one_number(capsys):
    claim("toy.x", paper="P", says="s", measured=torch.tensor(1234.5), holds=True)
    assert "measured: 1,230\n" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"toy\.x: measured: expected a text or one number, got list"):
        claim("toy.x", paper="P", says="s", measured=[1, 2], holds=True)
