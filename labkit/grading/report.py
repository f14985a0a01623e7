"""What a teacher reads: a table on the screen, JSON and CSV for everything else, and one number for a script."""

import csv
import io
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.course.show import grid

from .grade import Graded, Result, grade

FIELDS = ("notebook", "exercise", "status", "points", "of", "mistake", "message", "flags")


def grade_with_a_bar(paths: Sequence[Path], *, seed: int | None = None) -> list[Graded]:
    """Grade, with a bar on a terminal, on standard error so that what is printed can go to a file."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("grading", total=len(paths))
        return grade(paths, seed=seed, tick=lambda one: bar.update(task, advance=1, description=one.path.name))


def save(file: Path, text: str) -> None:
    """The whole text under this name, or what was there before."""
    try:
        handle, half = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    except OSError as error:
        raise OSError(f"{file} cannot be written ({error.strerror}): name a file in a folder that is there") from None
    with os.fdopen(handle, "w", encoding="utf8") as out:
        out.write(text)
    os.replace(half, file)


def report(graded: Sequence[Graded]) -> str:
    """Every notebook with its exercises, then a line for each notebook where there are several."""
    parts = [_notebook(one) for one in graded]
    if len(graded) > 1:
        rows = [["notebook", "points", "passed", "problem"]]
        for one in graded:
            passed = sum(result.verdict.status == "pass" for result in one.results)
            points, solved = (
                (f"{one.points} of {one.of}", f"{passed} of {len(one.results)}") if one.results else ("", "")
            )
            rows.append([str(one.path), points, solved, one.problem])
        parts.append(grid(rows))
    return "\n\n".join(parts)


def as_json(graded: Sequence[Graded]) -> str:
    """The same as JSON: a list of notebooks, each with its exercises."""
    found = [
        {
            "notebook": str(one.path), "points": one.points, "of": one.of, "problem": one.problem,
            "notes": list(one.notes), "exercises": [row for row in _rows(one) if row["exercise"]],
        }
        for one in graded
    ]  # fmt: skip
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def as_csv(graded: Sequence[Graded]) -> str:
    """The same as CSV, a line for each exercise; a notebook that could not be graded has one, of status "error"."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    for one in graded:
        writer.writerows({key: _harmless(value) for key, value in row.items()} for row in _rows(one))
    return out.getvalue()


def status(graded: Sequence[Graded]) -> int:
    """0 when every exercise of every notebook is solved, 1 when some are not, 2 when a notebook could not be graded."""
    if any(one.problem for one in graded):
        return 2
    return int(any(one.points < one.of for one in graded))


def _rows(one: Graded) -> list[dict[str, Any]]:
    if one.problem:
        return [dict(zip(FIELDS, (str(one.path), "", "error", 0, 0, "", one.problem, ""), strict=True))]
    return [
        dict(zip(FIELDS, (str(one.path), r.id, r.verdict.status, r.points, r.difficulty, r.verdict.mistake,
                          " · ".join(r.verdict.lines()), "; ".join(r.flags)), strict=True))
        for r in one.results
    ]  # fmt: skip


def _harmless(value: Any) -> Any:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t")) else value


def _notebook(one: Graded) -> str:
    if one.problem:
        lines = [f"{one.path}: {one.problem}"]
    else:
        rows = [["exercise", "", "points", "what was found"]]
        rows += [[r.id, r.verdict.status, f"{r.points} of {r.difficulty}", _short(r)] for r in one.results]
        lines = [f"{one.path}: {one.points} of {one.of} points", grid(rows)]
    return "\n".join([*lines, *one.notes])


def _short(result: Result) -> str:
    said = [f"FLAGGED, no points: it {flag}" for flag in result.flags]
    if result.verdict.mistake:
        said.append(result.verdict.mistake)
    elif result.verdict.status not in ("pass", "todo"):
        said.append(result.verdict.message)
    text = "; ".join(said)
    return text if len(text) <= 110 else f"{text[:107]}..."
