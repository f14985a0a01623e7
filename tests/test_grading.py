"""Grading: an honest notebook gets its points, and nothing else gets any."""

import contextlib
import csv
import io
import json
import os
import socket
from pathlib import Path

import nbformat
import psutil
import pytest
import torch
from hostile import HONEST, NOTEBOOKS, STEP, attack
from typer.testing import CliRunner

from labkit import build, grading
from labkit.__main__ import app
from labkit.course import Outcome, find
from labkit.course.plain import Other, same
from labkit.grading import notebook, wire
from labkit.grading.grade import Graded, Judges
from labkit.launch import ROOT

FLAGGED = {
    "reads the judge's files", "writes to the judge's files", "kills", "forks", "starts programs",
    "imports the reference", "imports the mechanism", "swallows the refusal", "searches the memory",
    "goes into the network",
}  # fmt: skip
STATUS = {"sleeps for ever": "timeout", "cannot be interrupted": "timeout", "is no Python": "error", "fails": "error",
          "sys.exit(0)": "error", "os._exit(0)": "error", "returns 200 MB": "error"}  # fmt: skip


def write(path: Path, cells: list[str], outputs: str = "") -> Path:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    if outputs:
        made.cells[0].outputs = [nbformat.v4.new_output("stream", text=outputs)]
    nbformat.write(made, path)
    return path


def one(graded: Graded, id: str = "delta_rule.step"):
    return next(result for result in graded.results if result.id == id)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """What became of every hostile notebook, graded together, and what it left behind."""
    folder, canary = tmp_path_factory.mktemp("class"), tmp_path_factory.mktemp("canary") / "planted"
    before = set(ROOT.rglob("labkit/**/*.py"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        for name, cells in NOTEBOOKS.items():
            root, port = str(ROOT), server.getsockname()[1]
            written = [
                cell.format(canary=str(canary), root=root, port=port) if cell != HONEST else cell for cell in cells
            ]
            write(folder / f"{name.replace(' ', '_')}.ipynb", written)
        found = grading.grade([folder / f"{name.replace(' ', '_')}.ipynb" for name in NOTEBOOKS], seconds=2)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not canary.exists() and not Path("planted-by-labkit").exists()
    assert set(ROOT.rglob("labkit/**/*.py")) == before
    return dict(zip(NOTEBOOKS, found, strict=True))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_an_attack_gains_nothing_and_costs_its_own_exercise_only(attacked, name):
    graded = attacked[name]
    assert graded.problem == "" and one(graded).points == 0, one(graded)
    assert one(graded).verdict.status == STATUS.get(name, one(graded).verdict.status)
    assert one(graded).verdict.status != "pass" or one(graded).flags
    assert bool(one(graded).flags) == (name in FLAGGED), one(graded)
    assert one(graded, "delta_rule.gradient").verdict.status == "pass"


def test_no_process_is_left(attacked):
    names = [" ".join(p.cmdline()) for p in psutil.Process().children(recursive=True)]
    assert not [name for name in names if "sleep" in name]
    groups = {os.getpgid(p.pid) for p in psutil.Process().children(recursive=True)}
    assert groups <= {os.getpgid(0)}, "every attempt had a group of its own, and is gone"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """Every lesson as handed out, and solved."""
    folder = tmp_path_factory.mktemp("course")
    for lesson in build.sources():
        made = build.fresh(lesson)
        nbformat.write(made, folder / f"{lesson.stem}-unsolved.ipynb")
        nbformat.write(build.solved(made), folder / f"{lesson.stem}-solved.ipynb")
    return grading.grade(grading.notebooks([folder]))


def test_a_solved_lesson_has_all_its_points_and_no_flag(course):
    for graded in course:
        if graded.path.stem.endswith("-solved"):
            assert graded.results and graded.points == graded.of > 0
            assert not [result for result in graded.results if result.flags or result.verdict.status != "pass"]


def test_an_unsolved_lesson_is_to_do(course):
    for graded in course:
        if graded.path.stem.endswith("-unsolved"):
            assert graded.points == 0 and {result.verdict.status for result in graded.results} == {"todo"}


def test_a_mistake_has_its_name_and_an_answer_may_lean_on_other_cells(tmp_path):
    cells = [
        "from labkit.course import *\nfrom torch import outer\nfrom math import *\nimport labkit\nSIGN = -1\nk = labkit.lm.load()",
        "%matplotlib inline\n!ls\ndef half(x):\n    return SIGN * x",
        '@exercise("delta_rule.step")\n@torch.no_grad()\ndef step(state, k, v, beta):\n    return state + beta * outer(k, v)\nstep(1)',
        '@exercise("delta_rule.gradient")\ndef gradient(state, k, v):\n    error = v - state.T @ k\n    return half(outer(k, error))',
        '@exercise("delta_rule.no_longer_there")\ndef no_longer_there():\n    raise Todo',
        "import torch",
    ]
    (graded,) = grading.grade([write(tmp_path / "a.ipynb", cells)])
    step, gradient = one(graded), one(graded, "delta_rule.gradient")
    assert step.verdict.status == "mistake" and step.verdict.mistake, step
    assert gradient.verdict.status == "pass" and not gradient.flags and gradient.points == gradient.difficulty
    assert "delta_rule.no_longer_there is no exercise" in graded.notes[0]
    assert one(graded, "delta_rule.errors").verdict.status == "todo"
    assert one(graded, "delta_rule.errors").verdict.message == "the notebook has no cell for it"


def test_an_answer_may_print_and_warn(tmp_path):
    talks = (
        "    import sys, warnings\n    print(state, flush=True)\n    print('x' * 100_000)\n    warnings.warn('slow')\n"
    )
    talks += "    sys.stderr.write('x' * 100_000)\n    sys.stderr.flush()\n    sys.__stdout__.flush()\n"
    (graded,) = grading.grade([write(tmp_path / "a.ipynb", attack(talks + STEP + "    return state\n"))])
    assert one(graded).verdict.status == "pass" and not one(graded).flags, one(graded)


def test_whatever_is_handed_back_can_be_judged():
    """A process that writes its own answer may send any plain data at all."""
    asked = find("delta_rule.step")
    judges, probes = Judges(0), asked.probes(0)
    for value in [*VALUES, {"a": {None: [torch.zeros(0)]}}, torch.zeros(3, 3).to(torch.float8_e5m2)]:
        for n in (0, 1, len(probes)):
            verdict = judges.judge(asked, [Outcome("returned", value, changed=(0, "k", 99, -1))] * n)
            assert verdict.status in ("wrong", "error", "mistake")


def test_what_is_no_notebook_costs_only_itself(tmp_path):
    (tmp_path / "broken.ipynb").write_text('{"cells": [')
    (tmp_path / "list.ipynb").write_text("[1, 2]")
    (tmp_path / "binary.ipynb").write_bytes(b"\xff\xfe\x00" * 100)
    (tmp_path / "deep.ipynb").write_text("[" * 100_000)
    write(tmp_path / "none.ipynb", ["print(1)"])
    write(tmp_path / "right.ipynb", attack(STEP + "    return state\n"), outputs="x" * 20_000_000)
    graded = {one.path.stem: one for one in grading.grade(grading.notebooks([tmp_path]))}
    assert graded["right"].points > 0 and one(graded["right"]).verdict.status == "pass"
    for name in ("broken", "list", "binary", "deep"):
        assert "not a notebook that Jupyter can open" in graded[name].problem
    assert graded["none"].problem == "there is no exercise of the lab in it"
    assert grading.status(list(graded.values())) == 2
    with pytest.raises(FileNotFoundError, match="there is no notebook in"):
        (tmp_path / "empty").mkdir()
        grading.notebooks([tmp_path / "empty"])


def test_hidden_probes_are_others_each_time_and_the_same_for_a_seed(tmp_path, monkeypatch):
    path = write(tmp_path / "a.ipynb", attack("    return torch.full_like(state, float(beta))\n"))
    said = [one(grading.grade([path], seed=seed)[0]).verdict.got for seed in (5, 5, 6)]
    assert said[0] == said[1] != said[2]
    drawn = {one(grading.grade([path])[0]).verdict.wanted for _ in range(2)}
    assert len(drawn) == 2


def test_the_command_writes_table_json_csv_and_an_exit_status(tmp_path):
    folder = tmp_path / "class"
    folder.mkdir()
    write(folder / "=ana.ipynb", attack(STEP + "    return state\n"))
    write(folder / "ben.ipynb", attack("    return state + beta * torch.outer(k, v)\n"))
    files = ["--json", str(tmp_path / "all.json"), "--csv", str(tmp_path / "all.csv")]
    done = CliRunner().invoke(app, ["grade", str(folder), *files])
    assert done.exit_code == 1, done.output
    assert "delta_rule.step" in done.stdout and "3 of 23" in done.stdout.replace("  ", " ")
    told = json.loads((tmp_path / "all.json").read_text())
    assert [one["points"] for one in told] == [3, 2] and told[1]["exercises"][0]["mistake"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "all.csv").read_text())))
    assert len(rows) == 16 and rows[8]["status"] == "mistake" and rows[0]["points"] == "1"
    assert "there is no" in CliRunner().invoke(app, ["grade", str(tmp_path / "nothing")]).stderr
    (folder / "broken.ipynb").write_text("{")
    done = CliRunner().invoke(app, ["grade", str(folder)])
    assert done.exit_code == 2 and "labkit:" not in done.stderr
    assert json.loads(CliRunner().invoke(app, ["grade", str(folder / "ben.ipynb"), "--json", "-"]).stdout)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.csv", "all.json", "class"]


VALUES = [
    None, True, -3, 1 << 200, 0.5, float("inf"), 1 + 2j, "ä\0", [], {}, {"a": [1, {"b": ()}], 3: None},
    torch.zeros(0, 3), torch.tensor(1.5), torch.arange(6).reshape(2, 3).T, torch.randn(2, 3).bfloat16(),
    torch.tensor([True, False]), torch.randn(3, dtype=torch.complex64), [torch.ones(1, dtype=torch.uint8), torch.ones(2).double()],
    Other("module"),
]  # fmt: skip


def test_what_goes_over_the_wire_comes_out_the_same():
    for value in VALUES:
        back = wire.decode(wire.encode(value))
        assert back == value if isinstance(value, Other | dict) else same(back, value), value


def test_no_bytes_break_the_reader():
    whole = wire.encode([torch.randn(3, 4), {"a": 1 + 2j}])
    g = torch.Generator().manual_seed(0)
    for n in range(len(whole)):
        with pytest.raises(wire.Garbled):
            wire.decode(whole[:n])
    for _ in range(2000):
        spoilt = bytearray(whole)
        for at in torch.randint(len(whole), (3,), generator=g).tolist():
            spoilt[at] = int(torch.randint(256, (1,), generator=g))
        with contextlib.suppress(wire.Garbled):
            wire.decode(bytes(spoilt))


def test_an_old_copy_with_the_cell_twice_counts_the_last(tmp_path):
    cells = [
        *attack(STEP + "    return state\n"),
        '@exercise("delta_rule.step")\ndef step(state, k, v, beta):\n    raise Todo',
    ]
    assert notebook.attempts(write(tmp_path / "a.ipynb", cells))["delta_rule.step"].source.endswith("raise Todo\n")
