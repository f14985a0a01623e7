"""The lessons as files. Unsolved, `pytest --nbval notebooks` runs them; solved, test_browser.py."""

import ast
import json
import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbformat import NotebookNode

from labkit import build

LESSONS = build.sources()
LINES = 15  # of one cell: what one sees without scrolling
COLUMNS = 104  # of a line of code, likewise, in a window of 1280 pixels with the files beside it
PRINTED = 106  # columns of what is printed: JupyterLab breaks a longer line in the middle of a word
COMPARED = 3  # cells of a lesson whose text nbval compares, at least

each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)


def test_there_are_lessons_and_each_is_built():
    assert LESSONS
    assert {path.stem for path in LESSONS} == {path.stem for path in build.LESSONS.glob("*.ipynb")}


@each_lesson
def test_the_notebook_says_what_its_source_says(lesson: Path):
    assert _text(jupytext.read(lesson)) == _text(_built(lesson)), f"run: labkit build {lesson.stem}"


@each_lesson
def test_the_notebook_was_run_after_the_last_edit_of_its_source(lesson: Path):
    hash_then = _built(lesson).metadata.labkit.source_sha256
    assert hash_then == build.source_sha256(lesson), f"outputs may be stale; run: labkit build {lesson.stem}"


@each_lesson
def test_every_code_cell_was_run_in_order(lesson: Path):
    counts = [cell.execution_count for cell in _code(lesson)]
    assert counts == list(range(1, len(counts) + 1))  # nbval compares nothing where there is no count


@each_lesson
def test_enough_cells_are_really_compared(lesson: Path):
    compared = [cell for cell in _code(lesson) if _compared_text(cell)]
    assert len(compared) >= COMPARED


@each_lesson
def test_no_cell_is_left_out_of_the_run(lesson: Path):
    for cell in _code(lesson):
        assert "nbval-skip" not in _tags(cell) and "NBVAL_SKIP" not in cell.source, cell.source


@each_lesson
def test_a_cell_fails_only_where_the_lesson_means_it(lesson: Path):
    for cell in _code(lesson):
        failed = any(output.output_type == "error" for output in cell.outputs)
        assert failed == ("raises-exception" in _tags(cell)), cell.source


@each_lesson
def test_no_output_is_a_warning(lesson: Path):
    noise = [o.text for cell in _code(lesson) for o in cell.outputs if o.get("name") == "stderr"]
    assert not noise


@each_lesson
def test_the_file_is_light_and_holds_no_state_of_a_machine(lesson: Path):
    text = lesson.with_suffix(".ipynb").read_text(encoding="utf8")
    assert len(text.encode()) <= build.LARGEST
    notebook = _built(lesson)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) == {"kernelspec", "labkit", "language_info"}
    assert "version" not in notebook.metadata.language_info
    assert not any(mime in text for mime in build.LIVE)
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags", "jupyter"}
        visible = json.dumps([cell.source, [_without_pictures(output) for output in cell.get("outputs", [])]])
        visible = visible.replace(r"\n", "\n")
        assert not re.search(r"(?<![\w.~}>])/(root|home|Users|tmp|work|opt|usr)/\w|[A-Z]:\\\\\w", visible), visible


@each_lesson
def test_every_figure_also_speaks_text(lesson: Path):
    for cell in _code(lesson):
        for output in cell.outputs:
            assert "image/png" not in output.get("data", {}) or output.data.get("text/plain", "").strip(), cell.source


@each_lesson
def test_a_cell_fits_on_a_screen_and_hides_nothing(lesson: Path):
    for cell in _code(lesson):
        lines = [line for line in cell.source.splitlines() if line.strip() and not re.match(r"(from|import) ", line)]
        assert len(lines) <= LINES, cell.source
        printed = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
        assert max(map(len, cell.source.splitlines()), default=0) <= COLUMNS, cell.source
        assert max(map(len, printed.splitlines()), default=0) <= PRINTED, cell.source
        called = {
            node.func.id
            for node in ast.walk(ast.parse(cell.source))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"exec", "eval", "compile", "__import__", "get_ipython"}, cell.source


@each_lesson
def test_no_function_is_defined_twice(lesson: Path):
    defined = [
        node.name for cell in _code(lesson) for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef)
    ]
    assert len(defined) == len(set(defined))


@each_lesson
def test_as_it_is_handed_out_every_check_says_to_do(lesson: Path):
    checks = [cell for cell in _code(lesson) if "check" in _tags(cell)]
    for cell in checks:
        assert "todo" in "".join(output.data["text/plain"] for output in cell.outputs if "data" in output)


def _built(lesson: Path) -> NotebookNode:
    return nbformat.read(lesson.with_suffix(".ipynb"), 4)


def _code(lesson: Path) -> list[NotebookNode]:
    return [cell for cell in _built(lesson).cells if cell.cell_type == "code"]


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _text(notebook: NotebookNode) -> list[tuple]:
    return [(cell.cell_type, cell.source, tuple(_tags(cell))) for cell in notebook.cells]


def _compared_text(cell: NotebookNode) -> bool:
    if "nbval-ignore-output" in _tags(cell) or "NBVAL_IGNORE_OUTPUT" in cell.source:
        return False
    return any(output.output_type == "stream" or "text/plain" in output.get("data", {}) for output in cell.outputs)


def _without_pictures(output: NotebookNode) -> dict:
    return {**output, "data": {mime: value for mime, value in output.get("data", {}).items() if mime != "image/png"}}
